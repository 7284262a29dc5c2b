"""A home with a P1 meter behind a TCP gateway: one telegram a second in real time, stamped with it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

from gridhe_testing.p1_telegrams import telegram

__all__ = ["P1Home", "telegram_at"]

_ZONE = ZoneInfo("Europe/Amsterdam")


def telegram_at(second: int, import_wh: int, *, device: str = "A", export_wh: int = 0) -> bytes:
    """The telegram of a moment (UTC epoch seconds)."""
    local = datetime.fromtimestamp(second, _ZONE)
    season = "S" if local.dst() else "W"
    return telegram(
        _1_0_0=f"0-0:1.0.0({local:%y%m%d%H%M%S}{season})",
        _96_1_1=f"0-0:96.1.1({device.encode().hex()})",
        _1_8_1=f"1-0:1.8.1({import_wh / 1000:010.3f}*kWh)",
        _1_8_2="1-0:1.8.2(000000.000*kWh)",
        _2_8_1=f"1-0:2.8.1({export_wh / 1000:010.3f}*kWh)",
        _2_8_2="1-0:2.8.2(000000.000*kWh)",
    )


class P1Home:
    """Serves telegrams to whoever connects; `says(second)` gives the bytes of each second."""

    def __init__(self, says: Callable[[int], bytes]) -> None:
        self._says = says
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self._clients: list[socket.socket] = []
        self._stopped = threading.Event()
        self._plugged = threading.Event()
        self._plugged.set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"

    def unplug(self) -> None:
        """Drop the connection, and refuse others until `plug`."""
        self._plugged.clear()

    def plug(self) -> None:
        self._plugged.set()

    def _serve(self) -> None:
        second = int(time.time())
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                self._clients.append(self._server.accept()[0])
            if not self._plugged.is_set():
                self._drop()
            while second < int(time.time()):  # none is left out on a busy machine
                second += 1
                for client in list(self._clients):
                    try:
                        client.sendall(self._says(second))
                    except OSError:
                        client.close()
                        self._clients.remove(client)

    def _drop(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(5)
        self._drop()
        self._server.close()
