"""`gridhe-bench` as a command: what it prints, where it writes, how it fails."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.bench.local_store import LocalStore
from gridhe.bench.record import Record

RUN, OTHER = "20260131t120000-1a2b", "20260201t120000-ffff"
Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    def run(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-P", "-m", "gridhe.bench.cli", *arguments],
            env={**os.environ, "GRIDHE_BENCH_HOME": str(tmp_path / "runs"), **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "runs")


def test_a_suite_runs_is_shown_and_becomes_a_page(bench: Bench, tmp_path: Path) -> None:
    done = bench("run", "batch-size", "--quick", "--out", "report")
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    assert "batch-size" in bench("list").stdout.splitlines()[1]
    page = bench("show", run).stdout
    assert "1024 readings" in page
    assert "B/reading" in page
    html = (tmp_path / "report" / "report.html").read_text()
    # Self-contained: pictures are inside, nothing is fetched.
    assert html.count("<img ") == html.count("src='data:image/png;base64,") == 2
    assert "http" not in html
    assert "| 1024 readings |" in (tmp_path / "report" / "report.md").read_text()


def test_an_unknown_suite_is_refused_with_those_there_are(bench: Bench) -> None:
    done = bench("run", "micro", "speed")
    assert done.returncode == 2
    assert done.stderr == (
        "error: there is no suite 'speed'; there are micro, peers, security, batch-size, service, scale, "
        "meters, intervals\n"
    )


def test_compare_exits_with_3_on_a_regression_when_asked_to(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record((1.0, 1.0, 1.0), case="fold"))
    store.write(make_record((1.5, 1.5, 1.5), case="fold", run=OTHER))
    store.close()
    done = bench("compare", RUN, OTHER)
    assert done.returncode == 0
    assert "1 metrics compared, 1 regressions" in done.stdout
    assert bench("compare", RUN, OTHER, "--fail-on-regression").returncode == 3
    assert bench("compare", OTHER, RUN, "--fail-on-regression").returncode == 0


def test_a_corrupt_run_and_one_of_another_version_end_with_10(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record())
    store.close()
    path = store.path(RUN)
    whole = path.read_text()
    path.write_text(whole[:-20])
    done = bench("show", RUN)
    assert (done.returncode, done.stderr.count("\n")) == (10, 1)
    assert "line 1: not a record" in done.stderr
    path.write_text(whole.replace('"format": 1', '"format": 9'))
    done = bench("report", RUN)
    assert done.returncode == 10
    assert "format 9" in done.stderr
    assert bench("show", OTHER).returncode == 10


def test_influxdb_that_is_away_or_not_named_is_one_line(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record())
    store.close()
    done = bench("push", RUN)
    assert done.returncode == 2
    assert "INFLUXDB_V2_URL" in done.stderr
    where = {"INFLUXDB_V2_URL": "http://127.0.0.1:9", "INFLUXDB_V2_BUCKET": "b/autogen"}
    for command in (["push", RUN], ["list", "--store", "influx"], ["show", RUN, "--store", "influx"]):
        done = bench(*command, **where)
        assert (done.returncode, done.stderr.count("\n")) == (10, 1), done.stderr
        assert "no InfluxDB at http://127.0.0.1:9" in done.stderr


def test_a_run_without_influxdb_ends_well_and_is_pushed_later(
    bench: Bench, start_influx: Callable[..., Any]
) -> None:
    server = start_influx()
    settings = server.settings
    where = {"INFLUXDB_V2_URL": settings.url, "INFLUXDB_V2_BUCKET": settings.bucket}
    server.kill()
    done = bench("run", "batch-size", "--quick", "--store", "influx", **where)
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    assert f"send it later with: gridhe-bench push {run}" in done.stderr
    server.start()
    pushed = bench("push", run, **where)
    assert "14 records are in" in pushed.stdout, pushed.stderr
    shown = bench("show", run, "--store", "influx", **where)
    assert shown.stdout == bench("show", run).stdout
    assert run in bench("list", "--store", "influx", **where).stdout


def test_a_run_goes_to_influxdb_and_to_the_local_store(
    bench: Bench, start_influx: Callable[..., Any]
) -> None:
    settings = start_influx().settings
    where = {"INFLUXDB_V2_URL": settings.url, "INFLUXDB_V2_BUCKET": settings.bucket}
    done = bench("run", "batch-size", "--quick", "--store", "influx", **where)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    run = done.stdout.strip()
    assert bench("show", run, "--store", "influx", **where).stdout == bench("show", run).stdout != ""
