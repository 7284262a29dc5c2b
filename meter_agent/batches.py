"""Turns a closed window of one meter into a sealed batch: policy, encryption, envelope."""

import statistics
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from gridhe.base.failpoints import failpoint
from gridhe.base.timings import timed
from gridhe.meter_agent.outbox import SealedBatch
from gridhe.meter_agent.sealing import Sealer

if TYPE_CHECKING:
    from gridhe.meter_agent.feeders import Feeder
    from gridhe.meter_agent.plans import PlanBook
    from gridhe.meter_agent.policy import ReadingPolicy
    from gridhe.meter_agent.windows import ClosedWindow
    from gridhe.plan.plan import Plan
    from gridhe.wire.credential import DeviceCredential

__all__ = ["BatchSealer"]

_TIMINGS_MAX = 20_000


class BatchSealer:
    """Seals the windows of all meters of a process, and measures the time it takes."""

    def __init__(self, book: "PlanBook", policy: "ReadingPolicy") -> None:
        self._book, self._policy = book, policy
        self._ms: array[float] = array("d")

    @property
    def ms_median(self) -> float:
        """Median time to seal one batch, in milliseconds; 0.0 before the first."""
        return statistics.median(self._ms) if self._ms else 0.0

    def seal_again(
        self, credential: "DeviceCredential", feeder: "Feeder | None", places: "list[tuple[Plan, int]]"
    ) -> list[SealedBatch]:
        """Batches of these windows, sealed again; empty if any of their readings is no longer available."""
        batches = []
        for plan, window in places:
            closed = None if feeder is None else feeder.again(plan, window)
            if feeder is None or closed is None:
                return []
            batches.append(self.seal(credential, feeder, plan, closed, replaces=True))
        return batches

    def seal(
        self,
        credential: "DeviceCredential",
        feeder: "Feeder",
        plan: "Plan",
        closed: "ClosedWindow",
        *,
        replaces: bool = False,
    ) -> SealedBatch:
        """Seal one window; `replaces`: it replaces a refused batch. Raises SourceError."""
        readings = {}
        for quantity in plan.quantities:
            raw = closed.readings.get(quantity.name)
            if raw is not None:
                readings[quantity.name] = self._policy.apply(
                    np.asarray(raw, np.int64),
                    quantity.largest,
                    lambda interval: feeder.where(plan, closed.window, interval),
                )
        failpoint("meter.2.before")
        begun_s = time.perf_counter()
        encryptor = self._book.encryptor(plan)
        payload = timed("seal", Sealer(encryptor, credential).seal)(closed.window, readings)
        failpoint("meter.2.sealed")
        if len(self._ms) < _TIMINGS_MAX:
            self._ms.append((time.perf_counter() - begun_s) * 1e3)
        return SealedBatch(
            meter=credential.meter,
            plan=encryptor.plan_id,
            window=closed.window,
            until_s=(closed.window + 1) * plan.window_s,
            payload=payload,
            replaces=replaces,
        )
