"""HAN pushes: makes, layouts of lists, scales, clocks, and what people report about them."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gridhe.meter_agent.sources.ciphering import decipher
from gridhe.meter_agent.sources.han.decoder import HanDecoder
from gridhe.meter_agent.sources.han.energy import Agreements
from gridhe.meter_agent.sources.han.profiles import PROFILES
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.stamps import Stamps
from gridhe_testing.ciphered import encipher
from gridhe_testing.dlms_meter import (
    NULL,
    array,
    clock,
    code,
    enum,
    hdlc,
    i8,
    i32,
    mbus_segments,
    notification,
    octets,
    scaler,
    structure,
    text,
    u16,
    u32,
)

KEY, AUTHENTICATION_KEY = bytes(range(16)), bytes(range(16, 32))
KAMSTRUP = text("Kamstrup_V0001")
REGISTERS = (code("1-0:1.8.0"), u32(1234567), code("1-0:2.8.0"), u32(89))
Plain = tuple[Decimal | None, Decimal | None, Decimal | None]


def decoder(zone: str | None = "Europe/Oslo", profile: str = "", **kinds: Any) -> HanDecoder:
    decipherer = kinds.pop("decipher", None)
    return HanDecoder(
        agreements=Agreements(zone=ZoneInfo(zone) if zone else None, **kinds),
        profile=next((each for each in PROFILES if each.name == profile), None),
        **({"decipher": decipherer} if decipherer else {}),
    )


def one(body: bytes, *, time: bytes = b"", addresses: bytes = b"\x41\x03", **kinds: Any) -> DeviceReading:
    reader = decoder(**kinds)
    (reading,) = reader.feed(hdlc(notification(body, time), addresses=addresses))
    return reading


def fault_of(body: bytes, **kinds: Any) -> dict[str, int]:
    reader = decoder(**kinds)
    assert reader.feed(hdlc(notification(body))) == []
    return dict(reader.faults)


def plain(reading: DeviceReading) -> Plain:
    return total_wh(reading.imported), total_wh(reading.exported), reading.power_w


def watts(obis: str, value: bytes, exponent: int = 0) -> bytes:
    return structure(code(obis), value, scaler(exponent, 27))


def energy(obis: str, value: bytes, exponent: int = 0, unit: int = 30) -> bytes:
    return structure(code(obis), value, scaler(exponent, unit))


def described(*codes: str, attribute: int = 2, itself: bool = True) -> bytes:
    own = [structure(u16(40), code("0-8:25.9.0"), i8(2), u16(0))] if itself else []
    return array(*own, *(structure(u16(3), code(each), i8(attribute), u16(0)) for each in codes))


# Layouts


LAYOUTS: dict[str, bytes] = {
    "structures (Aidon, Iskraemeco)": structure(
        energy("1-0:1.8.0", u32(1234567)),
        energy("1-0:2.8.0", u32(89)),
        watts("1-0:1.7.0", u32(345)),
        watts("1-0:2.7.0", u32(1000)),
    ),
    "structures in arrays": array(
        array(energy("1-0:1.8.0", u32(1234567)), energy("1-0:2.8.0", u32(89))),
        structure(structure(watts("1-0:1.7.0", u32(345)), watts("1-0:2.7.0", u32(1000)))),
    ),
    "a pair, then structures (Kaifa in Salzburg)": structure(
        code("0-0:96.1.0"),
        octets(b"1KFM"),
        energy("1-0:1.8.0", u32(1234567)),
        energy("1-0:2.8.0", u32(89)),
        watts("1-0:1.7.0", u32(345)),
        watts("1-0:2.7.0", u32(1000)),
    ),
    "in a row (Landis+Gyr, Kamstrup)": structure(
        text("LGZ1"),
        *REGISTERS,
        NULL,
        NULL,
        code("1-0:1.7.0"),
        u32(345),
        code("1-0:2.7.0"),
        u32(1000),
    ),
    "in a row, with scalers, the id last (Kaifa in Lower Austria)": structure(
        octets(clock("2026-01-10 09:10:00", -60)),
        code("1-0:1.8.0"),
        u32(1234567),
        scaler(0),
        code("1-0:2.8.0"),
        u32(89),
        scaler(0),
        code("1-0:1.7.0"),
        u32(345),
        scaler(0, 27),
        code("1-0:2.7.0"),
        u32(1000),
        scaler(0, 27),
        octets(b"181100004"),
    ),
    "value and scaler in a structure": structure(
        structure(code("1-0:1.8.0"), structure(u32(1234567), scaler(0))),
        structure(code("1-0:2.8.0"), structure(u32(89), scaler(0))),
        structure(code("1-0:16.7.0"), structure(i32(-655), scaler(0, 27))),
    ),
    "attributes with class": array(
        structure(u16(3), code("1-0:1.8.0"), i8(2), u32(1234567)),
        structure(u16(3), code("1-0:1.8.0"), i8(3), scaler(0)),
        structure(u16(3), code("1-0:2.8.0"), i8(2), u32(89)),
        structure(u16(3), code("1-0:2.8.0"), i8(3), scaler(0)),
        structure(u16(3), code("1-0:16.7.0"), i8(2), i32(-655)),
    ),
    "descriptors first (Landis+Gyr E450)": structure(
        described("1-1:1.8.0", "1-1:2.8.0", "1-1:16.7.0"), u32(1234567), u32(89), i32(-655)
    ),
    "descriptors that leave themselves out": structure(
        described("1-1:1.8.0", "1-1:2.8.0", "1-1:16.7.0", itself=False), u32(1234567), u32(89), i32(-655)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_list_gives_the_same_reading(layout: str) -> None:
    assert plain(one(LAYOUTS[layout])) == (Decimal(1234567), Decimal(89), Decimal(-655))


def test_values_with_scalers_in_other_attributes_are_scaled() -> None:
    body = structure(
        array(
            structure(u16(40), code("0-8:25.9.0"), i8(2), u16(0)),
            structure(u16(3), code("1-0:1.8.0"), i8(3), u16(0)),
            structure(u16(3), code("1-0:1.8.0"), i8(2), u16(0)),
        ),
        scaler(3),
        u32(7),
    )
    assert plain(one(body))[0] == Decimal(7000)


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize("hourly", [False, True])
def test_kaifas_lists_without_codes_are_read_by_position(phases: int, hourly: bool) -> None:
    ids = (octets(b"KFM_001"), octets(b"6970631400000001"), octets(b"MA304H4"))
    powers = (u32(2500), u32(10), u32(0), u32(140), *[u32(1)] * (2 * phases))
    stamp = octets(clock("2026-01-25 14:00:10"))
    registers = (stamp, u32(79_591_144), u32(5), u32(1), u32(2)) if hourly else ()
    reading = one(structure(*ids, *powers, *registers), time=clock("2026-01-25 14:00:10"))
    expected = (Decimal(79_591_144), Decimal(5)) if hourly else (None, None)
    assert plain(reading) == (*expected, Decimal(2490))
    assert reading.device == "6970631400000001"
    assert reading.at_s == datetime.fromisoformat("2026-01-25T13:00:10Z").timestamp()


def test_repro_a_list_without_codes_of_an_unknown_make_is_not_read_by_position() -> None:
    ids = (octets(b"ABC_001"), octets(b"1"), octets(b"2"))
    body = structure(*ids, u32(2500), *[u32(1)] * 9)
    assert fault_of(body) == {"list": 1}
    kaifa = octets(b"KFM_001")
    wrong_kind = structure(kaifa, u32(1), octets(b"2"), *[u32(1)] * 10)
    assert fault_of(wrong_kind) == {"list": 1}


@pytest.mark.parametrize(
    "body",
    [
        structure(*REGISTERS, code("1-0:1.7.0")),  # no value
        structure(*REGISTERS, u32(5)),  # no code
        structure(*REGISTERS, NULL),  # half of a missing phase
        structure(energy("1-0:1.8.0", u32(1)), u32(5)),
        structure(energy("1-0:1.8.0", u32(1)), NULL, NULL, octets(clock("2026-01-01 00:00:00"))),
        structure(energy("1-0:1.8.0", u32(1)), structure(u32(1), u32(2))),
        structure(described("1-0:1.8.0", "1-0:2.8.0"), u32(1)),
        structure(structure(u16(3), code("1-0:1.8.0"), i8(3), scaler(0))),
        u32(5),
    ],
)
def test_repro_a_list_that_does_not_fit_together_is_no_reading(body: bytes) -> None:
    assert sum(fault_of(body, register_wh=Decimal(1)).values()) == 1


def test_a_push_of_something_else_is_no_reading() -> None:
    assert fault_of(structure(code("0-0:96.1.0"), octets(b"1"))) == {"no_reading": 1}


# Registers


def test_a_total_is_read_and_its_tariffs_are_not_added() -> None:
    tariffs = [energy(f"1-0:1.8.{tariff}", u32(500)) for tariff in (1, 2)]
    reading = one(structure(*tariffs, energy("1-0:1.8.0", u32(1001)), energy("1-0:2.8.1", u32(3))))
    assert {name: each.wh for name, each in reading.imported.items()} == {"1-0:1.8.0": Decimal(1001)}
    assert {name: each.wh for name, each in reading.exported.items()} == {"1-0:2.8.1": Decimal(3)}


def test_without_a_total_every_tariff_is_a_register() -> None:
    reading = one(structure(*(energy(f"1-0:1.8.{tariff}", u32(500)) for tariff in (1, 2, 3))))
    assert reading.imported.keys() == {"1-0:1.8.1", "1-0:1.8.2", "1-0:1.8.3"}
    assert reading.exported == {}


def test_history_reactive_and_absolute_energy_are_no_registers() -> None:
    body = structure(
        energy("1-0:1.8.0*1", u32(900)),  # the end of last month
        energy("1-0:15.8.0", u32(5)),
        energy("1-0:3.8.0", u32(5), unit=32),
        energy("6-0:1.8.0", u32(5)),  # heat
        watts("1-0:1.7.0", u32(1)),
    )
    assert plain(one(body)) == (None, None, Decimal(1))


@pytest.mark.parametrize("exponent", [-3, 0, 1, 3])
def test_repro_a_scaler_moves_value_and_step(exponent: int) -> None:
    reading = one(structure(energy("1-0:1.8.0", u32(2_272_138), exponent)))
    (register,) = reading.imported.values()
    assert register.wh == Decimal(2_272_138) * Decimal(10) ** exponent
    assert register.step_wh == Decimal(10) ** exponent


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (energy("1-0:1.8.0", u32(5), unit=32), "unit"),
        (energy("1-0:1.8.0", u32(5), exponent=100), "scale"),
        (energy("1-0:1.8.0", i32(-5)), "type"),
        (energy("1-0:1.8.0", i8(5)), "type"),
        (energy("1-0:1.8.0", octets(b"12345")), "type"),
        (energy("1-0:1.8.0", b"\x17\x7f\xc0\x00\x00"), "type"),  # not a number
        (energy("1-0:1.8.0", b"\x18\x7f\xf0" + bytes(6)), "type"),  # infinite
    ],
)
def test_repro_a_register_that_cannot_be_used_leaves_its_direction_out(entry: bytes, fault: str) -> None:
    reader = decoder()
    (reading,) = reader.feed(hdlc(notification(structure(entry, energy("1-0:2.8.0", u32(7))))))
    assert plain(reading) == (None, Decimal(7), None)
    assert reader.faults == {fault: 1}
    assert len(reading.remarks) == 1


@pytest.mark.parametrize("missing", ["1-0:1.8.0", "1-0:1.8.2"])
def test_a_register_without_a_value_leaves_its_direction_out(missing: str) -> None:
    rest = [energy(f"1-0:1.8.{tariff}", u32(500)) for tariff in (1, 3)]
    reading = one(structure(energy(missing, NULL), *rest, energy("1-0:2.8.0", u32(7))))
    assert plain(reading) == (None, Decimal(7), None)


def test_repro_two_values_of_one_register_are_no_reading() -> None:
    twice = structure(energy("1-0:1.8.0", u32(5)), energy("1-0:1.8.0", u32(5)))
    assert plain(one(twice))[0] == Decimal(5)
    assert fault_of(structure(energy("1-0:1.8.0", u32(5)), energy("1-1:1.8.0", u32(6)))) == {"conflict": 1}


@pytest.mark.parametrize(
    ("entries", "power"),
    [
        ((watts("1-0:1.7.0", u32(500)), watts("1-0:2.7.0", u32(1720))), "-1220"),
        ((watts("1-0:1.7.0", u32(500)),), "500"),
        ((watts("1-0:2.7.0", u32(1720)),), "-1720"),
        ((watts("1-0:16.7.0", i32(-42), -1),), "-4.2"),
        ((watts("1-0:1.7.0", i32(-1)), watts("1-0:16.7.0", i32(5))), "-1"),
    ],
)
def test_repro_power_is_import_minus_export(entries: tuple[bytes, ...], power: str) -> None:
    assert one(structure(*entries)).power_w == Decimal(power)


def test_the_equipments_id_is_text_without_filling() -> None:
    entry = structure(code("0-0:96.1.0"), text("40799901\x00\x00\x00"))
    assert one(structure(entry, watts("1-0:1.7.0", u32(1)))).device == "40799901"
    binary = structure(code("0-0:96.1.0"), octets(b"\x01\xfe"))
    assert one(structure(binary, watts("1-0:1.7.0", u32(1)))).device == "01fe"
    assert one(LAYOUTS["in a row, with scalers, the id last (Kaifa in Lower Austria)"]).device == "181100004"


# Scales without a scaler (field note 36)


@pytest.mark.parametrize(
    ("zone", "step"), [("Europe/Oslo", 10), ("Europe/Copenhagen", 10), ("Europe/Stockholm", 1)]
)
def test_repro_kamstrups_step_is_the_countrys(zone: str, step: int) -> None:
    reading = one(structure(KAMSTRUP, *REGISTERS), zone=zone)
    assert plain(reading)[:2] == (Decimal(1234567 * step), Decimal(89 * step))
    assert {each.step_wh for each in reading.imported.values()} == {Decimal(step)}


@pytest.mark.parametrize("zone", [None, "Europe/Zurich"])
@pytest.mark.parametrize("head", [(KAMSTRUP,), ()])
def test_repro_a_step_that_is_not_known_is_not_guessed(zone: str | None, head: tuple[bytes, ...]) -> None:
    body = structure(*head, *REGISTERS, code("1-0:1.7.0"), u32(3))
    reader = decoder(zone=zone)
    (reading,) = reader.feed(hdlc(notification(body)))
    assert plain(reading) == (None, None, Decimal(3))
    assert reader.faults == {"scale": 2}
    (remark,) = reading.remarks
    assert "register_wh" in remark
    told = one(body, zone=zone, register_wh=Decimal(10))
    assert plain(told)[:2] == (Decimal(12345670), Decimal(890))


def test_the_setting_counts_only_where_the_telegram_has_no_scaler() -> None:
    body = structure(KAMSTRUP, energy("1-0:1.8.0", u32(5), 0))
    assert plain(one(body, register_wh=Decimal(10)))[0] == Decimal(5)


@pytest.mark.parametrize("text_", ["KFM_001", "EMBRIQ_V1_1", "ISK1030", "LGZ1030"])
def test_makes_whose_step_is_1_wh_are_known_by_their_texts(text_: str) -> None:
    assert plain(one(structure(text(text_), *REGISTERS)))[0] == Decimal(1234567)


def test_a_make_is_known_by_its_address_or_the_setting_and_remembered_until_the_port_is_opened_again() -> (
    None
):
    body = structure(*REGISTERS)
    assert plain(one(body, addresses=b"\xce\xff\x03"))[0] == Decimal(1234567)
    assert plain(one(body, profile="kamstrup"))[0] == Decimal(12345670)
    reader = decoder()
    reader.feed(hdlc(notification(structure(KAMSTRUP, code("1-0:1.7.0"), u32(1)))))
    (reading,) = reader.feed(hdlc(notification(body)))
    assert plain(reading)[0] == Decimal(12345670)
    reader.reset()
    assert reader.feed(hdlc(notification(body))) == []


# Clocks (field notes 31 to 34)


def stamped(stamp: bytes, make: str = "", **kinds: Any) -> str | None:
    head = (text(make),) if make else ()
    body = structure(*head, structure(code("0-0:1.0.0"), octets(stamp)), energy("1-0:1.8.0", u32(1)))
    at_s = one(body, **kinds).at_s
    return None if at_s is None else datetime.fromtimestamp(at_s, ZoneInfo("UTC")).strftime("%d %H:%M")


WINTER, SUMMER = "2026-01-20 16:00:00", "2026-07-20 16:00:00"
AUTUMN_TWICE, SPRING_NEVER = "2026-10-25 02:30:00", "2026-03-29 02:30:00"


@pytest.mark.parametrize(
    ("stamp", "make", "moment"),
    [
        (clock(WINTER), "", "20 15:00"),
        (clock(SUMMER), "", None),  # normal or summer time: not known
        (clock(WINTER, deviation=0), "AIDON_V0001", "20 15:00"),  # says UTC, means Norwegian normal time
        (clock(SUMMER, deviation=0), "AIDON_V0001", "20 15:00"),
        (clock(SUMMER), "Kamstrup_V0001", "20 15:00"),
        (clock(SUMMER, status=0x80), "Kamstrup_V0001", "20 15:00"),  # the summer bit is only information
        (clock(WINTER, deviation=-60), "", "20 15:00"),
        (clock(SUMMER, deviation=-60), "", "20 15:00"),  # normal time in summer, and says so
        (clock(SUMMER, deviation=-120, status=0x80), "", "20 14:00"),
        (clock(SUMMER, deviation=120), "", "20 14:00"),  # the opposite sign
        (clock(SUMMER, deviation=-60, status=0x80), "", None),  # summer time with the offset of winter
        (clock(SUMMER, deviation=-180), "", None),  # no offset of this zone
        (clock(WINTER, status=0x01), "", None),  # marked invalid
        (clock(WINTER, status=0xFF), "", "20 15:00"),  # no status
        (b"\xff" * 12, "", None),
        (clock(WINTER)[:4] + b"\xff\x19\x00\x00\xff\x80\x00\x00", "", None),  # 25 o'clock
        (clock(WINTER)[:11], "", None),
    ],
)
def test_repro_a_stamp_is_dated_by_zone_and_make_and_never_by_its_deviation_alone(
    stamp: bytes, make: str, moment: str | None
) -> None:
    assert stamped(stamp, make) == moment


@pytest.mark.parametrize(
    ("stamp", "season", "moment"),
    [
        (SUMMER, "standard", "20 15:00"),
        (SUMMER, "local", "20 14:00"),
        (AUTUMN_TWICE, "standard", "25 01:30"),
        (AUTUMN_TWICE, "local", None),
        (SPRING_NEVER, "standard", "29 01:30"),
        (SPRING_NEVER, "local", None),
    ],
)
def test_the_setting_says_what_the_clock_does_in_summer(stamp: str, season: str, moment: str | None) -> None:
    assert stamped(clock(stamp), season=season) == moment


def test_swedish_meters_stay_on_normal_time_and_no_zone_means_no_date() -> None:
    assert stamped(clock(SUMMER), zone="Europe/Stockholm") == "20 15:00"
    assert stamped(clock(WINTER), zone=None) is None
    assert stamped(clock(WINTER, deviation=0), zone=None) is None
    assert stamped(clock(WINTER, deviation=60), zone=None) is None
    assert stamped(clock(WINTER, deviation=-60), zone=None) == "20 15:00"


def test_repro_the_clock_inside_dates_a_push_before_the_time_of_sending() -> None:
    body = structure(
        text("AIDON"),
        structure(code("0-0:1.0.0"), octets(clock("2025-12-14 17:00:00"))),
        energy("1-0:1.8.0", u32(1)),
    )
    reading = one(body, time=clock("2025-12-14 18:00:11"))
    assert reading.at_s == datetime.fromisoformat("2025-12-14T16:00:00Z").timestamp()
    sent = one(structure(energy("1-0:1.8.0", u32(1))), time=clock("2025-12-14 18:00:11"))
    assert sent.at_s == datetime.fromisoformat("2025-12-14T17:00:11Z").timestamp()


def aidon_hour(hour: int, tens_of_wh: int, power: int) -> bytes:
    body = structure(
        structure(code("1-1:0.2.129"), text("AIDON_V0001")),
        watts("1-0:1.7.0", u32(power)),
        structure(code("0-0:1.0.0"), octets(clock(f"2025-12-14 {hour}:00:00", deviation=0))),
        energy("1-0:1.8.0", u32(tens_of_wh), 1),
    )
    return hdlc(notification(body))


def test_repro_aidons_repeated_hour_is_used_once_and_hours_are_dated_by_the_clock_inside() -> None:
    """Field notes 31 and 32: snapshots arrive 11 s after the hour; the third repeats the second."""
    reader, stamps = decoder(), Stamps("auto")
    used = []
    hours = [(16, 100_000, 4027), (17, 100_177, 319), (17, 100_177, 12633), (19, 100_982, 763)]
    for arrival, (hour, value, power) in enumerate(hours, start=16):
        (reading,) = reader.feed(aidon_hour(hour, value, power))
        arrived_s = datetime.fromisoformat(f"2025-12-14T{arrival - 1}:00:11Z").timestamp()
        at_s = stamps.date(reading, arrived_s)
        if at_s is not None:
            used.append((datetime.fromtimestamp(at_s, ZoneInfo("UTC")).hour, total_wh(reading.imported)))
    assert used == [(15, 1_000_000), (16, 1_001_770), (18, 1_009_820)]


def test_repro_a_meter_that_is_8_minutes_fast_is_dated_by_this_computer() -> None:
    """Field note 34: an E450 without a clock object; only the push has a time."""
    reader, stamps = decoder(zone="Europe/Zurich"), Stamps("auto")
    found = []
    for minute in range(10, 20):
        body = structure(described("1-1:1.8.0"), u32(1000 + minute))
        (reading,) = reader.feed(hdlc(notification(body, clock(f"2026-01-22 16:{minute + 8}:00"))))
        arrived_s = datetime.fromisoformat(f"2026-01-22T15:{minute}:00Z").timestamp()
        at_s = stamps.date(reading, arrived_s)
        found.append(None if at_s is None else at_s - arrived_s)
    assert found == [None, None, *[0.0] * 8]
    assert stamps.events == {"clock": 1}


def test_repro_a_wrong_parity_gives_no_reading_and_says_so() -> None:
    """Field note 35: an 8E1 line that is read as 8N1 loses characters whose parity bit is 0."""
    frame = aidon_hour(16, 100_000, 4027)
    heard = bytes(byte if byte.bit_count() % 2 else 0 for byte in frame[1:-1])
    reader = decoder()
    assert reader.feed((b"\x7e" + heard + b"\x7e") * 3) + reader.pause() == []
    assert reader.waiting_for is not None
    assert "parity" in reader.waiting_for


# Encryption


def opener(key: bytes, second: bytes | None) -> Callable[[bytes], bytes]:
    return lambda apdu: decipher(apdu, key, second)


ENCRYPTED_BODY = LAYOUTS["in a row, with scalers, the id last (Kaifa in Lower Austria)"]


@pytest.mark.parametrize("control", [0x20, 0x30])
@pytest.mark.parametrize("second", [None, AUTHENTICATION_KEY])
def test_an_encrypted_push_is_read_with_its_key(control: int, second: bytes | None) -> None:
    apdu = encipher(notification(ENCRYPTED_BODY), KEY, AUTHENTICATION_KEY, control=control)
    for data in (b"".join(mbus_segments(apdu, 100)), hdlc(apdu), apdu):
        reader = decoder(decipher=opener(KEY, second))
        (reading,) = reader.feed(data) + reader.pause()
        assert plain(reading) == (Decimal(1234567), Decimal(89), Decimal(-655))
        assert reader.faults == {}


@pytest.mark.parametrize(
    ("key", "second"),
    [(bytes(16), None), (bytes(16), AUTHENTICATION_KEY), (KEY, bytes(16)), (bytes(32), None)],
)
def test_repro_a_wrong_key_is_one_reason_and_no_reading(key: bytes, second: bytes | None) -> None:
    apdu = encipher(notification(ENCRYPTED_BODY), KEY, AUTHENTICATION_KEY)
    for data in (hdlc(apdu), apdu):
        reader = decoder(decipher=opener(key, second))
        assert reader.feed(data) + reader.pause() == []
        assert reader.faults == {"wrong_key": 1}
        assert reader.waiting_for is not None
        assert "key_file" in reader.waiting_for


def test_repro_a_forged_bit_is_refused_with_the_authentication_key() -> None:
    apdu = bytearray(encipher(notification(ENCRYPTED_BODY), KEY, AUTHENTICATION_KEY))
    apdu[70] ^= 1
    reader = decoder(decipher=opener(KEY, AUTHENTICATION_KEY))
    assert reader.feed(hdlc(bytes(apdu))) == []
    assert reader.faults == {"wrong_key": 1}


def test_an_encrypted_push_without_a_key_says_so() -> None:
    apdu = encipher(notification(ENCRYPTED_BODY), KEY)
    for data in (hdlc(apdu), apdu):
        reader = decoder()
        assert reader.feed(data) + reader.pause() == []
        assert reader.faults == {"no_key": 1}
        assert "key_file" in (reader.waiting_for or "")


def test_an_encrypted_push_without_an_id_has_its_system_title() -> None:
    apdu = encipher(notification(structure(energy("1-0:1.8.0", u32(1)))), KEY, title=b"KAMABCDE")
    reader = decoder(decipher=opener(KEY, None))
    (reading,) = reader.feed(hdlc(apdu))
    assert reading.device == b"KAMABCDE".hex()
    assert enum(1) == b"\x16\x01"
