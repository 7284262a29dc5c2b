"""A broker without persistence that was killed: meters learn that what they sent meanwhile is gone."""

import time
from pathlib import Path

import pytest

from faults.cluster import Cluster
from faults.world import World

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("mosquitto")]


def test_repro_meters_back_before_the_aggregator_waited_for_their_back_off(tmp_path: Path) -> None:
    world = World(tmp_path, meters=4, groups=2, windows=2, now_s=time.time())
    with Cluster(world, case="lost-session", seed=1) as cluster:
        cluster.prepare()
        cluster.start_aggregator()
        (first,) = {incarnation for incarnation, _ in cluster.authority.online_at}
        cluster.kill_broker()
        cluster.wait(lambda: len(cluster.authority.online_at) > 1, 30, "new incarnation")
        assert cluster.aggregator.starts == 1
        assert cluster.authority.online_at[-1][0] != first
