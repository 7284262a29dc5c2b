"""Ciphered messages of meters, and the files of their keys."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import CredentialError
from gridhe.meter_agent.sources.ciphering import CipheredApdu, CipherFault, decipher, read_key, whole_length
from gridhe_testing.ciphered import encipher

KEY, OTHER = bytes(range(16)), bytes(range(16, 32))


@pytest.mark.parametrize("control", [0x30, 0x31, 0x70, 0x20, 0x21, 0x10])
@pytest.mark.parametrize("size", [0, 1, 60, 200, 3000])
@pytest.mark.parametrize("tag", [0xDB, 0xDC])
def test_a_message_is_opened(control: int, size: int, tag: int) -> None:
    plain = bytes(range(256)) * 12
    apdu = encipher(plain[:size], KEY, OTHER, control=control, tag=tag, counter=77)
    assert decipher(apdu, KEY, OTHER) == plain[:size]
    assert decipher(apdu, KEY, None) == plain[:size]
    parts = CipheredApdu.parse(apdu)
    assert parts.system_title == b"TST\x00\x00\x00\x00\x01"
    assert int.from_bytes(parts.counter, "big") == 77


def test_the_example_of_the_green_book() -> None:
    # IEC 62056-5-3 / DLMS UA 1000-2, "Example: ciphering of xDLMS APDUs", the numbers only (facts):
    # a GET-request, system title 4D4D4D0000BC614E, counter 0x01234567.
    title, plain = bytes.fromhex("4D4D4D0000BC614E"), bytes.fromhex("C0010000080000010000FF0200")
    key = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
    authentication_key = bytes.fromhex("D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF")
    text, tag = bytes.fromhex("411312FF935A47566827C467BC"), bytes.fromhex("7D825C3BE4A77C3FCC056B6B")
    body = bytes.fromhex("3001234567") + text + tag
    apdu = b"\xdb\x08" + title + bytes([len(body)]) + body
    assert decipher(apdu, key, authentication_key) == plain
    assert encipher(plain, key, authentication_key, title=title, counter=0x01234567) == apdu
    only = bytes.fromhex("2001234567") + text
    assert decipher(b"\xdb\x08" + title + bytes([len(only)]) + only, key, None) == plain


def test_aes_256_of_suite_2() -> None:
    key, other = bytes(range(32)), bytes(range(32, 64))
    assert decipher(encipher(b"plain", key, other, control=0x32), key, other) == b"plain"
    with pytest.raises(CipherFault) as caught:
        decipher(encipher(b"plain", key, other, control=0x32), KEY, None)
    assert caught.value.reason == "wrong_key"


@pytest.mark.parametrize("keys", [(OTHER, OTHER), (KEY, KEY), (bytes(32), None), (KEY, bytes(8))])
def test_repro_a_wrong_key_is_noticed(keys: tuple[bytes, bytes | None]) -> None:
    with pytest.raises(CipherFault) as caught:
        decipher(encipher(b"plain text", KEY, OTHER), *keys)
    assert caught.value.reason == "wrong_key"


@pytest.mark.parametrize("control", [0x30, 0x10])
def test_repro_every_changed_bit_of_an_authenticated_message_is_noticed(control: int) -> None:
    apdu = encipher(b"register 123", KEY, OTHER, control=control)
    for bit in range(len(apdu) * 8):
        changed = bytearray(apdu)
        changed[bit // 8] ^= 1 << bit % 8
        if bit // 8 == 0 and changed[0] == 0xDC:
            continue  # the other kind of global ciphering: the same content
        # Bit 5 or 4 of the control byte make another kind of message, which the tag does not cover.
        if bit // 8 == 11 and not changed[11] & 0x10:
            continue
        with pytest.raises(CipherFault):
            decipher(bytes(changed), KEY, OTHER)


@pytest.mark.parametrize(
    ("control", "reason"),
    [(0x33, "cipher_unsupported"), (0x3F, "cipher_unsupported"), (0xB0, "cipher_unsupported")],
)
def test_suites_that_are_not_supported(control: int, reason: str) -> None:
    with pytest.raises(CipherFault) as caught:
        decipher(encipher(b"x", KEY, OTHER, control=control), KEY, OTHER)
    assert caught.value.reason == reason


@pytest.mark.parametrize("long_length", [False, True])
@pytest.mark.parametrize("size", [0, 100, 150, 900])
def test_the_length_is_known_as_soon_as_it_is_there(long_length: bool, size: int) -> None:
    apdu = encipher(bytes(size), KEY, OTHER, long_length=long_length)
    known = [whole_length(apdu[:end]) for end in range(len(apdu) + 1)]
    assert set(known) == {None, len(apdu)}
    assert known.index(len(apdu)) <= 13
    for end in range(len(apdu)):
        with pytest.raises(CipherFault):
            decipher(apdu[:end], KEY, OTHER)
    with pytest.raises(CipherFault):
        decipher(apdu + b"\0", KEY, OTHER)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\xdb\x08", b"\xdb\x08TST\0\0\0\0\1\x20"]))
def test_any_bytes_are_opened_or_refused(data: bytes, start: bytes) -> None:
    with suppress(CipherFault):
        decipher(start + data, KEY, OTHER)


def file_of(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text", ["00112233445566778899AABBCCDDEEFF", "00:11 22-33 44556677 8899aabbccddeeff\r\n"]
)
def test_a_key_is_read(tmp_path: Path, text: str) -> None:
    assert read_key(file_of(tmp_path, text)).hex() == "00112233445566778899aabbccddeeff"
    assert len(read_key(file_of(tmp_path, "ab" * 32))) == 32


@pytest.mark.parametrize("text", ["", "ab" * 15, "ab" * 17, "xy" * 16, "ä" * 16, "ab" * 600])
def test_a_file_without_a_key_is_refused_and_never_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialError) as caught:
        read_key(file_of(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_repro_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(CredentialError, match="chmod 600"):
        read_key(file_of(tmp_path, "ab" * 16, mode))


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="cannot read"):
        read_key(tmp_path / "nothing")
