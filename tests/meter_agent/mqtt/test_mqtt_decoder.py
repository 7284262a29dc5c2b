"""Messages to readings, without a broker: numbers, units, times, arrays, parts. Payloads are made up here."""

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import ConfigError
from gridhe.meter_agent.sources.mqtt.decoder import FRESH_S, MessageDecoder
from gridhe.meter_agent.sources.mqtt.formats import FORMATS
from gridhe.meter_agent.sources.mqtt.settings import Settings
from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.payload import MAX_BYTES, epoch_s, parse_json
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.home_decoders import EVERY_FORMAT, check_reading

NOW_S = 1_736_510_400.0  # 2025-01-10 12:00 UTC
PLUG = {"format": "zigbee2mqtt", "topic": "z/p"}
JSON = {"format": "json", "topic": "m", "import_path": "in", "unit": "kWh"}


def decoder(**options: Any) -> MessageDecoder:
    return MessageDecoder(Settings(address="mqtt://127.0.0.1", **options))


def one(made: MessageDecoder, payload: Any, topic: str | None = None, **options: Any) -> DeviceReading | None:
    """The reading of one message on the device's (first) topic."""
    text = payload if isinstance(payload, str | bytes) else json.dumps(payload)
    data = text.encode() if isinstance(text, str) else text
    options = {"retained": False, "arrived_s": NOW_S} | options
    arrivals = made.message(topic or made.topics[0], data, **options)
    assert len(arrivals) <= 1
    return arrivals[0].reading if arrivals else None


def imported(reading: DeviceReading | None) -> Decimal | None:
    return None if reading is None else total_wh(reading.imported)


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wh"),
    [
        ("7.41", "7410"),
        ("0.0005", "0.5"),
        ("1e2", "100000"),
        ("12345678.901", "12345678901"),
        ("0.1", "100"),
        ("1000.0050000000001", "1000005"),
        ('"10732.3091"', "10732309.1"),
        ('" 12.5 \\n"', "12500"),
        ("123456789012345678", "123456789012345678000"),
    ],
)
def test_the_digits_of_a_number_are_its_value(text: str, wh: str) -> None:
    assert imported(one(decoder(**JSON), f'{{"in":{text}}}')) == Decimal(wh)


def test_repro_the_noise_of_a_binary_fraction_is_no_watt_hour_less() -> None:
    made = decoder(**PLUG)
    for text in ("7.409999999999999", "7.410000000000001", "7.41"):
        assert imported(one(made, f'{{"energy":{text}}}')) == 7_410, text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("null", "null"),
        ('"unavailable"', "null"),
        ('"None"', "null"),
        ('""', "null"),
        ("NaN", "not_a_number"),
        ("Infinity", "not_a_number"),
        ("-Infinity", "not_a_number"),
        ("1e309", "not_a_number"),
        ("1e999999", "not_a_number"),
        ("1e99999999999999999999", "not_a_number"),
        ("1e-999999", "not_a_number"),
        ("9" * 60, "not_a_number"),
        ("9" * 5_000, "not_a_number"),
        ("true", "not_a_number"),
        ("[]", "not_a_number"),
        ("[5]", "not_a_number"),
        ('{"a":1}', "not_a_number"),
        ('"5.123,6"', "not_a_number"),
        ('"5,123"', "not_a_number"),
        ('"229 W"', "not_a_number"),
        ('"0x10"', "not_a_number"),
        ('"1_000"', "not_a_number"),
        ('"\u0661\u0662"', "not_a_number"),
        ("-5", "impossible"),
        ("0", "zero"),
        ("0.000", "zero"),
    ],
)
def test_repro_a_value_that_is_no_sure_number_is_no_reading_and_not_zero(text: str, reason: str) -> None:
    made = decoder(**JSON)
    assert one(made, f'{{"in":{text}}}') is None
    assert made.faults == Counter({reason: 1})


def test_repro_a_key_that_is_there_twice_with_two_values_is_not_used() -> None:
    made = decoder(**JSON)
    assert one(made, '{"in":5,"in":6}') is None
    assert made.faults == {"not_a_number": 1}
    assert imported(one(made, '{"in":5,"in":5}')) == 5_000


def test_a_decimal_comma_is_read_only_where_it_is_configured() -> None:
    assert one(decoder(**JSON), '{"in":"12345,8"}') is None
    comma = decoder(**JSON, decimal=",")
    assert imported(one(comma, '{"in":"12345,8"}')) == 12_345_800
    assert one(comma, '{"in":"5.123,6"}') is None
    assert one(comma, '{"in":"12345.8"}') is None
    assert imported(one(comma, '{"in":12345.8}')) == 12_345_800  # JSON's own mark is a point


