"""Decoders of the home's devices (MQTT, HTTP) for fuzzing: any messages on any of a device's topics.

A finding is any exception, and also: a register that is not finite, below 0 or without a resolution, a time
ahead of the arrival, or a good message behind all of it that is not read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from gridhe.meter_agent.sources.homewizard import MeasurementDecoder
from gridhe.meter_agent.sources.mqtt.decoder import Arrival, MessageDecoder
from gridhe.meter_agent.sources.mqtt.settings import Settings
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe_testing.decoder import Decoder, seeds_of

__all__ = ["EVERY_FORMAT", "HOME_DECODERS", "check_reading"]

_NOW_S = 1_736_510_400.0  # 2025-01-10 12:00 UTC
_NEXT = b"\x1e"  # between messages
_MESSAGES = 32
_DSMR = (
    b"electricity_delivered_1 electricity_delivered_2 electricity_returned_1 electricity_returned_2".split()
)

_Good = tuple[tuple[int, bytes], ...]  # messages: the position of the topic, and the payload

# Settings of every format and variant, and messages that give a reading.
EVERY_FORMAT: tuple[tuple[dict[str, Any], _Good], ...] = (
    (
        {"format": "tasmota", "topic": "tele/t/SENSOR", "zone": "Europe/Berlin"},
        ((0, b'{"Time":"2025-01-10T13:00:00","ENERGY":{"Total":[1.5,2.5],"ExportActive":3,"Power":[4,5]}}'),),
    ),
    (
        {"format": "tasmota_sml", "topic": "t", "unit": "kWh", "import_path": "A.x + A.y", "id_path": "A.id"},
        ((0, b'{"StatusSNS":{"A":{"x":"12.5","y":1,"id":"E1"}}}'),),
    ),
    ({"format": "shelly_gen1", "topic": "s/relay/0"}, ((1, b"5.5"), (0, b"2632"))),
    (
        {"format": "shelly_gen1", "topic": "s/emeter"},
        tuple((position, b"%d.5" % position) for position in range(9)),
    ),
    (
        {"format": "shelly_gen2", "topic": "s", "component": "em:0"},
        ((2, b'{"params":{"ts":1736510400.5,"emdata:0":{"total_act":5.25,"total_act_ret":0.00}}}'),),
    ),
    (
        {"format": "zigbee2mqtt", "topic": "z"},
        ((0, b'{"energy":7.409999999999999,"power":5,"last_seen":1736510400000}'),),
    ),
    (
        {"format": "esphome", "topic": "t", "unit": "kWh", "power_topic": "p", "export_topic": "x"},
        ((0, b"8345.45996"),),
    ),
    (
        {"format": "homeassistant", "topic": "t", "power_topic": "p"},
        ((2, b'"kWh"'), (0, b" 1.23457e+04\n")),
    ),
    (
        {"format": "dsmr_reader", "topic": "t"},
        (
            (0, b"2025-01-10T12:00:00Z"),
            *((at, b"12.345") for at in range(1, 7)),
            (7, b'{"' + b'":"1.5","'.join(_DSMR) + b'":"1.5"}'),
        ),
    ),
    (
        {"format": "homeassistant", "topic": "t1 + t2", "unit": "kWh"},
        ((2, b"kWh"), (3, b"kWh"), (0, b"1.5"), (1, b"2.25")),
    ),
    (
        {"format": "json", "topic": "t", "import_path": "a", "unit_path": "u", "scale": "0.01"},
        ((0, b'{"a":1,"u":"kWh"}'),),
    ),
    ({"format": "pulse", "topic": "t", "pulses_per_kwh": 3}, ((0, b"483000"),)),
    (
        {
            "format": "json",
            "topic": "t",
            "unit": "MJ",
            "import_path": "/a.b/0",
            "time_path": "ts",
            "decimal": ",",
        },
        ((0, b'{"a.b":["12,5"],"ts":1736510400}'),),
    ),
)


def check_reading(reading: DeviceReading, arrived_s: float) -> None:
    """Raise AssertionError for a reading that no decoder may give."""
    registers = (*reading.imported.values(), *reading.exported.values())
    for register in registers:
        assert register.wh.is_finite()
        assert register.wh >= 0
        assert register.step_wh.is_finite()
        assert register.step_wh > 0
    assert registers or reading.power_w is not None, "an empty reading"
    assert reading.power_w is None or abs(reading.power_w) <= 20 * 100_000
    assert reading.at_s is None or reading.at_s <= arrived_s + 60
    str(reading).encode()


def _messages(options: dict[str, Any], good: _Good, data: bytes) -> None:
    """`data`: messages, each with a byte that gives its topic and whether it is retained."""
    made = MessageDecoder(Settings(address="mqtt://127.0.0.1", **options))
    topics = made.topics
    found: list[Arrival] = []
    for at, message in enumerate(data.split(_NEXT)[:_MESSAGES]):
        head, payload = (message[0], message[1:]) if message else (0, b"")
        topic = topics[head % 64 % len(topics)]
        found += made.message(topic, payload, retained=bool(head & 64), arrived_s=_NOW_S + at)
        if head & 128:
            found += made.pause()
        str(made.waiting_for).encode()
    for detail in made.details.values():
        detail.encode()
    found += made.pause()
    made.reset()
    last: list[Arrival] = []
    for position, payload in good:
        last += made.message(topics[position], payload, retained=False, arrived_s=_NOW_S + _MESSAGES)
    last += made.pause()
    assert any(each.reading.imported for each in last), "a good message behind it is lost"
    for arrival in (*found, *last):
        check_reading(arrival.reading, arrival.arrived_s)


def mqtt() -> Decoder:
    return Decoder(
        feeders=tuple(partial(_messages, options, good) for options, good in EVERY_FORMAT),
        errors=(),
        seeds=seeds_of(
            *(_NEXT.join(bytes([at]) + payload for at, payload in good) for _, good in EVERY_FORMAT)
        ),
    )


def homewizard() -> Decoder:
    good = b'{"total_power_import_kwh":13779.338,"unique_id":"00"}'

    def answers(data: bytes) -> None:
        made = MeasurementDecoder(largest_w=100_000, zone="Europe/Amsterdam")
        for answer in (*data.split(_NEXT)[:_MESSAGES], good):
            reading = made.decode(answer, _NOW_S)
            made.detail.encode()
            if reading is not None:
                check_reading(reading, _NOW_S)
        assert reading is not None, "a good answer behind it is lost"

    second = (
        b'{"unique_id":"00","timestamp":"2025-01-10T13:00:00","energy_import_t1_kwh":10.511,'
        b'"energy_import_t2_kwh":"2948.827","energy_export_kwh":0,"power_w":-543}'
    )
    return Decoder(feeders=(answers,), errors=(), seeds=seeds_of((good, second, good + _NEXT + second)))


HOME_DECODERS: dict[str, Callable[[], Decoder]] = {"mqtt": mqtt, "homewizard": homewizard}
