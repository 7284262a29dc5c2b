"""Static checks of `gridhe doctor`: Python, packages, settings, folders and files.

Nothing here imports a package that could be missing; `gridhe.doctor.probes` has the checks that run code.
"""

import importlib.metadata
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gridhe import __version__
from gridhe.base.files import check_private, stranger
from gridhe.config import Settings
from gridhe.config.environment import is_setting, unused_variables
from gridhe.config.load import setting_paths
from gridhe.errors import ConfigError, GridHEError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = [
    "Check",
    "check_home",
    "check_packages",
    "check_passphrase",
    "check_python",
    "check_settings",
    "private_file",
]

State = Literal["ok", "warn", "fail"]

_PYTHON = (3, 11)
_EXTRAS = {"operator": "live views", "demo": "gridhe demo", "bench": "benchmarks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One result; `hint` is what to do about it, "" if there is nothing to do."""

    name: str
    state: State
    text: str
    hint: str = ""


def check_python() -> Check:
    """Check that the interpreter is new enough."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON:
        return Check(name="python", state="fail", text=version, hint="install Python 3.11 or newer")
    return Check(name="python", state="ok", text=f"{version} at {sys.executable}")


def check_packages() -> Iterator[Check]:
    """Check that every package in gridhe's metadata is installed in a version that it allows."""
    try:
        requirements = importlib.metadata.requires("gridhe") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(name="gridhe", state="warn", text=f"{__version__}, not installed", hint="pip install .")
        return
    yield Check(name="gridhe", state="ok", text=__version__)
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Check(name="packaging", state="fail", text="not installed", hint="pip install packaging")
        return
    for requirement in map(Requirement, requirements):
        if requirement.name == "gridhe":
            continue
        marker = requirement.marker
        for extra in ("", *_EXTRAS):  # the marker of a base package is true without an extra, or absent
            if marker is None or marker.evaluate({"extra": extra}):
                yield _package(requirement, extra)
                break


def _package(wanted: "Requirement", extra: str) -> Check:
    missing: State = "warn" if extra else "fail"
    purpose = f" ({_EXTRAS[extra]})" if extra else ""
    hint = f"pip install 'gridhe[{extra}]'" if extra else f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=wanted.name, state=missing, text=f"not installed{purpose}", hint=hint)
    if not wanted.specifier.contains(version, prereleases=True):
        text = f"{version}, needs {wanted.specifier}{purpose}"
        return Check(name=wanted.name, state=missing, text=text, hint=hint)
    return Check(name=wanted.name, state="ok", text=version)


def check_settings(
    load: Callable[[], Settings], file: Path | None, why: str, environ: Mapping[str, str]
) -> tuple[Settings | None, list[Check]]:
    """The settings (None if they are refused), and the checks about them."""
    names = list(filter(is_setting, sorted(environ)))
    unused = [
        Check(name="environment", state="warn", text=line)
        for line in unused_variables(environ, setting_paths())
    ]
    source = "built-in defaults" if file is None else f"{file} ({why})"
    source += f"; from the environment: {', '.join(names)}" if names else ""
    try:
        return load(), [Check(name="settings", state="ok", text=source), *unused]
    except ConfigError as error:
        hint = "correct it there; `gridhe config` prints all settings"
        lines = str(error).splitlines()
        return None, [
            *(Check(name="settings", state="fail", text=line, hint=hint) for line in lines),
            *unused,
        ]


def check_home(home: Path) -> Iterator[Check]:
    """Check that the authority's folder, its vault and its credentials are private."""
    init = f"give the authority's folder, or make one: gridhe-keyring init --home {home}"
    try:
        status = home.stat()
        mode, owner = status.st_mode, stranger(status)
        if not stat.S_ISDIR(mode):
            yield Check(name="home", state="fail", text=f"{home} is not a folder", hint=init)
            return
        names = {path.name for path in home.iterdir()}
        files = sorted((home / "credentials").iterdir()) if "credentials" in names else []
        credentials = [path for path in files if path.suffix != ".crt"]  # a certificate is not secret
    except OSError as error:
        yield Check(name="home", state="fail", text=f"{home}: {error.strerror or error}", hint=init)
        return
    if owner is not None:
        text = f"{home} belongs to {owner}"
        yield Check(name="home", state="fail", text=text, hint="run the doctor as that user")
    elif mode & 0o067:  # the broker's group may pass through (gridhe.keyring.home.authority)
        text = f"{home} is open to others (mode {stat.S_IMODE(mode):04o})"
        yield Check(name="home", state="fail", text=text, hint=f"chmod 700 {home}")
    else:
        yield Check(name="home", state="ok", text=f"{home} is private")
    if "vault" in names:
        yield private_file("vault", home / "vault")
    else:
        yield Check(name="vault", state="fail", text=f"there is none in {home}", hint=init)
    exposed = [check for check in map(_credential, credentials) if check.state != "ok"]
    yield from exposed
    if credentials and not exposed:
        yield Check(
            name="credentials",
            state="warn",
            text=f"{len(credentials)} still in {home / 'credentials'}",
            hint="give each to its owner and delete it there; on one machine they may stay",
        )


def _credential(path: Path) -> Check:
    return private_file("credential", path)


def check_passphrase(environ: Mapping[str, str], *, terminal: bool) -> Check:
    """Check the source of the vault's passphrase."""
    file = environ.get("GRIDHE_PASSPHRASE_FILE")
    if file:
        return private_file("passphrase", Path(file))
    if environ.get("GRIDHE_PASSPHRASE"):
        return Check(
            name="passphrase",
            state="warn",
            text="in GRIDHE_PASSPHRASE, which this user's other processes can read",
            hint="put it into a 0600 file and name that in GRIDHE_PASSPHRASE_FILE",
        )
    if terminal:
        return Check(name="passphrase", state="ok", text="will be read from the terminal")
    return Check(
        name="passphrase",
        state="warn",
        text="not given, and there is no terminal to read it from",
        hint="put it into a 0600 file and name that in GRIDHE_PASSPHRASE_FILE",
    )


def private_file(name: str, path: Path) -> Check:
    """Check that only its owner can read a file."""
    try:
        check_private(path)
    except GridHEError as error:
        return Check(name=name, state="fail", text=str(error), hint="")
    return Check(name=name, state="ok", text=f"{path} is private")
