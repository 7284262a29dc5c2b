"""P1 telegrams in ciphered messages, and the driver's settings."""

import asyncio
import random
from pathlib import Path

import pytest

from gridhe.errors import ConfigError, CredentialError
from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.p1 import Settings, open_device
from gridhe.meter_agent.sources.p1.ciphered import CipheredP1Decoder
from gridhe.meter_agent.sources.p1.decoder import P1Decoder
from gridhe.meter_agent.sources.p1.frames import MAX_BYTES
from gridhe.meter_agent.sources.reading import Decoder, DeviceReading
from gridhe_testing.ciphered import encipher
from gridhe_testing.device_data import device_files, needs_device_data
from gridhe_testing.p1_telegrams import telegram
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair

KEY, OTHER = bytes(range(16)), bytes(range(16, 32))
PUBLIC = bytes.fromhex("00112233445566778899AABBCCDDEEFF")  # Luxembourg's authentication key


def ciphered(key: bytes = KEY, authentication_key: bytes = OTHER) -> CipheredP1Decoder:
    return CipheredP1Decoder(P1Decoder(), key=key, authentication_key=authentication_key)


def decoded(data: bytes, decoder: Decoder, *, step: int = 1 << 20) -> list[DeviceReading]:
    readings = []
    for start in range(0, len(data), step):
        readings += decoder.feed(data[start : start + step])
    return readings + decoder.pause()


GOOD = decoded(telegram(), P1Decoder())


@pytest.mark.parametrize("long_length", [False, True])
@pytest.mark.parametrize("control", [0x30, 0x31, 0x20, 0x21])
def test_a_ciphered_telegram_is_read_however_it_is_split(control: int, long_length: bool) -> None:
    message = encipher(telegram(), KEY, OTHER, control=control, long_length=long_length)
    data = b"\xff\xdb!" + message + message
    for cut in range(len(data)):
        decoder = ciphered()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == GOOD * 2
        assert decoder.faults == {}
    for step in (1, 3, 100):
        assert decoded(data, ciphered(), step=step) == GOOD * 2


def test_repro_a_ciphered_telegram_that_was_cut_off_does_not_take_the_next_with_it() -> None:
    message = encipher(telegram(), KEY, OTHER)
    for end in range(1, len(message)):
        decoder = ciphered()
        assert decoded(message[:end] + message, decoder) == GOOD, end
        assert decoder.faults.total() == (1 if end > 1 else 0), end  # of one byte nothing is known
        assert decoded(message[:end] + message * 2, ciphered()) == GOOD * 2, end


def test_repro_no_bit_of_a_ciphered_telegram_changes_unnoticed() -> None:
    message = encipher(telegram(), KEY, OTHER)
    without_tag = encipher(telegram(), KEY, control=0x20)
    rng = random.Random(3)
    for data in (message, without_tag):  # the telegram has a checksum of its own
        for _ in range(600):
            changed = bytearray(data)
            at = rng.randrange(len(data))
            changed[at] ^= 1 << rng.randrange(8)
            # Bit 5 or 4 of the control byte, the kind of ciphering, and bits that no checksum needs.
            assert decoded(bytes(changed), ciphered()) in ([], GOOD)
    position = without_tag.index(b"\x82") + 8 + telegram().index(b"123.456")
    changed = bytearray(without_tag)
    changed[position] ^= 1
    decoder = ciphered()
    assert decoded(bytes(changed), decoder) == []
    assert decoder.faults == {"crc": 1}


def test_repro_noise_that_looks_like_a_message_in_clear_does_not_take_the_next_with_it() -> None:
    # Found by the fuzzer: neither encrypted nor with a tag, and its text begins with "/".
    noise = b"\xdb\x08T-T\0\0\1\x82\1\x30\0\xf9\x1b\0\0/TST5\r\n"
    for missing in range(1, 0x30 - 12):
        data = noise + b"x" * (0x30 - 12 - missing) + encipher(telegram(), KEY, OTHER)
        assert decoded(data, ciphered()) == GOOD, missing


@pytest.mark.parametrize("control", [0x30, 0x20])
def test_repro_a_wrong_key_is_told(control: int) -> None:
    decoder = ciphered(OTHER, OTHER)
    data = encipher(telegram(), KEY, OTHER, control=control)
    assert decoder.waiting_for is None
    assert decoded(data * 3, decoder) == []
    assert decoder.faults == {"wrong_key": 3}
    assert decoder.waiting_for == ("the right key: the one in key_file does not open this meter's telegrams")


