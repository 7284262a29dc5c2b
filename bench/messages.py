"""Publishing messages and waiting for one, which a suite does before it measures."""

import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gridhe.errors import BrokerError

__all__ = ["first_message", "put"]

_TIMEOUT_S = 60.0  # a process may start slowly on a busy machine


def put(port: int, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
    """Publish at QoS 1 to this machine's broker; return when all are acknowledged. Raises BrokerError."""
    client = _connected(port)
    infos = [client.publish(topic, payload, qos=1, retain=retain) for topic, payload in messages]
    _until(client, lambda: all(info.is_published() for info in infos))
    client.disconnect()


def first_message(port: int, topic: str) -> bytes:
    """The first message on a topic, which may be a retained one. Raises BrokerError if none arrives."""
    client = _connected(port)
    payloads: list[bytes] = []
    client.on_message = lambda _client, _user, message: payloads.append(bytes(message.payload))
    client.subscribe(topic, 1)
    _until(client, lambda: bool(payloads))
    client.disconnect()
    return payloads[0]


def _connected(port: int) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    _until(client, client.is_connected)
    return client


def _until(client: paho.Client, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not done():
        if client.loop(0.05) != paho.MQTT_ERR_SUCCESS or time.monotonic() > deadline:
            raise BrokerError("the bench's broker does not answer")
