"""Processes of our own: watched, and always ended."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gridhe.base.processes import ChildFailed, Children, clean_environment, start_process, stop_process
from gridhe.demo.progress import DemoProgress

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")


def module(folder: Path, name: str, text: str) -> dict[str, str]:
    """A module that children can run with -m, and the environment they need for it."""
    (folder / f"{name}.py").write_text(text)
    return clean_environment(PYTHONPATH=str(folder))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_fails_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    env = module(tmp_path, "bad", "import sys\nprint('why it broke', file=sys.stderr)\nsys.exit(6)\n")
    with Children(tmp_path, env) as children, pytest.raises(ChildFailed) as caught:
        children.run("meters", "bad")
    assert "meters ended with exit code 6" in str(caught.value)
    assert "meters: why it broke" in str(caught.value)


def test_what_a_child_prints_is_given_back(tmp_path: Path) -> None:
    env = module(tmp_path, "good", "import sys\nprint(sys.argv[1:], sys.flags.safe_path)\n")
    with Children(tmp_path, env) as children:
        assert children.run("one", "good", "a", "b") == "['a', 'b'] True\n"


def test_a_child_that_takes_too_long_is_ended_and_reported(tmp_path: Path) -> None:
    env = module(tmp_path, "slow", "import signal\nsignal.pause()\n")
    with Children(tmp_path, env) as children:
        with pytest.raises(ChildFailed, match="did not end within"):
            children.run("sleeper", "slow", timeout_s=0.5)
        child = children.start("another", "slow")
        assert alive(child.pid)
    assert not alive(child.pid)


def test_children_are_ended_in_reverse_when_something_goes_wrong(tmp_path: Path) -> None:
    text = """
import os, signal, sys, time
def stop(*_):
    with open("order", "a") as file:
        file.write(sys.argv[1])
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""
    env = module(tmp_path, "polite", text)
    with pytest.raises(ZeroDivisionError), Children(tmp_path, env) as children:  # noqa: PT012
        for name in "abc":
            child = children.start(name, "polite", name)
            while "ready" not in child.output.read_text():
                assert child.exit_code is None
        raise ZeroDivisionError
    assert (tmp_path / "order").read_text() == "cba"


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    module(tmp_path, "slow", "import signal\nsignal.pause()\n")
    parent = f"""
import signal, sys
from pathlib import Path
from gridhe.base.processes import Children, clean_environment
child = Children(Path({str(tmp_path)!r}), clean_environment(PYTHONPATH={str(tmp_path)!r})).start("c", "slow")
print(child.pid, flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        child = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        process.wait()
        # The child is not ours to wait for; a pidfd becomes readable when its process ends.
        import select

        assert select.select([child], [], [], 10.0)[0]
        os.close(child)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_started_program_has_its_own_command_line_group_and_signals(tmp_path: Path) -> None:
    output = tmp_path / "out"
    text = "import os, signal; print(os.getpgid(0) == os.getpid()); signal.pause()"
    with output.open("wb") as file:
        process = start_process(
            [sys.executable, "-u", "-c", text, "x"],
            stdout=file,
            stderr=file,
            env={"A": "b"},
            cwd=tmp_path,
        )
    try:
        deadline = time.monotonic() + 30
        while not output.read_bytes().endswith(b"\n") and time.monotonic() < deadline:
            assert process.poll() is None, output.read_text()
        assert output.read_text() == "True\n"
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert line == [sys.executable.encode(), b"-u", b"-c", text.encode(), b"x", b""]
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b"A=b\0"
    finally:
        assert stop_process(process) == -signal.SIGTERM


def test_a_program_that_is_no_python_does_not_ignore_the_signals_that_python_does(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with output.open("wb") as file:
        process = start_process(["grep", "SigIgn", "/proc/self/status"], stdout=file, stderr=file)
    assert process.wait(30) == 0
    ignored = int(output.read_text().split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_a_program_that_cannot_be_started_ends_at_once(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with output.open("wb") as file:
        process = start_process([str(tmp_path / "nothing")], stdout=file, stderr=file)
    assert process.wait(30) != 0
    assert "No such file" in output.read_text()


def test_gridhes_own_variables_do_not_reach_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDHE_BROKER__URL", "mqtt://elsewhere")
    env = clean_environment(GRIDHE_HOME="/x")
    assert "GRIDHE_BROKER__URL" not in env
    assert env["GRIDHE_HOME"] == "/x"


def test_progress_off_a_terminal_is_a_line_now_and_then_and_one_at_the_end() -> None:
    text, now = io.StringIO(), [0.0]
    with DemoProgress(10, 2, to=text, clock=lambda: now[0]) as progress:
        progress.step("begin")
        progress.update(batches=1, totals=0)
        now[0] = 0.1
        progress.update(batches=2, totals=0)
        now[0] = 3.0
        progress.update(batches=9, totals=1)
        progress.update(batches=10, totals=2)
        progress.update(batches=10, totals=2)
    assert text.getvalue().splitlines() == [
        "gridhe demo: begin",
        "gridhe demo: 1/10 batches receipted, 0/2 totals released",
        "gridhe demo: 9/10 batches receipted, 1/2 totals released",
        "gridhe demo: 10/10 batches receipted, 2/2 totals released",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_bars_that_start_with_the_first_update() -> None:
    text = Terminal()
    before = threading.active_count()
    with DemoProgress(10, 2, to=text) as progress:
        progress.step("begin")
        assert threading.active_count() == before  # processes are started here
        progress.update(batches=3, totals=1)
        progress.update(batches=10, totals=2)
    assert "begin" in text.getvalue()
    assert "10/10" in text.getvalue()
    assert "2/2" in text.getvalue()
