"""Look up a broker's name without blocking the loop.

Each look-up has its own daemon thread. A resolver without an answer takes half a minute to time out; neither
the other sessions nor a stop wait for it.
"""

import asyncio
import errno
import math
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["Address", "Resolver"]

Address = tuple[int, Any]  # address family, and the argument of connect() for that family

_SUCCESS_S, _FAILURE_S = 60.0, 5.0  # how long an answer is cached


@dataclass(slots=True)
class _LookUp:
    answer: "asyncio.Future[list[Address] | OSError]"
    until: float = math.inf  # loop time until which it is valid; infinite while the look-up runs


class Resolver:
    """The addresses of host names, cached for a minute (5 s if it failed): one look-up for a whole fleet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[str, int], _LookUp] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of `host`. Raises OSError."""
        known = self._known.get((host, port))
        if known is None or known.until <= self._loop.time():
            known = self._known[host, port] = _LookUp(self._loop.create_future())
            threading.Thread(
                target=self._look_up, args=(known, host, port), name="look-up", daemon=True
            ).start()
        answer = await asyncio.shield(known.answer)  # a cancelled session must not cancel the others' look-up
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _look_up(self, known: _LookUp, host: str, port: int) -> None:
        answer: list[Address] | OSError
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer = [(int(family), address) for family, _, _, _, address in rows]
        except OSError as error:
            answer = error
        except UnicodeError:  # "a..b", or a label of more than 63 letters
            answer = OSError(errno.EINVAL, f"{host[:80]!r} is not a host name")
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._settle, known, answer)

    def _settle(self, known: _LookUp, answer: list[Address] | OSError) -> None:
        known.until = self._loop.time() + (_FAILURE_S if isinstance(answer, OSError) else _SUCCESS_S)
        known.answer.set_result(answer)
