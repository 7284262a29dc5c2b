"""Which bytes are the answer to a request: pure, with the test's own encoder, and any bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import RemoteError
from gridhe.meter_agent.sources.modbus.answers import Request, RtuAnswer, TcpAnswers
from gridhe_testing.modbus_meter import crc

ASKED = Request(unit=1, function=4, address=0x48, count=2)
VALUE = bytes.fromhex("449a5000")
PDU = b"\4\4" + VALUE


def rtu(unit: int, pdu: bytes) -> bytes:
    return bytes([unit]) + pdu + crc(bytes([unit]) + pdu)


def tcp(transaction: int, unit: int, pdu: bytes, protocol: int = 0) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, 1 + len(pdu), unit) + pdu


OWN = rtu(1, PDU)


def registers(data: bytes, request: Request = ASKED) -> bytes:
    answer = RtuAnswer(request)
    for at in range(len(data)):
        answer.feed(data[at : at + 1])
    return answer.registers()


def reason(data: bytes) -> str:
    with pytest.raises(RemoteError) as refused:
        registers(data)
    return refused.value.reason


def test_requests_are_as_on_the_wire() -> None:
    assert ASKED.rtu() == rtu(1, b"\4\0\x48\0\2")
    assert ASKED.tcp(5) == tcp(5, 1, b"\4\0\x48\0\2")
    assert Request(unit=240, function=3, address=40_000, count=2).rtu() == rtu(240, b"\3\x9c\x40\0\2")


@pytest.mark.parametrize(
    "data",
    [OWN, ASKED.rtu() + OWN, b"\0" + OWN, b"\xff\xff" + OWN + b"\0", rtu(9, PDU) + OWN, b"/noise!" + OWN],
    ids=["alone", "after an echo", "after a stray byte", "between", "after another meter's", "after noise"],
)
def test_an_answer_is_found(data: bytes) -> None:
    assert registers(data) == VALUE


def test_an_answer_that_begins_as_the_request_does_is_no_echo() -> None:
    request = Request(unit=1, function=4, address=0x0400, count=2)
    answer = rtu(1, b"\4\4\0\0\2" + request.rtu()[6:7])
    assert answer[:7] == request.rtu()[:7]
    assert registers(answer, request) == answer[3:7]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "timeout"),
        (OWN[:-1], "timeout"),
        (ASKED.rtu(), "timeout"),
        (OWN[:-1] + b"\0", "crc"),
        (rtu(2, PDU), "unit"),
        (rtu(1, b"\3\4" + VALUE), "function"),
        (rtu(1, b"\4\2" + VALUE[:2]), "length"),
        (rtu(1, b"\4\6" + VALUE + b"\0\0"), "length"),
        (OWN + OWN, "late"),
        (OWN + rtu(1, b"\x84\6"), "late"),
        (OWN + OWN[:5], "late"),
        (rtu(1, b"\x84\1"), "illegal_function"),
        (rtu(1, b"\x84\2"), "illegal_address"),
        (rtu(1, b"\x84\3"), "illegal_value"),
        (rtu(1, b"\x84\4"), "device_failure"),
        (rtu(1, b"\x84\6"), "busy"),
        (rtu(1, b"\x84\x0b"), "gateway"),
        (rtu(1, b"\x84\x63"), "exception"),
        (rtu(1, b"\x83\2"), "function"),
        (OWN * 40, "too_long"),
    ],
)
def test_repro_anything_else_is_refused_by_its_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@given(st.binary(max_size=600), st.binary(max_size=40))
def test_any_bytes_around_an_answer_give_it_or_a_reason(before: bytes, after: bytes) -> None:
    answer = RtuAnswer(ASKED)
    answer.feed(before)
    answer.feed(OWN + after)
    try:
        found = answer.registers()
    except RemoteError:
        return
    assert found == VALUE or rtu(1, b"\4\4" + found) in before + after


@given(st.binary(max_size=64))
def test_any_damage_is_noticed(data: bytes) -> None:
    try:
        found = registers(data)
    except RemoteError:
        return
    assert rtu(1, b"\4\4" + found) in data


@pytest.mark.parametrize("bit", range(8 * len(OWN)))
def test_repro_every_flipped_bit_is_noticed(bit: int) -> None:
    damaged = bytearray(OWN)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteError):
        registers(bytes(damaged))


# -- Modbus TCP ------------------------------------------------------------------------------------


def test_repro_a_late_transaction_is_dropped_and_counted() -> None:
    answers = TcpAnswers()
    answers.feed(tcp(27, 1, b"\4\4" + b"\0" * 4) + tcp(28, 1, PDU))
    assert answers.registers(ASKED, 28) == VALUE
    assert answers.late == 1


@pytest.mark.parametrize("came", [0, 29, 30_000, 65_535])
def test_repro_a_transaction_that_was_never_asked_ends_the_connection(came: int) -> None:
    answers = TcpAnswers()
    answers.feed(tcp(came, 1, PDU))
    with pytest.raises(RemoteError) as refused:
        answers.registers(ASKED, 28)
    assert refused.value.reason == "transaction"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tcp(28, 2, PDU), "unit"),
        (tcp(28, 1, b"\3" + PDU[1:]), "function"),
        (tcp(28, 1, b"\4\2\0\0"), "length"),
        (tcp(28, 1, b"\4\4\0\0"), "length"),
        (tcp(28, 1, b"\x84\2"), "illegal_address"),
        (tcp(28, 1, PDU, protocol=1), "frame"),
        (struct.pack(">HHHB", 28, 0, 2, 1) + b"\4", "frame"),
        (struct.pack(">HHHB", 28, 0, 255, 1) + bytes(254), "frame"),
        (rtu(1, PDU), "frame"),
    ],
)
def test_repro_a_wrong_answer_over_tcp_is_refused_by_its_reason(data: bytes, expected: str) -> None:
    answers = TcpAnswers()
    answers.feed(data)
    with pytest.raises(RemoteError) as refused:
        answers.registers(ASKED, 28)
    assert refused.value.reason == expected


@pytest.mark.parametrize("unit", [0, 255])
def test_a_device_that_does_not_repeat_the_unit_is_believed_by_the_transaction(unit: int) -> None:
    answers = TcpAnswers()
    answers.feed(tcp(28, unit, PDU))
    assert answers.registers(ASKED, 28) == VALUE


def test_one_answer_without_ids_is_taken_and_two_are_not() -> None:
    answers = TcpAnswers()
    for at in range(len(tcp(9, 1, PDU))):
        assert not answers.waiting
        answers.feed(tcp(9, 1, PDU)[at : at + 1])
    assert answers.waiting
    assert answers.only(ASKED) == VALUE
    for data in (tcp(9, 1, PDU) * 2, tcp(9, 1, PDU) + b"\0"):
        answers = TcpAnswers()
        answers.feed(data)
        with pytest.raises(RemoteError) as refused:
            answers.only(ASKED)
        assert refused.value.reason == "late"


@given(st.lists(st.binary(max_size=80), max_size=20), st.integers(1, 65_535))
def test_any_bytes_over_tcp_are_an_answer_or_a_reason(pieces: list[bytes], transaction: int) -> None:
    answers = TcpAnswers()
    try:
        for piece in pieces:
            answers.feed(piece)
            found = answers.registers(ASKED, transaction)
            assert found is None or found in b"".join(pieces)
    except RemoteError:
        return


def test_memory_is_bounded() -> None:
    answer, answers = RtuAnswer(ASKED), TcpAnswers()
    for _ in range(100):
        answer.feed(bytes(1000))
    assert len(answer._buffer) <= 320
    for _ in range(4):
        answers.feed(bytes(1000))
    with pytest.raises(RemoteError) as refused:
        answers.feed(bytes(1000))
    assert refused.value.reason == "frame"
