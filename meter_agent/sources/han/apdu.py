"""The application data unit of a push: data-notification, in clear or ciphered.

data-notification       0f | long-invoke-id (4) | time: length 0 or 12 (Kaifa has 09 before it) | one element
general-glo-ciphering   db ... (`ciphering`), a data-notification inside
"""

from collections.abc import Callable
from dataclasses import dataclass

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources import ciphering
from gridhe.meter_agent.sources.han.axdr import LAYOUTS, Data, Layout, Reader, read_data

__all__ = ["STARTS", "Decipher", "Notification", "read_apdu", "read_burst"]

NOTIFICATION = 0x0F
STARTS = (NOTIFICATION, *ciphering.TAGS)

_TIME_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What a meter pushed."""

    body: Data
    layout: Layout
    time: bytes | None  # 12 bytes
    system_title: bytes | None  # of a ciphered one


# A ciphered APDU's plain text. Raises RemoteError ("no_key", or as `ciphering.decipher` does).
Decipher = Callable[[bytes], bytes]


def read_apdu(apdu: bytes, decipher: Decipher) -> Notification:
    """All of `apdu`. Raises RemoteError: "apdu" (another kind), "structure", the reasons of `decipher`."""
    if not apdu or apdu[0] not in ciphering.TAGS:
        return _notification(apdu, None)
    plain = decipher(apdu)
    try:
        return _notification(plain, ciphering.CipheredApdu.parse(apdu).system_title)
    except RemoteError:
        # Without a tag and its key, a wrong key shows only here.
        raise RemoteError("wrong_key", "the deciphered bytes are no push: wrong key") from None


def read_burst(burst: bytes, decipher: Decipher) -> list[Notification]:
    """APDUs of one layout, one after the other, from the start to the very end. Raises as `read_apdu`."""
    failures: list[tuple[str, str]] = []  # the errors themselves would keep all that was read until then
    for layout in LAYOUTS:
        try:
            return _burst(burst, layout, decipher)
        except RemoteError as error:
            failures.append((error.reason, str(error)))
    raise RemoteError(*failures[0])


def _burst(burst: bytes, layout: Layout, decipher: Decipher) -> list[Notification]:
    found = []
    while burst:
        if burst[0] in ciphering.TAGS:
            size = ciphering.whole_length(burst) or len(burst)
            found.append(read_apdu(burst[:size], decipher))
            burst = burst[size:]
        else:
            time, rest = _head(burst)
            reader = Reader(rest, layout=layout)
            body = reader.data()
            burst = reader.rest()
            found.append(Notification(body=body, layout=layout, time=time, system_title=None))
    return found


def _head(apdu: bytes) -> tuple[bytes | None, bytes]:
    """The time of a data-notification, and its body."""
    reader = Reader(apdu)
    if reader.number(1) != NOTIFICATION:
        raise RemoteError("apdu", "not a data-notification")
    reader.take(4)
    if reader.peek(2) == bytes((0x09, _TIME_BYTES)):
        reader.take(1)
    time = reader.octets()
    if len(time) not in (0, _TIME_BYTES):
        raise RemoteError("structure", f"a time of {len(time)} bytes")
    return time or None, reader.rest()


def _notification(apdu: bytes, title: bytes | None) -> Notification:
    time, rest = _head(apdu)
    body, layout = read_data(rest)
    return Notification(body=body, layout=layout, time=time, system_title=title)