def test_esphomes_32_bit_numbers_are_the_shortest_decimal_of_their_float() -> None:
    made = decoder(format="esphome", topic="e/state", unit="kWh")
    for text in ("8345.45996", "8345.46", "8345.4599609375"):
        assert imported(one(made, text)) == 8_345_460, text
    reading = one(made, "8345.46")
    assert reading is not None
    (register,) = reading.imported.values()
    assert register.step_wh == Decimal("0.977")  # 2**-10 kWh


@pytest.mark.parametrize(
    ("unit", "wh"), [("Wh", "6"), ("kWh", "6000"), ("MWh", "6000000"), ("Wmin", "0.1"), ("MJ", "1666.6666")]
)
def test_the_unit_is_the_settings(unit: str, wh: str) -> None:
    found = imported(one(decoder(**(JSON | {"unit": unit})), '{"in":6}'))
    assert found is not None
    assert abs(found - Decimal(wh)) < Decimal("0.001")


def test_pulses_are_counted_exactly_and_a_part_of_one_is_none() -> None:
    made = decoder(format="pulse", topic="s0", pulses_per_kwh=800)
    assert imported(one(made, "1001")) == Decimal("1251.25")
    assert one(made, "1001.5") is None
    assert made.faults == {"impossible": 1}


def test_a_resolution_is_not_taken_from_a_digit_that_is_not_written() -> None:
    made = decoder(**PLUG)
    steps = []
    for text in ("1000.005", "1000.01", "1000.1", "1001", "1001.005"):
        reading = one(made, f'{{"energy":{text}}}')
        assert reading is not None
        steps += [register.step_wh for register in reading.imported.values()]
    assert steps == [1, 1, 1, 1, 1]


# -- parts, phases, tariffs --------------------------------------------------------------------


def test_an_array_of_phases_is_summed_and_a_null_in_it_takes_the_direction_away() -> None:
    made = decoder(format="tasmota", topic="tele/x/SENSOR")
    reading = one(made, {"ENERGY": {"Total": [33.736, 11.717, 16.978], "Power": [8.15, 0]}})
    assert imported(reading) == 62_431
    assert reading is not None
    assert reading.power_w == Decimal("8.15")
    assert one(made, {"ENERGY": {"Total": [33.736, None, 16.978]}}) is None
    assert made.faults == {"null": 1}


def test_repro_an_array_of_a_total_and_its_tariffs_is_not_summed() -> None:
    payload = {"ENERGY": {"Total": [30.453, 10.151, 20.301]}}
    made = decoder(format="tasmota", topic="tele/x/SENSOR")
    assert one(made, payload) is None
    assert made.faults == {"array": 1}
    assert "array=first" in made.details["array"]
    first = decoder(format="tasmota", topic="tele/x/SENSOR", array="first")
    assert imported(one(first, payload)) == 30_453
    phases = decoder(format="tasmota", topic="tele/x/SENSOR", array="sum")
    assert imported(one(phases, payload)) == 60_905


def test_a_sum_of_several_paths_needs_all_of_them() -> None:
    made = decoder(**(JSON | {"import_path": "e.t1 + e.t2"}))
    reading = one(made, {"e": {"t1": 1.5, "t2": 2.25}})
    assert imported(reading) == 3_750
    assert reading is not None
    assert reading.imported.keys() == {"e.t1", "e.t2"}
    assert one(made, {"e": {"t1": 1.5}}) is None
    assert one(made, {"e": {"t1": 1.5, "t2": None}}) is None


def test_a_path_may_be_a_json_pointer_or_have_empty_keys_and_positions() -> None:
    assert imported(one(decoder(**(JSON | {"import_path": "/a.b/1.8.0"})), {"a.b": {"1.8.0": 1}})) == 1_000
    assert imported(one(decoder(**(JSON | {"import_path": ".x"})), {"": {"x": 1}})) == 1_000
    assert imported(one(decoder(**(JSON | {"import_path": "a.1.x"})), {"a": [0, {"x": 1}]})) == 1_000


def parts(*values: tuple[str, str]) -> list[tuple[str, bytes]]:
    return [(f"dsmr/reading/{name}", text.encode()) for name, text in values]


