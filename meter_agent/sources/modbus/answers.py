"""Requests, and the judging of the bytes that answer them. No I/O, no clock, any bytes, bounded memory.

pymodbus builds the requests and the checksum. Its framers do not judge answers here: in 3.16.1 they accept an
answer with another function code, one with fewer registers than asked, and on a serial line the late answer
to an earlier request; they drop a good answer that follows an echo or a stray byte.

On a serial line (RTU) an answer names neither the address nor the request. So exactly one frame of the asked
unit may arrive, with the asked function and length. In Modbus TCP the transaction id names the request.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from gridhe.errors import RemoteError

__all__ = ["ABSENT", "REFUSED", "Request", "RtuAnswer", "TcpAnswers"]

# Exception codes (Modbus application protocol, section 7): the reason's word, and its meaning.
_REFUSALS = {
    1: ("illegal_function", "does not know this function code"),
    2: ("illegal_address", "has no such register, or refuses a block across it"),
    3: ("illegal_value", "refuses a block of this length"),
    4: ("device_failure", "has an internal fault"),
    5: ("busy", "needs longer"),
    6: ("busy", "is busy"),
    10: ("gateway", "cannot be reached: the gateway has no path to it"),
    11: ("gateway", "does not answer the gateway; check the unit number and the meter's wires"),
}
REFUSED = frozenset({reason for reason, _ in _REFUSALS.values()} | {"exception"})  # the meter says so itself
ABSENT = frozenset({"illegal_function", "illegal_address", "illegal_value"})  # the register is not there

_PDUS = DecodePDU(is_server=False)
_RTU = FramerRTU(_PDUS)
_TCP = FramerSocket(_PDUS)
_RTU_BYTES = 320  # an echo, an answer of 125 registers, and some noise
_TCP_BYTES = 4_096  # some late answers
_STRAY = 2  # bytes behind an answer that come from switching an RS-485 driver off
# Units in the answers of devices that are no gateway and do not repeat it: to them it means nothing (Modbus
# Messaging on TCP/IP Implementation Guide).
_NO_UNIT = (0, 255)
_MBAP = 7  # transaction, protocol, length, unit
_REQUESTS = {3: ReadHoldingRegistersRequest, 4: ReadInputRegistersRequest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Read `count` registers from `address` (zero-based, as on the wire) with function 3 or 4."""

    unit: int
    function: int
    address: int
    count: int

    def rtu(self) -> bytes:
        """The frame for a serial line."""
        return _RTU.buildFrame(
            _REQUESTS[self.function](address=self.address, count=self.count, dev_id=self.unit)
        )

    def tcp(self, transaction: int) -> bytes:
        """The frame for Modbus TCP."""
        return _TCP.buildFrame(
            _REQUESTS[self.function](
                address=self.address, count=self.count, dev_id=self.unit, transaction_id=transaction
            )
        )

    def __str__(self) -> str:
        return f"unit {self.unit}, {self.count} registers from 0x{self.address:04x}"

    def registers(self, pdu: bytes) -> bytes:
        """The bytes of the registers of an answer (function code, byte count, data). Raises RemoteError."""
        if pdu[0] == self.function | 0x80 and len(pdu) == 2:
            reason, meaning = _REFUSALS.get(pdu[1], ("exception", f"answers with exception {pdu[1]}"))
            raise RemoteError(reason, f"{self}: the meter {meaning}")
        if pdu[0] != self.function:
            raise RemoteError("function", f"{self}: an answer to another function code")
        if len(pdu) != 2 + 2 * self.count or pdu[1] != 2 * self.count:
            raise RemoteError("length", f"{self}: an answer of another length")
        return pdu[2:]


