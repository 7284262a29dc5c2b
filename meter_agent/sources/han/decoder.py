"""Bytes of a HAN port in, readings out.

Why not a library: amshan loses segmented pushes and block transfers, refuses swapped tags, and gives frames
with a wrong FCS to a caller that does not ask; Gurux is GPL-2.0. `cryptography` deciphers.

Framed bytes (HDLC, M-Bus) need no pause. Raw APDUs (some adapters, the Czech RS-485 port) have no start mark,
no length and no checksum: the bytes between two pauses are read as APDUs, and only if these reach exactly to
the end. Raw bytes are no longer tried after a frame with a good checksum.
"""

from collections import Counter
from typing import Literal

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.han.apdu import STARTS, Decipher, Notification, read_apdu, read_burst
from gridhe.meter_agent.sources.han.energy import Agreements, to_reading
from gridhe.meter_agent.sources.han.frames import Framing, Scanner
from gridhe.meter_agent.sources.han.joining import Joiner, is_llc
from gridhe.meter_agent.sources.han.lists import read_list
from gridhe.meter_agent.sources.han.profiles import GENERIC, Profile, profile_of
from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["HanDecoder"]

_BURST_MAX = 4096  # raw bytes between two pauses
_BURST_STARTS_MAX = 64  # places in a burst where an APDU may start
_CHECK_FAULTS = ("crc", "checksum", "incomplete")


def _no_key(apdu: bytes) -> bytes:
    raise RemoteError("no_key", "an encrypted push, and no key_file")


class HanDecoder:
    """A `Decoder`.

    Faults of the framing: crc, checksum, incomplete, segment, too_long, unframed (bytes of no known kind);
    of the content: apdu, structure, list; of the encryption: no_key, and those of `CipherFault`; of the
    values: scale, unit, type, conflict, no_reading.
    """

    def __init__(
        self,
        *,
        framing: Literal["auto", "hdlc", "mbus", "raw"] = "auto",
        profile: Profile | None = None,
        agreements: Agreements | None = None,
        decipher: Decipher = _no_key,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._raw = framing in ("auto", "raw")
        framings: dict[str, tuple[Framing, ...]] = {
            "auto": ("hdlc", "mbus"),
            "hdlc": ("hdlc",),
            "mbus": ("mbus",),
        }
        self._scanner = Scanner(framings[framing], self.faults) if framing in framings else None
        self._joiner = Joiner(self.faults)
        self._set_profile = profile
        self._agreements = agreements or Agreements()
        self._decipher = decipher
        self.reset()

    def reset(self) -> None:
        """See `Decoder`."""
        if self._scanner is not None:
            self._scanner.reset()
        self._joiner.reset()
        self._burst = bytearray()
        self._burst_fits = True
        self._counted = self.faults.total()  # at the last pause
        self._framed = False
        self._readings = False
        self._profile: Profile | None = None  # of an earlier telegram: short lists do not name the make

    def feed(self, data: bytes) -> list[DeviceReading]:
        """See `Decoder`."""
        readings = []
        for frame in self._scanner.feed(data) if self._scanner is not None else ():
            self._framed = True
            apdu = self._joiner.feed(frame)
            if apdu is not None:
                readings += self._read(apdu, frame.addresses if frame.framing == "hdlc" else b"")
        if self._raw and not self._framed:
            self._burst_fits = self._burst_fits and len(self._burst) + len(data) <= _BURST_MAX
            self._burst = self._burst + data if self._burst_fits else bytearray()
        else:
            self._burst, self._burst_fits = bytearray(), True
        return readings

    def pause(self) -> list[DeviceReading]:
        """See `Decoder`: a burst of raw bytes has ended."""
        burst, fits = bytes(self._burst), self._burst_fits
        counted, self._counted = self._counted, self.faults.total()
        self._burst, self._burst_fits = bytearray(), True
        if fits and not burst:
            return []
        if not fits:
            self.faults["too_long"] += 1
            return []
        if (
            self._scanner is not None and self._scanner.inside
        ):  # a frame without its check is not read as bare
            return []
        return [
            reading
            for notification in self._read_burst(burst, counted=self.faults.total() > counted)
            for reading in self._to_readings(notification, b"")
        ]

    @property
    def waiting_for(self) -> str | None:
        """See `Decoder`."""
        if self.faults["wrong_key"] and not self._readings:
            return "a push that key_file opens: it may be another meter's key"
        if self.faults["no_key"] and not self._readings:
            return "the key: this meter encrypts, so ask the grid operator and set key_file"
        if self._joiner.inside:
            return "the next segment of a push"
        if self._scanner is not None and self._scanner.inside:
            return "a frame's end"
        if self._readings:
            return None
        if any(self.faults[reason] for reason in _CHECK_FAULTS):
            return "a frame with a good checksum: check parity (8N1 or 8E1) and cable"
        return "a push" if self._framed else "a frame: check baud, parity and polarity"

    def _read(self, apdu: bytes, addresses: bytes) -> list[DeviceReading]:
        try:
            notification = read_apdu(apdu, self._decipher)
        except RemoteError as error:
            self.faults[error.reason] += 1
            return []
        return self._to_readings(notification, addresses)

    def _to_readings(self, notification: Notification, addresses: bytes) -> list[DeviceReading]:
        try:
            push = read_list(notification.body)
            shown = profile_of(
                texts=push.texts,
                title=notification.system_title,
                addresses=addresses,
                form="descriptors" if push.descriptors else notification.layout,
            )
            self._profile = self._set_profile or shown or self._profile
            reading = to_reading(
                push,
                time=notification.time,
                title=notification.system_title,
                profile=self._profile or GENERIC,
                agreements=self._agreements,
                faults=self.faults,
            )
        except RemoteError as error:
            self.faults[error.reason] += 1
            return []
        if reading is None:
            return []
        self._readings = True
        return [reading]

    def _read_burst(self, burst: bytes, *, counted: bool) -> list[Notification]:
        """The APDUs of the longest end of `burst` that consists of nothing else.

        `counted`: a damaged frame in it was counted already.
        """
        starts = [
            at
            for at, byte in enumerate(burst)
            if byte in STARTS and not (at >= 3 and is_llc(burst[at - 3 : at]))  # else a frame lost its ends
        ]
        reason = "unframed"
        for start in starts[:_BURST_STARTS_MAX]:
            try:
                return read_burst(burst[start:], self._decipher)
            except RemoteError as error:
                if error.reason in ("no_key", "wrong_key"):
                    reason = error.reason
        if reason != "unframed" or not counted:
            self.faults[reason] += 1
        return []
