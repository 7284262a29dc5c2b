"""`gridhe doctor`: the faults of this machine or configuration, each with a hint."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from gridhe.base.commands import CommonOptions, common_options
from gridhe.base.output import echo
from gridhe.config import Settings, find_settings_file
from gridhe.doctor import checks
from gridhe.doctor.checks import Check
from gridhe.errors import ConfigError

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@common_options
@click.option(
    "--home", type=click.Path(path_type=Path), metavar="DIR", help="Also check an authority's folder."
)
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also check a credential and its login at the broker; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_context
def doctor(
    ctx: click.Context, common: CommonOptions, home: Path | None, credentials: tuple[Path, ...], as_json: bool
) -> None:
    """Check Python, packages, settings, the broker and key files, with a hint for each fault.

    Exits with 0 if nothing failed (warnings are allowed), else with 1. Changes nothing.
    """
    results = []
    for check in _examine(common, home, credentials):
        results.append(check)
        if not as_json:
            _print(check)
    failed = sum(check.state == "fail" for check in results)
    if as_json:
        echo(json.dumps({"ok": failed == 0, "checks": [asdict(check) for check in results]}))
    else:
        warned = sum(check.state == "warn" for check in results)
        echo(f"{len(results) - failed - warned} ok, {warned} warnings, {failed} failed")
    ctx.exit(1 if failed else 0)


def _examine(common: CommonOptions, home: Path | None, credentials: tuple[Path, ...]) -> Iterator[Check]:
    yield checks.check_python()
    yield from checks.check_packages()
    file, why = None, "refused"
    with contextlib.suppress(ConfigError):  # `load` raises the same error below
        file, why = find_settings_file(common.config)
    settings, results = checks.check_settings(lambda: common.load(logging=False), file, why, os.environ)
    yield from results
    if home is not None:
        yield from checks.check_home(home)
        yield checks.check_passphrase(os.environ, terminal=sys.stdin.isatty())
    try:
        from gridhe.doctor import broker, certificates, probes
    except ImportError as error:
        hint = "see the packages above; if all are installed, run: pip install --force-reinstall gridhe"
        yield Check(name="imports", state="fail", text=f"{type(error).__name__}: {error}", hint=hint)
        return
    # If the settings are refused, the checks that do not need them still run.
    plan, choice = probes.try_plan(settings or Settings())
    if settings is not None:
        yield plan
    if choice is not None:
        yield probes.try_encryption(choice)
    yield probes.try_programs()
    yield from certificates.check_certificates(settings, home, datetime.now(UTC))
    tried = [probes.try_credential(path) for path in credentials]
    yield from (check for check, _ in tried)
    if settings is not None:
        logins = [login for _, login in tried if login is not None]
        for login in logins or (None,):
            yield from broker.try_broker(settings, login)


def _print(check: Check) -> None:
    echo(f"{check.state:4}", colour=_COLOURS[check.state], nl=False)
    echo(f"  {check.name}: {check.text}")
    if check.hint:
        echo(f"      -> {check.hint}")
