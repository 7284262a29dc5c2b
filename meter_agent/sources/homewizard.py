"""HomeWizard P1 meters and energy sockets, over their local HTTP interface.

    version 1   GET http://ADDRESS/api/v1/data, after "Local API" was switched on in the HomeWizard app
    version 2   GET https://ADDRESS/api/measurement with a token; the device's certificate names its serial
                number and not its address, so it is pinned by its fingerprint

Source: api-documentation.homewizard.com. Firmware versions renamed and dropped keys: a direction is its total
if that is a number, else the sum of its tariffs t1 to t4. The totals are the meter's own: tariffs may add up
to some Wh more. `timestamp` (version 2) and `gas_timestamp` are local times without an offset.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import aiohttp
from pydantic import Field, field_validator, model_validator

from gridhe.base.files import read_private
from gridhe.errors import CredentialError, GridHEError, SourceError
from gridhe.meter_agent.sources.payload import (
    ABSENT,
    ENERGY_UNITS,
    MAX_BYTES,
    Resolution,
    epoch_s,
    equipment_id,
    is_null,
    leaf_names,
    number,
    parse_json,
    register,
)
from gridhe.meter_agent.sources.reading import DeviceReading, Register
from gridhe.meter_agent.sources.settings import SourceSettings

if TYPE_CHECKING:
    from gridhe.meter_agent.sources.driver import Sink

__all__ = ["HomeWizard", "MeasurementDecoder", "Settings", "open_device"]

_NAMES: Final = {  # by direction, the totals' names; a tariff's name has t1 to t4 before the unit
    "import": ("total_power_import_kwh", "energy_import_kwh"),
    "export": ("total_power_export_kwh", "energy_export_kwh"),
}
_SWITCHED_OFF = (
    "the local API is off; switch it on in the HomeWizard app: Settings, Meters, your meter, Local API"
)
_POWER = ("active_power_w", "power_w")
_TARIFFS = 4
_ANSWER_S = 10.0
_LONGEST_WAIT_S = 60.0
_TOKEN_MAX = 4_096  # bytes
_UNSET_S = 1_420_070_400.0  # 2015
_AHEAD_S = 60.0


class Settings(SourceSettings):
    """One device in the home's network."""

    address: str = Field(
        min_length=1, max_length=256, description="http://192.168.1.20 (version 1) or https://... (version 2)"
    )
    token_file: str | None = Field(
        None, max_length=512, description="version 2: file with the token, readable by its owner only (0600)"
    )
    fingerprint: str | None = Field(
        None, description="version 2: SHA-256 fingerprint of the device's certificate"
    )
    poll_s: float = Field(10.0, ge=1, le=3_600, description="seconds between questions")

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        try:
            parts = urlsplit(address)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"expected http://host or https://host; came {address[:60]!r}")
        return address.rstrip("/")

    @field_validator("fingerprint")
    @classmethod
    def _is_a_fingerprint(cls, fingerprint: str | None) -> str | None:
        if fingerprint is None:
            return None
        digits = fingerprint.replace(":", "").lower()
        if not re.fullmatch("[0-9a-f]{64}", digits, re.ASCII):
            raise ValueError(
                "expected 64 hexadecimal digits, as openssl x509 -fingerprint -sha256 prints them"
            )
        return digits

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        parts = urlsplit(self.address)
        if parts.scheme == "https" and (self.token_file is None or self.fingerprint is None):
            host, port = parts.hostname, parts.port or 443
            raise ValueError(
                "https:// (version 2) needs token_file and fingerprint; the fingerprint: openssl s_client "
                f"-connect {host}:{port} </dev/null | openssl x509 -noout -fingerprint -sha256"
            )
        if parts.scheme == "http" and (self.token_file is not None or self.fingerprint is not None):
            raise ValueError("token_file and fingerprint are for version 2: use https://")
        return self


