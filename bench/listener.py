"""The bare subscriber: paho, QoS 1, a callback that only counts.

`python -m gridhe.bench.listener PORT FILTER...`. It prints a dot for each message, at most 20 ms later.
"""

import os
import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

__all__ = ["listen"]

_GATHER_S = 0.02


def listen(port: int, filters: list[str]) -> None:
    """Subscribe and count until the process is ended or the connection fails."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=f"bare-{os.getpid()}", protocol=MQTTProtocolVersion.MQTTv5
    )
    waiting = 0
    printed_s = 0.0

    def on_message(_client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        nonlocal waiting, printed_s
        waiting += 1
        now = time.monotonic()
        if now - printed_s > _GATHER_S:
            os.write(1, b"." * waiting)
            waiting, printed_s = 0, now

    def on_connect(client: paho.Client, *_: object) -> None:
        client.subscribe([(one, 1) for one in filters])

    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    while client.loop(timeout=0.1) == paho.MQTT_ERR_SUCCESS:
        if waiting and time.monotonic() - printed_s > _GATHER_S:
            os.write(1, b"." * waiting)
            waiting, printed_s = 0, time.monotonic()


if __name__ == "__main__":
    listen(int(sys.argv[1]), sys.argv[2:])
