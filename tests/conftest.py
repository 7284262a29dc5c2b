"""What tests of every room share: few things."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridhe_testing.grid import Grid

# Where Debian keeps servers; the PATH of a user often lacks it.
_SERVER_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


@pytest.fixture(scope="session")
def mosquitto() -> Path:
    """The mosquitto server's program. Skips without it, but fails where GRIDHE_REQUIRE_MOSQUITTO=1 (CI)."""
    found = shutil.which("mosquitto", path=_SERVER_PATH)
    if found is None:
        reason = "there is no mosquitto here; apt install mosquitto"
        if os.environ.get("GRIDHE_REQUIRE_MOSQUITTO") == "1":
            pytest.fail(f"{reason} (GRIDHE_REQUIRE_MOSQUITTO=1)")
        pytest.skip(reason)
    return Path(found)


@pytest.fixture(scope="session", autouse=True)
def _signals_are_not_ignored() -> None:
    """A shell's `&` ignores SIGINT, and nohup ignores SIGHUP, for every process that the tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Handlers that a command's test adds write to that test's streams, which are closed after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings, passphrases or gridhe.yaml of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("GRIDHE_") and not name.startswith("GRIDHE_REQUIRE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def make_grid(tmp_path: Path) -> Iterator[Callable[..., Grid]]:
    """Makes grids with real keys and an engine each; options are Grid's."""
    grids: list[Grid] = []

    def make(**options: object) -> Grid:
        grids.append(Grid(tmp_path / f"state{len(grids)}", **options))
        return grids[-1]

    yield make
    for grid in grids:
        grid.stop()


@pytest.fixture
def grid(make_grid: Callable[..., Grid]) -> Grid:
    """A grid of three feeders in two regions, twelve meters."""
    return make_grid()