def open_device(settings: "SourceSettings") -> "HomeWizard":
    """The device of these settings. Raises SourceError for a token file that is unusable."""
    return HomeWizard(cast("Settings", settings))


class MeasurementDecoder:
    """Answers to readings. Takes any bytes and raises nothing; drops are counted by reason in `faults`."""

    def __init__(self, *, largest_w: int, zone: str | None = None) -> None:
        self._largest_w = largest_w
        self._zone = ZoneInfo(zone) if zone else None
        self._resolutions: dict[str, Resolution] = {}
        self.faults: Counter[str] = Counter()
        self.detail = ""  # of the last fault; names only

    def decode(self, answer: bytes, arrived_s: float) -> DeviceReading | None:
        """The reading in an answer; None if it holds none."""
        document = parse_json(answer)
        if not isinstance(document, dict):
            self._drop("too_long" if len(answer) > MAX_BYTES else "not_json", "the answer is no JSON object")
            return None
        if isinstance(document.get("error"), dict):
            self._drop("refused", f"the answer is an error; perhaps {_SWITCHED_OFF}")
            return None
        reasons: list[str] = []
        imported, exported = (self._direction(document, totals, reasons) for totals in _NAMES.values())
        power_w = self._power_w(document, reasons)
        for reason in dict.fromkeys(reasons):
            self.faults[reason] += 1
        if not imported and not exported:
            self._drop(
                "no_meter_data",
                "the answer has no register: is the P1 cable connected? it has " + leaf_names(document),
            )
            return None
        at_s = epoch_s(document.get("timestamp"), self._zone)
        return DeviceReading(
            imported=imported,
            exported=exported,
            power_w=power_w,
            device=equipment_id(document.get("unique_id")),
            at_s=at_s if at_s is not None and _UNSET_S <= at_s <= arrived_s + _AHEAD_S else None,
            remarks=tuple(dict.fromkeys(reasons)),
        )

    def _drop(self, reason: str, detail: str) -> None:
        self.faults[reason] += 1
        self.detail = detail

    def _direction(
        self, document: dict[str, Any], totals: tuple[str, ...], reasons: list[str]
    ) -> dict[str, Register]:
        """The total, else all tariffs; nothing if one of them is unusable."""
        for total in totals:
            value = document.get(total, ABSENT)
            if value is not ABSENT and not is_null(value):
                return self._registers({total: value}, reasons)
        for total in totals:
            tariffs = {
                name: document[name]
                for name in (total.replace("_kwh", f"_t{n}_kwh") for n in range(1, _TARIFFS + 1))
                if name in document
            }
            if tariffs and not all(map(is_null, tariffs.values())):
                return self._registers(tariffs, reasons)
        return {}

    def _registers(self, values: dict[str, Any], reasons: list[str]) -> dict[str, Register]:
        found = {}
        for name, value in values.items():
            given = number(value)
            resolution = self._resolutions.setdefault(name, Resolution())
            taken = None if given is None else register(given, ENERGY_UNITS["kWh"], resolution)
            if taken is None:
                null = is_null(value)
                reasons.append("null" if null else "not_a_number" if given is None else "impossible")
                return {}
            found[name] = taken
        return found

    def _power_w(self, document: dict[str, Any], reasons: list[str]) -> Decimal | None:
        for name in _POWER:
            power_w = number(document.get(name))
            if power_w is not None:
                if abs(power_w) <= self._largest_w:
                    return power_w
                reasons.append("power")
        return None


class _Unusable(GridHEError):
    """An answer without a measurement. `fatal`: settings, or the device's own, have to change."""

    def __init__(self, why: str, *, fatal: bool = False) -> None:
        super().__init__(why)
        self.fatal = fatal