DELIVERED = parts(("electricity_delivered_1", "1000.001"), ("electricity_delivered_2", "2000.002"))
RETURNED = parts(("electricity_returned_1", "0.000"), ("electricity_returned_2", "5.000"))


def gathered(made: MessageDecoder, messages: list[tuple[str, bytes]], at_s: float = NOW_S) -> list[Any]:
    found = [made.message(topic, payload, retained=False, arrived_s=at_s) for topic, payload in messages]
    return [(total_wh(a.reading.imported), total_wh(a.reading.exported)) for each in found for a in each]


def test_the_parts_of_a_telegram_may_come_in_any_order() -> None:
    made = decoder(format="dsmr_reader", topic="dsmr")
    for order in (DELIVERED + RETURNED, RETURNED[::-1] + DELIVERED[::-1]):
        assert gathered(made, order) == []
        (arrival,) = made.pause()
        assert (total_wh(arrival.reading.imported), total_wh(arrival.reading.exported)) == (3_000_003, 5_000)
    assert made.faults == {}


def test_repro_parts_of_two_telegrams_are_not_added() -> None:
    made = decoder(format="dsmr_reader", topic="dsmr")
    assert gathered(made, DELIVERED[:1]) == []
    assert made.pause() == []
    assert gathered(made, DELIVERED[1:]) == []
    assert made.pause() == []
    assert made.faults == {"incomplete": 2}


def test_repro_a_part_that_comes_again_begins_the_next_telegram() -> None:
    made = decoder(format="dsmr_reader", topic="dsmr")
    later = parts(("electricity_delivered_1", "1000.500"))
    assert gathered(made, [*DELIVERED, *later]) == [(3_000_003, None)]
    assert made.pause() == []
    assert made.faults == {"incomplete": 1}


def test_repro_another_timestamp_begins_the_next_telegram() -> None:
    made = decoder(format="dsmr_reader", topic="dsmr")
    stamps = [parts(("timestamp", f"2025-01-10T11:59:{second}Z"))[0] for second in (10, 20)]
    assert gathered(made, [stamps[0], DELIVERED[0], stamps[1], DELIVERED[1]]) == []
    assert made.pause() == []
    assert made.faults == {"incomplete": 2}


def test_the_phases_of_a_shelly_3em_are_one_reading_and_not_netted() -> None:
    made = decoder(format="shelly_gen1", topic="shellies/shellyem3-1/emeter")
    for phase, (total, returned) in enumerate((("100.5", "0.0"), ("200.0", "7.5"), ("300.0", "0.0"))):
        for name, text in (("total", total), ("total_returned", returned)):
            topic = f"shellies/shellyem3-1/emeter/{phase}/{name}"
            assert made.message(topic, text.encode(), retained=False, arrived_s=NOW_S) == []
    (arrival,) = made.pause()
    assert total_wh(arrival.reading.imported) == Decimal("600.5")
    assert total_wh(arrival.reading.exported) == Decimal("7.5")


# -- units of another topic --------------------------------------------------------------------


def test_home_assistants_unit_comes_in_another_topic_and_the_value_waits_for_it() -> None:
    made = decoder(format="homeassistant", topic="ha/e")
    assert one(made, "12.5", "ha/e/state") is None
    assert made.waiting_for == "the unit of ha/e/state"
    (arrival,) = made.message("ha/e/unit_of_measurement", b'"MWh"', retained=True, arrived_s=NOW_S + 9)
    assert total_wh(arrival.reading.imported) == 12_500_000
    assert arrival.arrived_s == NOW_S
    assert imported(one(made, "12.6", "ha/e/state")) == 12_600_000


def test_repro_a_unit_that_contradicts_the_settings_or_is_no_energy_is_not_guessed() -> None:
    made = decoder(format="homeassistant", topic="ha/e", unit="kWh")
    assert one(made, '"Wh"', "ha/e/unit_of_measurement") is None
    assert one(made, "12.5", "ha/e/state") is None
    assert made.faults == {"other_unit": 1}
    made = decoder(format="homeassistant", topic="ha/e", unit="kWh")
    assert one(made, '"W"', "ha/e/unit_of_measurement") is None
    assert one(made, "12.5", "ha/e/state") is None
    assert made.faults == {"no_unit": 2}


