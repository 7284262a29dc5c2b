"""An aggregator that is slow, stopped or offline for longer than the queues last."""

import signal

from faults.options import Options
from faults.outcome import CaseOutcome
from gridhe.config.settings import AggregatorSettings, BrokerSettings, MeterSettings

__all__ = ["outbox_bound", "slow_aggregator"]


def slow_aggregator(options: Options) -> CaseOutcome:
    """Stopped, then offline, while meters publish far more than the broker's queue of 1 MB holds."""
    frozen_s = 20.0 if options.scale >= 1 else 5.0
    with options.cluster(
        "slow-aggregator",
        batches=4_000,
        meters=40,
        broker_conf=BrokerSettings(max_queued_mb=1),
        meter=MeterSettings(unreceipted_max=8, resend_s=4.0, resend_max_s=8.0),
        aggregator=AggregatorSettings(commit_interval_s=0.3, redeliver_s=3.0),
    ) as cluster:
        cluster.start()
        cluster.after(cluster.world.batches // 5)
        cluster.aggregator.signal(signal.SIGSTOP)
        cluster.idle(frozen_s)
        kept = cluster.waiting()
        cluster.aggregator.signal(signal.SIGCONT)
        cluster.say(f"frozen for {frozen_s:.0f} s: {kept} batches waited")
        cluster.after(cluster.world.batches * 2 // 5)
        cluster.aggregator.kill()
        cluster.idle(frozen_s)
        cluster.say(f"away for {frozen_s:.0f} s: {cluster.waiting()} batches waited")
        cluster.recoveries.append(cluster.start_aggregator())
        cluster.figures["waited"] = kept
        cluster.figures["waited_mb"] = round(kept * 24_576 / 1e6, 1)
        outcome = cluster.finish(timeout_s=200)
        return options.require(outcome, kept * 24_576 > 1 << 20, "the queue was never too small")


def outbox_bound(options: Options) -> CaseOutcome:
    """No aggregator until every outbox has overflowed: exactly the newest (or oldest) windows are left."""
    most, meters, windows = 8, 10, 40
    drop_oldest = options.seed % 2 == 1
    with options.cluster(
        "outbox-bound",
        batches=meters * windows,
        meters=meters,
        whole=True,
        speed=windows * meters / 4,  # simulated seconds per second: all windows in four seconds
        meter=MeterSettings(
            unreceipted_max=2,
            outbox_max_batches=most,
            outbox_when_full="drop_oldest" if drop_oldest else "drop_newest",
        ),
    ) as cluster:
        world = cluster.world
        cluster.prepare()
        cluster.fleets[0].start()
        last = world.first_window + world.windows
        until = f"SELECT count(*) FROM sealed WHERE until_s >= {last * world.window_s}"  # noqa: S608
        cluster.wait(lambda: cluster.backlog.number("fleet0", until) == meters, 120, "every window sealed")
        kept = cluster.waiting()
        cluster.start_aggregator()
        outcome = cluster.finish(quiet_s=4.0, expect_all=False)
        expected = (
            range(last - most, last) if drop_oldest else range(world.first_window, world.first_window + most)
        )
        missing = cluster.oracle.missing("grid", expected)
        held = cluster.oracle.held()
        cluster.figures |= {"policy": "drop_oldest" if drop_oldest else "drop_newest", "kept": kept}
        outcome = options.require(outcome, kept == most * meters, f"{kept} batches were kept")
        return options.require(
            outcome, not missing and held == most * meters, f"{held} released, missing {missing[:3]}"
        )
