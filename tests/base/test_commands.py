"""The flags every command shares, and how a command fails."""

import logging
import multiprocessing
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import click
import pytest

from gridhe import __version__
from gridhe.base.commands import CommonOptions, common_options, run_command, version_option
from gridhe.cli import cli as gridhe
from gridhe.config import Settings
from gridhe.errors import ConfigError, GridHEError, ReleaseRefused, StateError


@click.group()
@version_option
def cli() -> None:
    """A command line of this test."""


@cli.command()
@common_options
@click.option("--broker")
def show(common: CommonOptions, broker: str | None) -> None:
    settings = common.load({"broker.url": broker}, logging=False)
    click.echo(f"{settings.broker.url} {settings.plan.window_s} {settings.logging.level}")


def run(*args: str, command: click.Command = cli) -> int:
    with pytest.raises(SystemExit) as stopped:
        run_command(command, args)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def failing(error: BaseException) -> click.Command:
    @click.command()
    def fail() -> None:
        raise error

    return fail


def test_a_commands_own_flag_wins_over_set_over_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("plan: {window_s: 7200}\nbroker: {url: mqtt://file}\nlogging: {level: error}\n")
    assert run("show", "--config", str(file)) == 0
    assert run("show", "--config", str(file), "--set", "broker.url=mqtt://set", "--log-level", "debug") == 0
    assert run("show", "--set", "broker.url=mqtt://set", "--broker", "mqtt://own") == 0
    assert capsys.readouterr().out.splitlines() == [
        "mqtt://file 7200 error",
        "mqtt://set 7200 debug",
        f"mqtt://own {Settings().plan.window_s} info",
    ]


@pytest.mark.parametrize("text", ["plan.window_s", "=5", "plan.window_s=[", "plan.window=5"])
def test_a_wrong_set_is_one_clear_line_and_code_2(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run("show", "--set", text) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text.split("=")[0] in line


@pytest.mark.parametrize(
    "error",
    [ConfigError("no"), StateError("full"), ReleaseRefused("minimum", "2 meters"), GridHEError("what")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_tree_ends_with_its_own_code_and_one_line(
    capsys: pytest.CaptureFixture[str], error: GridHEError
) -> None:
    assert run(command=failing(error)) == error.exit_code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_each_line_of_an_error_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=failing(ConfigError("one\ntwo"))) == 2
    assert capsys.readouterr().err == "error: one\nerror: two\n"


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command=failing(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_flag_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--nonsense") == 2
    assert "No such option" in capsys.readouterr().err


def test_a_commands_own_exit_code_is_kept() -> None:
    @click.command()
    @click.pass_context
    def leave(ctx: click.Context) -> None:
        ctx.exit(8)

    assert run(command=leave) == 8


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(failing(ZeroDivisionError()), [])


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


def test_loading_sets_up_logging_by_the_settings() -> None:
    common = CommonOptions(config=None, overrides={"logging.level": "error", "logging.format": "json"})
    common.load()
    try:
        assert logging.getLogger("gridhe").getEffectiveLevel() == logging.ERROR
    finally:
        CommonOptions(config=None, overrides={}).load()


def test_a_variable_that_is_nearly_ours_is_a_warning_in_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDHE_BROKER_URL", "mqtt://10.0.0.5")
    CommonOptions(config=None, overrides={}).load()
    assert "GRIDHE_BROKER_URL is not used; did you mean GRIDHE_BROKER__URL?" in capsys.readouterr().err


def test_gridhe_config_prints_the_shipped_file(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(__file__).resolve().parents[2] / "config" / "gridhe.yaml"
    assert run("config", command=gridhe) == 0
    assert capsys.readouterr().out == shipped.read_text(encoding="utf-8")


def test_a_command_whose_extra_is_missing_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gridhe.LAZY, "demo", ("module_of_an_extra", ""))  # type: ignore[attr-defined]
    assert run("demo", command=gridhe) == 2
    assert "pip install 'gridhe[demo]'" in capsys.readouterr().err


WAITS = """
import signal, sys, tempfile, time
import click
from gridhe.base.commands import run_command

@click.command()
def wait():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            signal.raise_signal(signal.SIGTERM)  # an impatient second one

run_command(wait, [])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_repro_sigterm_and_sighup_end_a_command_as_ctrl_c_does(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert said.strip() == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_a_commands_own_handler_of_sigterm_and_its_exit_code_are_kept() -> None:
    @click.command()
    def daemon() -> None:
        heard: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        assert heard

    assert run(command=daemon) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_where_sigterm_is_ignored_it_stays_ignored() -> None:
    @click.command()
    def deaf() -> None:
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run(command=deaf) == 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_worker_forked_by_a_command_ends_at_sigterm(capfd: pytest.CaptureFixture[str]) -> None:
    def work(running: Event) -> None:
        running.set()
        time.sleep(60)

    @click.command()
    def parent() -> None:
        context = multiprocessing.get_context("fork")
        running = context.Event()
        worker = context.Process(target=work, args=(running,))
        worker.start()
        assert running.wait(30)  # what comes between fork and its first line, Python drops
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == -signal.SIGTERM

    assert run(command=parent) == 0
    assert "Traceback" not in capfd.readouterr().err