def test_noise_on_a_ciphered_line_is_told_and_not_held() -> None:
    decoder = ciphered()
    decoder.feed(b"\xfe" * 100_000)
    assert decoder.waiting_for == "a ciphered telegram's start"
    assert decoder._held == b""
    decoder.feed(b"\xdb\x08TSTxxxxx\x82\xff\xff" + bytes(50_000))
    assert len(decoder._held) <= MAX_BYTES
    assert decoder.faults == {"cipher_frame": 1}
    assert decoded(encipher(telegram(), KEY, OTHER), decoder) == GOOD
    assert decoder.waiting_for is None


def keys(folder: Path, **named: bytes) -> dict[str, str]:
    found = {}
    for name, key in named.items():
        path = folder / name
        path.write_text(key.hex().upper() + "\n", encoding="ascii")
        path.chmod(0o600)
        found[name] = str(path)
    return found


def test_luxembourgs_public_key_needs_no_file(tmp_path: Path) -> None:
    settings = Settings.model_validate({"address": "/dev/x", **keys(tmp_path, key_file=KEY)})
    decoder = open_device(settings).decoder()
    assert decoded(encipher(telegram(), KEY, PUBLIC), decoder) == GOOD


def test_a_meter_with_both_keys_through_a_terminal_and_a_gateway(tmp_path: Path) -> None:
    files = keys(tmp_path, key_file=KEY, authentication_key_file=OTHER)
    data = encipher(telegram(), KEY, OTHER) + b"\0noise" + encipher(telegram(), KEY, OTHER, counter=2)

    async def test() -> None:
        with SerialPair(tmp_path / "tty") as pair:
            async with PlayingServer() as server:
                for address, play in ((str(pair.path), pair.play), (server.address, server.play)):
                    sink = RecordingSink()
                    settings = source_settings("p1", {"address": address, **files})
                    assert isinstance(settings, Settings)
                    task = asyncio.create_task(open_device(settings).run(sink))
                    await sink.until(lambda sink=sink: bool(sink.names))  # type: ignore[misc]
                    if play == server.play:
                        await server.connected()
                    await play(data, piece=50)
                    await sink.until(lambda sink=sink: len(sink.readings) == 2)  # type: ignore[misc]
                    task.cancel()
                    await asyncio.wait({task})
                    assert sink.readings == GOOD * 2

    asyncio.run(test())


@needs_device_data
@pytest.mark.parametrize(
    "name", ["lu_smarty_decrypted", "sagemcom_t210d_austria_Wh", "pl_egm5_gama_repeated_codes"]
)
def test_telegrams_that_come_encrypted_are_read_so(name: str) -> None:
    (file,) = (each for each in device_files("p1") if each.path.stem == name)
    plain = decoded(file.data, P1Decoder())
    assert len(plain) == 1
    assert decoded(encipher(file.data, KEY, OTHER), ciphered()) == plain
    assert decoded(encipher(file.data, KEY, control=0x21), ciphered()) == plain


# -- settings ----------------------------------------------------------------------------------------


def test_repro_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    files = keys(tmp_path, key_file=KEY)
    Path(files["key_file"]).chmod(0o644)
    with pytest.raises(CredentialError, match="chmod 600") as caught:
        open_device(Settings.model_validate({"address": "/dev/x", **files}))
    assert KEY.hex() not in str(caught.value).lower()


def test_an_authentication_key_alone_is_refused(tmp_path: Path) -> None:
    files = keys(tmp_path, authentication_key_file=OTHER)
    with pytest.raises(ConfigError, match="needs key_file"):
        open_device(Settings.model_validate({"address": "/dev/x", **files}))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"line": "9600"}, "such as 115200 8N1"), ({"zone": "Mars/Olympus"}, "Europe/Helsinki"),
     ({"adress": "x"}, "did you mean address"), ({"silence_s": 0}, "silence_s")],
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        source_settings("p1", {"address": "/dev/ttyUSB0", **given})
    assert "\n" not in str(caught.value)


def test_a_gateways_line_ends_may_be_lost_and_a_ports_not() -> None:
    data = telegram(line_end="\n")
    for address, restore, count in (
        ("/dev/ttyUSB0", None, 0),
        ("tcp://h:1", None, 1),
        ("/dev/ttyUSB0", True, 1),
        ("tcp://h:1", False, 0),
    ):
        settings = Settings(address=address, restore_line_ends=restore)
        assert len(decoded(data, open_device(settings).decoder())) == count
