"""A real `gridhe-aggregate` process for a BenchGrid, ready when it hears batches."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.publish
import paho.mqtt.subscribe

from gridhe.bench.grid import BenchGrid
from gridhe.bench.throughput import StreamFailed, process
from gridhe.broker import topics
from gridhe.broker.embedded import EmbeddedBroker
from gridhe.broker.status import Status

__all__ = ["start_aggregator"]

_START_S = 60


def start_aggregator(
    stack: ExitStack, grid: BenchGrid, broker: EmbeddedBroker, folder: Path, options: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Publish the plan and the roster, start the process on `stack`, and wait for its status."""
    retained = [
        (topics.plan(grid.plan.plan_id), grid.signed_bundle(), 1, True),
        (topics.ROSTER_CURRENT, grid.roster(), 1, True),
    ]
    paho.mqtt.publish.multiple(retained, hostname="127.0.0.1", port=broker.port)
    credential = folder / "aggregator.json"
    grid.save_credential(credential)
    command = [
        sys.executable, "-P", "-m", "gridhe.aggregator.cli", "--credential", str(credential),
        "--state-dir", str(folder / "state"), "--broker", broker.url, "--no-live", *options,
    ]  # fmt: skip
    child = stack.enter_context(process(command, folder / "aggregator.log"))
    message = paho.mqtt.subscribe.simple(
        topics.status_aggregator(grid.credential.aggregator),
        qos=1,
        hostname="127.0.0.1",
        port=broker.port,
        keepalive=_START_S,
    )
    if not Status.decode(bytes(message.payload)).online:
        raise StreamFailed("the aggregator went away before it was asked for anything")
    return child
