"""The whole pipeline as the bench runs it: everything is released, and its steps' timings become records."""

import json
from pathlib import Path

import pytest

from gridhe.bench.local_store import LocalStore
from gridhe.bench.pipeline import STEPS, Load, run_pipeline
from gridhe.bench.recorder import Recorder
from gridhe.bench.steps import add_steps
from gridhe.errors import StoreError

RUN = "20260131t120000-1a2b"


@pytest.mark.system
def test_a_fleet_as_fast_as_it_goes_is_released_and_tells_its_steps(mosquitto: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    load = Load(meters=6, groups=2, window_s=4, interval_s=1, windows=3, speed="max")
    passed = run_pipeline(folder, load, seed=1)
    assert passed.batches == 18
    assert passed.bytes_sent > 18 * 65_536  # the ring the planner picks
    assert set(passed.memory_mb) == {"authority", "aggregator", "fleet", "broker"}
    store = LocalStore(tmp_path / "runs")
    add_steps(Recorder(store, RUN), folder / STEPS, suite="meters", case="6 meters")
    store.close()
    found = {(record.case, record.metric): record.figures.count for record in store.read(RUN)}
    assert found["6 meters fleet", "seal"] == 18
    assert found["6 meters aggregator", "fold"] == 18
    assert found["6 meters aggregator", "commit"] >= 1
    assert found["6 meters authority", "release"] >= 12


@pytest.mark.parametrize(
    "line",
    [
        *("{}", "[]", "junk", "[" * 100_000),
        *(
            f'{{"process": "a", "step": "b", "count": {count}, "seconds": {seconds}}}'
            for count, seconds in (
                *((1, "[]"), (1, "[1e308]"), (2, "[1e308, -1e308]"), (1, "[-1]"), (1, "[NaN]")),
                *(("1e999", "[1]"), (1, f"[{10**400}]")),
            )
        ),
    ],
    ids=range(11),
)
def test_repro_a_file_that_no_process_wrote_is_reported(tmp_path: Path, line: str) -> None:
    good = {"process": "meter", "step": "seal", "count": 9, "total_s": 1.0, "seconds": [0.5, 0.5]}
    path = tmp_path / "timings.jsonl"
    path.write_text(json.dumps(good) + "\n" + line + "\n")
    store = LocalStore(tmp_path / "runs")
    with pytest.raises(StoreError, match="line 2: not a line that --timings writes"):
        add_steps(Recorder(store, RUN), path, suite="pipeline")
    store.close()
    assert store.read(RUN)[0].note == "a sample of 9"
