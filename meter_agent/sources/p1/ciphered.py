"""P1 telegrams inside ciphered DLMS messages: Luxembourg's Smarty, Austria, Poland.

The messages follow each other on the line: DB 08, the system title, a length, and so on (`ciphering`). Each
holds one telegram. Noise is passed over; if a message cannot be opened, the search goes on one byte after its
start, since a message that was cut off may have swallowed the start of the next.
"""

from collections import Counter

from gridhe.meter_agent.sources.ciphering import TAGS, CipherFault, decipher, whole_length
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.p1.frames import MAX_BYTES
from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["CipheredP1Decoder"]

_TAGS = tuple(bytes([tag]) for tag in TAGS)
_STARTS = tuple(tag + b"\x08" for tag in _TAGS)


class CipheredP1Decoder:
    """A `Decoder`. Faults: those of P1Decoder, and wrong_key, cipher_frame, cipher_unsupported."""

    def __init__(self, inner: P1Decoder, *, key: bytes, authentication_key: bytes | None) -> None:
        self.faults: Counter[str] = inner.faults
        self._inner = inner
        self._key, self._authentication_key = key, authentication_key
        self._held = b""
        self._wrong_key = False
        self._noise = 0

    def feed(self, data: bytes) -> list[DeviceReading]:
        """See `Decoder`."""
        self._held += data
        return self._take(is_whole=False)

    def pause(self) -> list[DeviceReading]:
        """See `Decoder`. An unfinished message may have swallowed whole ones."""
        return self._take(is_whole=True)

    def _take(self, *, is_whole: bool) -> list[DeviceReading]:
        """Open the messages that are complete. `is_whole`: nothing more belongs to what is held."""
        readings: list[DeviceReading] = []
        while self._to_start():
            try:
                length = whole_length(self._held)
                if length is not None and length > MAX_BYTES:
                    raise CipherFault("cipher_frame", "a longer message than any telegram")
                if length is None or len(self._held) < length:
                    if not is_whole:
                        break
                    raise CipherFault("cut_off", "an unfinished message")
                opened = self._open(self._held[:length])
                readings += opened
                # Noise may look like a message without a tag: only a sound telegram shows that it was none.
                self._held = self._held[length if opened else 1 :]
            except CipherFault as fault:
                self.faults[fault.reason] += 1
                self._wrong_key = fault.reason == "wrong_key"
                self._held = self._held[1:]
        if is_whole:
            self._held = b""
        return readings

    def _to_start(self) -> bool:
        """Drop what stands before the next start of a message. False if there is none."""
        places = [at for at in map(self._held.find, _STARTS) if at >= 0]
        at = min(places, default=len(self._held) - self._held.endswith(_TAGS))
        self._noise += at
        self._held = self._held[at:]
        return bool(places)

    def _open(self, message: bytes) -> list[DeviceReading]:
        plain = decipher(message, self._key, self._authentication_key)
        if not plain.lstrip(b"\r\n").startswith(b"/"):  # a message without a tag that another key made
            raise CipherFault("wrong_key", "the plain text is no telegram: wrong key")
        readings = self._inner.feed(plain) + self._inner.pause()
        if readings:
            self._noise, self._wrong_key = 0, False
        return readings

    def reset(self) -> None:
        """See `Decoder`."""
        if self._held:
            self.faults["cut_off"] += 1
        self._held = b""
        self._inner.reset()

    @property
    def waiting_for(self) -> str | None:
        """See `Decoder`."""
        if self._wrong_key:
            return "the right key: the one in key_file does not open this meter's telegrams"
        return "a ciphered telegram's start" if self._noise > MAX_BYTES // 16 else None