class HomeWizard:
    """Asks one device, every `poll_s` seconds."""

    def __init__(self, settings: Settings, *, wall: Callable[[], float] = time.time) -> None:
        """Read the token; connect nothing yet. `wall` returns UTC epoch seconds. Raises SourceError."""
        self._settings, self._wall = settings, wall
        self._decoder = MeasurementDecoder(largest_w=settings.largest_w, zone=settings.zone)
        self._reported: Counter[str] = Counter()
        self._version_2 = settings.address.startswith("https:")
        self._url = settings.address + ("/api/measurement" if self._version_2 else "/api/v1/data")
        self._headers = {}
        if settings.token_file is not None:
            self._headers = {"Authorization": f"Bearer {_token(settings.token_file)}", "X-Api-Version": "2"}

    async def run(self, sink: "Sink") -> None:
        """Run until cancelled; see `Device`. A device that does not answer is asked again, also at first."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        connected, answered, wait_s = False, False, self._settings.poll_s
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while True:
                try:
                    answer = await self._ask(session)
                except _Unusable as error:
                    if error.fatal and not answered:
                        raise SourceError(str(error)) from None
                    connected = False
                    sink.lost(str(error))
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, max(_LONGEST_WAIT_S, self._settings.poll_s))
                    continue
                if not connected:
                    sink.opened(self._url)
                connected, answered, wait_s = True, True, self._settings.poll_s
                self._take(sink, answer)
                await asyncio.sleep(wait_s)

    def _take(self, sink: "Sink", answer: bytes) -> None:
        now_s = self._wall()
        reading = self._decoder.decode(answer, now_s)
        if reading is not None:
            sink.reading(reading, arrived_s=now_s)
        for reason, count in (self._decoder.faults - self._reported).items():
            sink.fault(reason, self._decoder.detail if reading is None else "", count)
        self._reported = Counter(self._decoder.faults)
        sink.bytes_seen(len(answer), None if reading is not None else self._decoder.detail)

    async def _ask(self, session: aiohttp.ClientSession) -> bytes:
        """One answer's body, at most one byte longer than MAX_BYTES. Raises _Unusable."""
        url, pin = self._url, self._settings.fingerprint
        tls = True if pin is None else aiohttp.Fingerprint(bytes.fromhex(pin))
        try:
            async with session.get(url, ssl=tls, allow_redirects=False) as response:
                self._check(response.status)
                body = b""
                async for piece in response.content.iter_chunked(MAX_BYTES):
                    body += piece
                    if len(body) > MAX_BYTES:
                        break
                return body[: MAX_BYTES + 1]
        except aiohttp.ServerFingerprintMismatch as error:
            raise _Unusable(
                f"{url} has another certificate (SHA-256 {error.got.hex()}) than source.fingerprint; if the "
                "device was exchanged or reset, set its fingerprint anew",
                fatal=True,
            ) from None
        except TimeoutError:
            raise _Unusable(f"{url} does not answer within {_ANSWER_S:g} s; check source.address") from None
        except (aiohttp.ClientError, ValueError) as error:
            errno = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
            # asyncio's own text has the address and not the reason; look-ups have negative numbers.
            why = os.strerror(errno) if errno and errno > 0 else str(error) or type(error).__name__
            raise _Unusable(f"cannot reach {url}: {why[:120]}; check source.address") from None

    def _check(self, status: int) -> None:
        url = self._url
        if status == 403 and not self._version_2:
            raise _Unusable(
                f"{url}: {_SWITCHED_OFF}",
                fatal=True,
            )
        if status in (401, 403):
            raise _Unusable(
                f"{url} refuses the token ({status}); make a new one for source.token_file", fatal=True
            )
        if status == 404:
            raise _Unusable(
                f"{url} does not exist (404); is this a HomeWizard with current firmware?", fatal=True
            )
        if status != 200:
            raise _Unusable(f"{url} answers with status {status}")


def _token(path: str) -> str:
    try:
        text = read_private(Path(path), maximum_bytes=_TOKEN_MAX).decode("ascii").strip()
    except CredentialError as error:
        raise SourceError(f"source.token_file: {error}") from None
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise SourceError(f"source.token_file {path} holds no token (one line of text)")
    return text