class RtuAnswer:
    """The bytes that arrive after one request on a serial line."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._echo = request.rtu()
        self._buffer = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        room = _RTU_BYTES - len(self._buffer)
        self._buffer += data[:room]
        self._too_long |= len(data) > room

    @property
    def silent(self) -> bool:
        """Whether no byte has come but the echo of the request."""
        return not self._buffer.removeprefix(self._echo)

    @property
    def complete(self) -> bool:
        """Whether the asked unit has answered. More bytes may follow: then the answer is in doubt."""
        return any(unit == self._request.unit for unit, _, _ in self._frames())

    def registers(self) -> bytes:
        """The bytes of the asked registers, once the line is silent. Raises RemoteError."""
        request = self._request
        if self._too_long:
            raise RemoteError("too_long", f"{request}: more bytes than an answer has")
        frames = list(self._frames())
        ours = [(pdu, end) for unit, pdu, end in frames if unit == request.unit]
        if ours:
            pdu, end = ours[0]
            if len(self._buffer) - end > _STRAY:
                raise RemoteError(
                    "late", f"{request}: bytes behind the first answer, which may be a late one"
                )
            return request.registers(pdu)
        if frames:
            raise RemoteError("unit", f"{request}: another meter's answer")
        if len(self._buffer.removeprefix(self._echo)) >= 5 + 2 * request.count:
            raise RemoteError("crc", f"{request}: an answer with a wrong checksum")
        raise RemoteError("timeout", f"{request}: no answer")

    def _frames(self) -> Iterator[tuple[int, bytes, int]]:
        """Every frame with a valid checksum: unit, function code and data, and where it ends."""
        data, at = bytes(self._buffer), 0
        while at + 5 <= len(data):
            size = _frame_size(data, at)
            if size and _RTU.compute_CRC(data[at : at + size - 2]) == int.from_bytes(
                data[at + size - 2 : at + size], "big"
            ):
                yield data[at], data[at + 1 : at + size - 2], at + size
                at += size
            elif data.startswith(self._echo, at):
                at += len(self._echo)
            else:
                at += 1


def _frame_size(data: bytes, at: int) -> int:
    """The size of the answer that may start here; 0 if none does, or if it is not whole."""
    function = data[at + 1]
    if function in (0x83, 0x84):
        size = 5
    elif function in (3, 4) and data[at + 2] and data[at + 2] % 2 == 0:
        size = 5 + data[at + 2]
    else:
        return 0
    return size if at + size <= len(data) else 0


class TcpAnswers:
    """The answers on one Modbus TCP connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.late = 0  # answers to earlier requests, dropped

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises RemoteError ("frame": this connection is of no more use)."""
        self._buffer += data
        if len(self._buffer) > _TCP_BYTES:
            raise RemoteError("frame", "more bytes than answers have")

    def registers(self, request: Request, transaction: int) -> bytes | None:
        """The bytes of the asked registers; None: not yet there. Drops answers to earlier requests.

        Raises RemoteError: "frame" (no Modbus TCP) and "transaction" (an id that was not asked) mean that
        this connection is of no more use.
        """
        for came, unit, pdu in self._frames():
            behind = (transaction - came) % 65_536
            if behind == 0:
                if unit != request.unit and unit not in _NO_UNIT:
                    raise RemoteError("unit", f"{request}: another unit's answer")
                return request.registers(pdu)
            if behind >= 32_768 or behind >= transaction:  # ids start at 1 on each connection
                raise RemoteError("transaction", f"{request}: an answer to a request that was never made")
            self.late += 1
        return None

    def only(self, request: Request) -> bytes:
        """The bytes of the asked registers from a gateway that does not echo ids: exactly one answer came.

        Raises RemoteError.
        """
        frames = list(self._frames())
        if not frames:
            raise RemoteError("timeout", f"{request}: no answer")
        if len(frames) > 1 or self._buffer:
            raise RemoteError("late", f"{request}: two answers to one request; the first one was late")
        _, unit, pdu = frames[0]
        if unit != request.unit:
            raise RemoteError("unit", f"{request}: another unit's answer")
        return request.registers(pdu)

    @property
    def waiting(self) -> bool:
        """Whether a whole frame has arrived and was not taken."""
        return len(self._buffer) >= _MBAP and len(self._buffer) >= 6 + self._length()

    def drop(self) -> int:
        """Forget whole frames, and count them: answers that came too late. A part of one stays."""
        return sum(1 for _ in self._frames())

    def _length(self) -> int:
        _, protocol, length = struct.unpack_from(">HHH", self._buffer)
        if protocol != 0 or not 3 <= length <= 254:
            raise RemoteError("frame", "bytes that are no Modbus TCP; is this a port for RTU frames?")
        return int(length)

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Whole frames, taken out of the buffer: transaction, unit, function code and data."""
        while self.waiting:
            end = 6 + self._length()
            transaction = int.from_bytes(self._buffer[:2], "big")
            unit, pdu = self._buffer[6], bytes(self._buffer[_MBAP:end])
            del self._buffer[:end]
            yield transaction, unit, pdu