def test_repro_a_sum_of_topics_waits_for_each_and_ends_with_one_that_is_unavailable() -> None:
    made = decoder(format="homeassistant", topic="ha/t1 + ha/t2", unit="kWh")
    assert one(made, "100.5", "ha/t1/state", retained=True) is None
    assert one(made, "20.25", "ha/t2/state") is None
    assert imported(one(made, "100.5", "ha/t1/state")) == 120_750
    assert imported(one(made, "20.5", "ha/t2/state")) == 121_000
    assert one(made, "unavailable", "ha/t1/state") is None
    assert one(made, "20.75", "ha/t2/state") is None
    made.reset()
    assert one(made, "100.5", "ha/t1/state") is None
    reading = one(made, "20.75", "ha/t2/state")
    assert reading is not None
    assert reading.imported.keys() == {"ha/t1/state", "ha/t2/state"}


def test_the_payload_may_say_the_unit_and_the_settings_a_scale() -> None:
    made = decoder(format="json", topic="m", import_path="e.v", unit_path="e.u")
    assert imported(one(made, {"e": {"v": 6, "u": "MWh"}})) == 6_000_000
    for unit in ("m3", None, 5):
        assert one(made, {"e": {"v": 6, "u": unit}}) is None
    assert made.faults == {"no_unit": 3}
    scaled = one(decoder(**JSON, scale="0.01"), {"in": 123_456})
    assert imported(scaled) == 1_234_560
    assert scaled is not None
    assert scaled.imported["in"].step_wh == 10


# -- age and times -----------------------------------------------------------------------------


@pytest.mark.parametrize("ago_s", [0, FRESH_S, FRESH_S + 1])
def test_repro_a_retained_message_is_used_only_with_a_fresh_time_of_its_own(ago_s: float) -> None:
    made = decoder(**JSON, time_path="ts")
    reading = one(made, {"in": 5, "ts": NOW_S - ago_s}, retained=True)
    assert (reading is not None) is (ago_s <= FRESH_S)
    assert one(made, {"in": 5}, retained=True) is None


def test_repro_a_clock_that_is_ahead_or_was_never_set_gives_no_time() -> None:
    made = decoder(**JSON, time_path="ts")
    for stamp in ("2036-02-07T06:28:16Z", "1970-01-01T00:00:07Z", 7, 2_085_978_496):
        reading = one(made, {"in": 5, "ts": stamp})
        assert reading is not None
        assert reading.at_s is None


def test_repro_a_local_time_without_an_offset_is_not_utc() -> None:
    payload = {"Time": "2025-01-10T11:59:30", "ENERGY": {"Total": 5}}
    plain = one(decoder(format="tasmota", topic="tele/x/SENSOR"), payload)
    assert plain is not None
    assert plain.at_s is None
    zoned = one(decoder(format="tasmota", topic="tele/x/SENSOR", zone="Europe/Berlin"), payload)
    assert zoned is not None
    assert zoned.at_s == NOW_S - 3_630


def test_a_local_time_in_the_hour_that_comes_twice_is_not_certain() -> None:
    made = decoder(format="tasmota", topic="tele/x/SENSOR", zone="Europe/Berlin")
    for text, at_s in (("2024-10-27T02:30:00", None), ("2024-10-27T03:30:00", 1_729_996_200.0)):
        reading = one(made, {"Time": text, "ENERGY": {"Total": 5}})
        assert reading is not None
        assert reading.at_s == at_s, text


