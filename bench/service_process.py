"""A real `gridhe-aggregate` process for a BenchGrid."""

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gridhe.base.processes import python_command
from gridhe.bench.grid import BenchGrid
from gridhe.bench.messages import first_message, put
from gridhe.bench.throughput import StreamFailed, process
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.wire import topics
from gridhe.wire.status import Status

__all__ = ["start_aggregator"]


def start_aggregator(
    stack: ExitStack, grid: BenchGrid, broker: EmbeddedBroker, folder: Path, options: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Publish the plan and the roster, start the process on `stack`, and wait for its status."""
    retained = [
        (topics.plan(grid.plan.plan_id), grid.signed_bundle()),
        (topics.ROSTER_CURRENT, grid.roster()),
    ]
    put(broker.port, retained, retain=True)
    credential = folder / "aggregator.json"
    grid.credential.save(credential)
    command = python_command(
        "gridhe.aggregator.cli", "--credential", str(credential),
        "--state-dir", str(folder / "state"), "--broker", broker.url, "--no-live", *options,
    )  # fmt: skip
    child = stack.enter_context(process(command, folder / "aggregator.log"))
    status = first_message(broker.port, topics.status_aggregator(grid.credential.aggregator))
    if not Status.decode(status).online:
        raise StreamFailed("the aggregator ended before the measurement began")
    return child
