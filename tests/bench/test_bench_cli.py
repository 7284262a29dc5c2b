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
    assert "512 readings" in page
    assert "B/reading" in page
    html = (tmp_path / "report" / "report.html").read_text()
    # Self-contained: pictures are inside, nothing is fetched.
    assert html.count("<img ") == html.count("src='data:image/png;base64,") == 2
    assert "http" not in html
    assert "| 512 readings |" in (tmp_path / "report" / "report.md").read_text()


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


def test_runs_with_nothing_in_common_end_with_10_and_unlike_ones_with_a_warning(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record(case="fold"))
    store.write(make_record(case="fold", run=OTHER, suite="scale"))
    store.close()
    done = bench("compare", RUN, OTHER, "--fail-on-regression")
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr == (
        "error: the runs have no metric in common: A has 1 metric (micro 1); B has 1 metric (scale 1)\n"
    )
    store.write(make_record(case="fold", run=OTHER, host="there"))
    store.close()
    done = bench("compare", RUN, OTHER)
    assert done.returncode == 0
    assert "only in B: 1 metric (scale 1)" in done.stdout
    assert done.stderr == "warning: the hosts differ: here in A, here, there in B\n"


# `gridhe-bench run` with suites that do at once what is asked: no program of ours can be told to fail.
FAKE_SUITES = """
import os, signal, sys
from gridhe.bench.suites import batch_size, micro, peers
from gridhe.errors import BrokerError

def good(setup):
    setup.recorder.add("batch-size", "20 readings", "time", [1.0, 2.0, 3.0], "ms")

def fails(setup):
    raise BrokerError("no broker\\nanywhere")

def peer_fails(setup):
    raise RuntimeError("a peer's own")

def interrupted(setup):
    setup.recorder.add("peers", "paillier", "decrypt", [1.0], "ms")
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    finally:
        raise BrokerError("a process of the suite has ended, by the same Ctrl-C")

batch_size.run, micro.run = good, fails
peers.run = {"fails": peer_fails, "stops": interrupted}[sys.argv.pop(1)]
from gridhe.bench.cli import main
main()
"""


def python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", *arguments],
        env={**os.environ, "GRIDHE_BENCH_HOME": str(folder / "runs")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_failed_suite_is_recorded_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    done = python(tmp_path, FAKE_SUITES, "fails", "run", "micro", "peers", "batch-size", "--out", "report")
    assert done.returncode == 1, done.stderr
    run = done.stdout.strip()
    first, *_, last = done.stderr.splitlines()
    assert first == f"gridhe-bench: run {run}"
    assert last == "error: 2 of 3 suites failed: micro, peers"
    assert "gridhe-bench: micro: failed: no broker anywhere\n" in done.stderr
    assert "gridhe-bench: peers: failed: RuntimeError: a peer's own (<string>, line " in done.stderr
    assert "Traceback" not in done.stderr
    shown = bench("show", run).stdout
    assert "no broker anywhere" in shown
    assert "20 readings" in shown
    assert "no broker anywhere" in (tmp_path / "report" / "report.md").read_text()


def test_ctrl_c_keeps_what_was_measured_and_names_the_run(bench: Bench, tmp_path: Path) -> None:
    done = python(tmp_path, FAKE_SUITES, "stops", "run", "micro", "peers", "batch-size")
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    run = done.stderr.splitlines()[0].split()[-1]
    # The failed suite's note and one figure; the suite after it is not begun.
    assert f"\nrun {run}: 2 records are stored; gridhe-bench show {run}\n" in done.stderr
    assert done.stderr.endswith("\nstopped\n")
    assert bench("show", run).returncode == 0


WITHOUT = """
import sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
from gridhe.bench.cli import main
main()
"""
EXTRAS = "influxdb_client,urllib3,matplotlib,psutil,rich,iotcore"


@pytest.mark.parametrize(
    ("command", "who"),
    [
        (["push", RUN], "InfluxDB needs influxdb_client"),
        (["list", "--store", "influx"], "InfluxDB needs influxdb_client"),
        (["report", RUN], "the report needs matplotlib"),
        (["run", "batch-size", "--out", "r"], "gridhe-bench run --out needs matplotlib"),
        (["run", "meters"], "gridhe-bench run needs psutil"),
    ],
)
def test_a_package_of_the_extra_that_is_missing_is_one_line(
    command: list[str], who: str, store: LocalStore, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    store.write(make_record())
    store.close()
    done = python(tmp_path, WITHOUT, EXTRAS, *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {who}, which is not installed: pip install 'gridhe[bench]'\n"


def test_without_the_extra_help_list_and_compare_work(
    store: LocalStore, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    store.write(make_record())
    store.close()
    for command in (["--help"], ["run", "--help"], ["list"], ["show", RUN], ["compare", RUN, RUN]):
        done = python(tmp_path, WITHOUT, EXTRAS, *command)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_report_of_several_runs_names_the_machine_of_each(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    store.write(make_record())
    store.write(make_record(run=OTHER, host="there", machine="another processor"))
    store.close()
    assert bench("report", RUN, OTHER, "--out", "r").returncode == 0
    for name in ("report.md", "report.html"):
        page = (tmp_path / "r" / name).read_text()
        assert f"Run {RUN}, gridhe 0.1.0, on here: a processor, 2 cores." in page
        assert f"Run {OTHER}, gridhe 0.1.0, on there: another processor." in page
        assert "Warning: these runs are of different hosts (here, there)" in page
        assert "different versions" not in page


def test_an_import_without_a_step_is_an_error_and_no_run(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "timings").write_text("")
    done = bench("import", "timings")
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr == "error: there are no steps in timings: a process writes them when it ends\n"


def test_a_corrupt_run_and_one_of_another_version_end_with_10(
    bench: Bench, store: LocalStore, make_record: Callable[..., Record]
) -> None:
    store.write(make_record())
    store.close()
    path = store.path(RUN)
    whole = path.read_text()
    path.write_text(whole[:-20] + "\n")
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
    done = bench("push", RUN, INFLUXDB_V2_URL="localhost:8086", INFLUXDB_V2_BUCKET="b/autogen")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
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