@pytest.mark.parametrize(
    ("value", "at_s"),
    [
        (1_736_510_400, NOW_S),
        (1_736_510_400_000, NOW_S),
        (1_736_510_400_000_000, NOW_S),
        ("2025-01-10T13:00:00+01:00", NOW_S),
        ("2025-01-10T12:00:00.000Z", NOW_S),
        ("2025-01-10T12:00:00", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("today", None),
        (-1, None),
        (10**18, None),
        (True, None),
        (None, None),
    ],
)
def test_times_are_epochs_or_iso_with_an_offset(value: Any, at_s: float | None) -> None:
    assert epoch_s(Decimal(value) if type(value) is int else value) == at_s


# -- what is told ------------------------------------------------------------------------------


def test_repro_a_path_that_never_matches_tells_names_and_no_values() -> None:
    made = decoder(**JSON)
    assert one(made, {"ENERGY": {"Total": 4711.125, "Power": 815}, "Text": "secret", "x\nY": 5}) is None
    told = made.details["no_value"]
    assert told == "m: nothing at in; there is ENERGY.Total, ENERGY.Power, x?Y"
    assert one(made, {"Text": "secret"}) is None
    assert made.details["no_value"].endswith("there is Text")


def test_an_equipment_id_is_printable_text_or_a_whole_number() -> None:
    made = decoder(**JSON, id_path="id")
    for given_id, device in (("E123", "E123"), (17, "17"), ("", None), ("\ud800", None), ("x" * 200, None)):
        reading = one(made, {"in": 5, "id": given_id})
        assert reading is not None
        assert reading.device == device


def test_power_beyond_the_connection_is_not_shown_and_costs_no_register() -> None:
    made = decoder(**PLUG, largest_w=3_680)
    for power in (65_535, -32_768, 32_767.5, 1e12):
        reading = one(made, {"energy": 7.43, "power": power})
        assert reading is not None
        assert reading.power_w is None
        assert imported(reading) == 7_430


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "tasmoto"}, "format: expected 'tasmota', 'tasmota_sml'"),
        ({"topic": "tele/+/SENSOR"}, "one topic without + or #"),
        ({"format": "json"}, "format json needs import_path or export_path"),
        (
            {"format": "json", "import_path": "a"},
            "needs unit (Wh, kWh, MWh, GWh, Wmin, J, kJ, MJ, GJ), or unit_path",
        ),
        ({"format": "tasmota", "topic": "a + b"}, "format tasmota takes one topic"),
        ({"format": "esphome", "topic": "a + ", "unit": "kWh"}, "one topic without + or #"),
        ({"scale": "0.1"}, "knows its unit (kWh): leave unit and scale out"),
        ({"format": "json", "unit": "kwh", "import_path": "a"}, "expected one of Wh, kWh"),
        ({"format": "tasmota_sml", "unit": "kWh"}, "needs import_path: the script names its values"),
        (
            {"format": "tasmota", "unit": "Wh"},
            "format tasmota knows its unit (kWh): leave unit and scale out",
        ),
        ({"format": "tasmota", "import_path": "a"}, "does not use import_path; format json takes any path"),
        ({"format": "esphome"}, "format esphome needs unit"),
        ({"format": "pulse"}, "needs pulses_per_kwh: it is printed on the meter"),
        ({"format": "shelly_gen2"}, "needs component: switch:0"),
        ({"format": "shelly_gen1"}, "needs the topic of a channel: shellies/"),
        ({"password_file": "x"}, "password_file needs user"),
        ({"zone": "Europe/Nowhere"}, "expected a time zone such as Europe/Helsinki"),
        ({"topics": "x"}, "unknown setting topics; did you mean topic?"),
    ],
)
def test_wrong_settings_are_one_clear_line(options: dict[str, Any], told: str) -> None:
    given_options = {"address": "mqtt://127.0.0.1", "format": "tasmota", "topic": "t/x"} | options
    with pytest.raises(ConfigError) as refused:
        source_settings("mqtt", given_options)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_format_of_the_table_can_be_chosen() -> None:
    chosen = set(Settings.model_fields["format"].annotation.__args__)  # type: ignore[union-attr]  # a Literal
    assert {name.split("/")[0] for name in FORMATS} == chosen


# -- any bytes ---------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["ENERGY", "Total", "energy", "power", "in", "ts", "Time", "A", "x", "id", "StatusSNS"]
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("options", [options for options, _ in EVERY_FORMAT], ids=str)
@given(payloads=st.lists(st.binary(max_size=80) | DOCUMENTS.map(lambda each: json.dumps(each).encode())))
def test_any_bytes_give_readings_or_counts(options: dict[str, Any], payloads: list[bytes]) -> None:
    made = decoder(**options)
    for payload in payloads:
        for topic in made.topics:
            for arrival in made.message(topic, payload, retained=False, arrived_s=NOW_S):
                check_reading(arrival.reading, NOW_S)
        made.pause()


def test_repro_documents_that_are_too_deep_or_too_long_are_counted() -> None:
    made = decoder(**JSON)
    deep = b"[" * (MAX_BYTES - 1)
    assert one(made, deep) is None
    assert one(made, b'{"in":' * 9_000) is None
    assert one(made, b'{"in":5,"x":"' + b"x" * MAX_BYTES + b'"}') is None
    assert made.faults == {"not_json": 2, "too_long": 1}
    assert imported(one(made, {"in": 5})) == 5_000


def test_a_number_of_a_document_is_never_a_float() -> None:
    assert type(parse_json(b"0.1")) is Decimal
    assert type(parse_json(b"1")) is Decimal
