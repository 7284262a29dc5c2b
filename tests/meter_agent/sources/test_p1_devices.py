"""Every P1 file of the device data, through the decoder, a pseudo-terminal and a TCP connection."""

import asyncio
import random
from datetime import datetime
from typing import Any

import pytest

from gridhe.meter_agent.sources.p1.device import P1Device, Settings
from gridhe.meter_agent.sources.reading import Decoder, DeviceReading, total_wh
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.p1_telegrams import telegram
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair

pytestmark = needs_device_data
FILES = device_files("p1")
SERIAL, NETWORK = "/dev/ttyUSB0", "tcp://127.0.0.1:1"
# The zone is not in these telegrams: the settings have it.
ZONES = {
    "fi_adn9_eest": "Europe/Helsinki",
    "dk_nes5_long_timestamp": "Europe/Copenhagen",
    "hr_isk9_m551t_no_crc": "Europe/Zagreb",
}
# No reading, although expected.json shows one. The version line says 42, so the checksum is missing, and the
# file's note rejects it too ("suspect").
REFUSED = {"nl_xmx_dsmr42_nocrc_digits": "no_crc"}
FAULTS = {
    "bad_crc_flipped_digit": "crc",
    "empty_register": "empty_register",
    "glued_missing_tail": "cut_off",
    "heatlink_unpadded_crc": "no_register",
    "truncated_mid_line": "cut_off",
    **REFUSED,
}


def settings_of(file: DeviceFile, address: str) -> Settings:
    return Settings(address=address, zone=ZONES.get(file.path.stem))


def decoder_of(file: DeviceFile, address: str = SERIAL) -> Decoder:
    return P1Device(settings_of(file, address)).decoder()


def expected(file: DeviceFile, *, is_serial: bool = True) -> list[tuple[Any, ...]]:
    if file.path.stem in REFUSED or (file.verdict == "ok-if-crlf-restored" and is_serial):
        return []
    return [
        (
            each["import_wh"],
            each["export_wh"],
            each["power_w"],
            each["ts_utc"] and datetime.fromisoformat(each["ts_utc"]).timestamp(),
        )
        for each in file.readings
    ]


def seen(readings: list[DeviceReading]) -> list[tuple[Any, ...]]:
    """Import and export in whole Wh (exact here: no file has fractions of Wh), power, moment."""
    totals = [(total_wh(each.imported), total_wh(each.exported)) for each in readings]
    return [(*total, each.power_w, each.at_s) for total, each in zip(totals, readings, strict=True)]


def decoded(decoder: Decoder, data: bytes, *, step: int = 1 << 20) -> list[DeviceReading]:
    readings = []
    for start in range(0, len(data), step):
        readings += decoder.feed(data[start : start + step])
    return readings + decoder.pause()


def test_all_files_are_known() -> None:
    assert len(FILES) == 47
    by_verdict: dict[str, int] = {}
    for file in FILES:
        by_verdict[file.verdict] = by_verdict.get(file.verdict, 0) + 1
    assert by_verdict == {
        "ok": 34, "reject": 2, "suspect": 1, "policy": 2, "incomplete": 1, "no-reading": 1,
        "ok-host-clock": 2, "ok-second-only": 1, "ok-if-crlf-restored": 1, "ok-if-masked": 1,
        "ok-ambiguous-clock": 1,
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_gives_its_readings(file: DeviceFile) -> None:
    for address in (SERIAL, NETWORK):
        decoder = decoder_of(file, address)
        right = expected(file, is_serial=address == SERIAL)
        assert seen(decoded(decoder, file.data)) == right
        fault = FAULTS.get(file.path.stem)
        if file.verdict == "ok-if-crlf-restored" and address == SERIAL:
            fault = "lf_only"
        assert decoder.faults == ({fault: 1} if fault else {})


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_split_at_every_byte(file: DeviceFile) -> None:
    whole = decoded(decoder_of(file), file.data)
    cuts = range(1, len(file.data), 1 + len(file.data) // 1500)
    for cut in cuts:
        decoder = decoder_of(file)
        first = decoder.feed(file.data[:cut])
        assert first + decoder.feed(file.data[cut:]) + decoder.pause() == whole, cut
    assert decoded(decoder_of(file), file.data, step=1) == whole


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_cut_off_anywhere_gives_its_first_readings_and_lets_the_next_through(
    file: DeviceFile,
) -> None:
    right = expected(file)
    after = seen(decoded(decoder_of(file), telegram()))
    for cut in range(0, len(file.data), 1 + len(file.data) // 400):
        decoder = decoder_of(file)
        first = seen(decoded(decoder, file.data[:cut]))
        assert first == right[: len(first)], cut
        glued = seen(decoded(decoder_of(file), file.data[:cut] + telegram()))  # no line end, no pause
        assert glued[-1:] == after, cut
        assert glued[:-1] == right[: len(glued) - 1], cut


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_with_noise_round_it(file: DeviceFile) -> None:
    right = expected(file)
    rng = random.Random(file.path.stem)
    for _ in range(20):
        noise = [rng.randbytes(rng.randrange(300)) for _ in range(3)]
        decoder = decoder_of(file)
        data = noise[0] + b"\r\n" + file.data + noise[1] + b"\r\n" + file.data + noise[2]
        readings = seen(decoded(decoder, data))
        # A telegram without checksum does not bear noise on its own lines; the others do.
        assert readings == right * 2


def everything() -> tuple[bytes, list[tuple[Any, ...]]]:
    """All files of one zone, joined, and their readings."""
    files = [file for file in FILES if file.path.stem not in ZONES]
    data = b"".join(file.data for file in files)
    return data, [each for file in files for each in expected(file)]


@pytest.mark.parametrize("step", [1, 5, 64, 1 << 20])
def test_all_files_glued(step: int) -> None:
    data, right = everything()
    assert seen(decoded(decoder_of(FILES[0]), data, step=step)) == right


async def through(file: DeviceFile, address: str, play: Any, sink: RecordingSink) -> None:
    """Run the real device at `address`, and play the file and a telegram that shows that all was decoded."""
    task = asyncio.create_task(P1Device(settings_of(file, address)).run(sink))
    try:
        await sink.until(lambda: bool(sink.names))
        await play(file.data)
        await play(b"\r\n" + telegram())
        await sink.until(lambda: bool(sink.readings) and sink.readings[-1].device == "E0099900000000001"
                         and sink.bytes == len(file.data) + 2 + len(telegram()))  # fmt: skip
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_through_a_terminal(file: DeviceFile, tmp_path: Any) -> None:
    async def test() -> None:
        with SerialPair(tmp_path / "ttyP1") as pair:
            sink = RecordingSink()

            async def play(data: bytes) -> None:
                await pair.play(data, piece=1)

            await through(file, str(pair.path), play, sink)
            assert seen(sink.readings[:-1]) == expected(file)

    asyncio.run(test())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_through_a_gateway(file: DeviceFile) -> None:
    async def test() -> None:
        async with PlayingServer() as server:
            sink = RecordingSink()

            async def play(data: bytes) -> None:
                await server.connected()
                await server.play(data, piece=7)

            await through(file, server.address, play, sink)
            assert seen(sink.readings[:-1]) == expected(file, is_serial=False)

    asyncio.run(test())
