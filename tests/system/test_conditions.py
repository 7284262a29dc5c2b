"""Every command on a machine that is against it: one clear line and a documented code, no traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import click
import pytest

from gridhe.config import Settings
from gridhe.errors import GridHEError
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.home.vault import Kdf
from gridhe_testing.conditions import PROGRAMS

pytestmark = pytest.mark.system
SOMEBODY = 12_345
RUN = "20260131t120000-1a2b"
PASSPHRASE = b"correct horse battery"
OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"
# Reads what it likes, since the interpreter and this checkout may be root's alone; writes where its uid may.
AS_USER = [
    "setpriv",
    "--clear-groups",
    "--regid=65534",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]
CONTROLS = "z\x1b[2J\x9b31m\u202e\xfcd"  # clears a screen, colours it, turns the text round; and an umlaut


def exit_codes() -> set[int]:
    """Those that docs/operations.md explains."""
    table = OPERATIONS.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (\d+(?:, \d+)*) \|", table)
    return {int(code) for row in rows for code in row.split(", ")}


def commands_of(command: click.Command, name: list[str]) -> Iterator[list[str]]:
    yield name
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                assert found is not None
                yield from commands_of(found, [*name, sub])


ALL = [
    name for program, module in PROGRAMS.items() for name in commands_of(import_module(module).cli, [program])
]


def representative(folder: Path) -> list[list[str]]:
    """Each command with something to do; relative paths lie in the working directory."""
    offline = ["--broker", "mqtt://127.0.0.1:1"]
    home, credentials = str(folder / "home"), folder / "home/credentials"
    out = f"{CONTROLS}.out"
    aggregator = ["--credential", str(credentials / "aggregator-main.json"), *offline]
    listed = str(folder / "meters.csv")
    own = ["--passphrase-file", str(folder / "passphrase")]
    authority = ["--home", home, *own]
    runs = ["--home", str(folder / "runs")]
    return [
        ["gridhe", "config"],
        ["gridhe", "doctor", "--home", home, "--credential", str(credentials / "anna.json")],
        ["gridhe", "doctor", "--json", "--credential", CONTROLS],
        ["gridhe", "demo", "--csv", CONTROLS],
        ["gridhe", "demo", "--csv", str(folder / "readings.csv"), "--out", CONTROLS, "--windows", "999"],
        ["gridhe", CONTROLS],
        ["gridhe-keyring", "plan"],
        ["gridhe-keyring", "plan", "--json"],
        ["gridhe-keyring", "plan", "--config", CONTROLS],
        ["gridhe-keyring", "plan", "--set", f"plan.{CONTROLS}=1"],
        ["gridhe-keyring", "init", "--home", CONTROLS, *own],
        ["gridhe-keyring", "inspect", "--home", home],
        ["gridhe-keyring", "inspect", "--home", home, "--json"],
        ["gridhe-keyring", "inspect", "--home", CONTROLS],
        ["gridhe-keyring", "resume", "--home", home, "main"],
        ["gridhe-keyring", "resume", "--home", home, CONTROLS],
        ["gridhe-keyring", "bundle", *authority, "--out", out],
        ["gridhe-keyring", "enrol", *authority, "--group", "north/f1", "carl", "--fleet", out],
        ["gridhe-keyring", "enrol", *authority, "--group", "north/f1", "dora"],
        ["gridhe-keyring", "enrol", *authority, "--group", CONTROLS, CONTROLS],
        ["gridhe-keyring", "enrol", *authority, "--from-csv", listed],
        ["gridhe-keyring", "enrol", *authority, "--aggregator", "main"],
        ["gridhe-keyring", "ca", *authority, "--host", "localhost"],
        ["gridhe-keyring", "ca", *authority, "--host", CONTROLS],
        ["gridhe-keyring", "release", *authority, "--offline", "--json", "--out", out],
        ["gridhe-keyring", "rotate", *authority, "--retire", CONTROLS],
        ["gridhe-keyring", "passphrase", *authority, "--new-passphrase-file", CONTROLS],
        ["gridhe-aggregate", "--quarantine", "--state-dir", "state", *aggregator],
        ["gridhe-aggregate", "--state-dir", CONTROLS, "--credential", CONTROLS],
        ["gridhe-aggregate", "--state-dir", "state", *aggregator],
        ["gridhe-aggregate", "--state-dir", "state", "--timings", f"{CONTROLS}/t/t", *aggregator],
        *(
            ["gridhe-meter", *run, "--state-dir", "meter", *offline, "--source", "replay", "--csv", csv]
            for csv in (CONTROLS, str(folder / "readings.csv"))
            for run in (
                ["run", "--credential", str(credentials / "anna.json"), "--column", CONTROLS],
                ["fleet", "--credentials", CONTROLS],
            )
        ),
        ["gridhe-meter", "sources"],
        ["gridhe-meter", "sources", "p1"],
        ["gridhe-meter", "sources", CONTROLS],
        ["gridhe-meter", "probe", "p1", f"address={CONTROLS}", "--for", "1"],
        ["gridhe-meter", "probe", CONTROLS],
        ["gridhe-meter", "check", str(folder / "readings.csv")],
        ["gridhe-meter", "check", CONTROLS, "--json"],
        ["gridhe-bench", "list"],
        ["gridhe-bench", "list", "--home", CONTROLS],
        ["gridhe-bench", "show", RUN],
        ["gridhe-bench", "show", CONTROLS],
        ["gridhe-bench", "show", RUN, *runs],
        ["gridhe-bench", "report", RUN, *runs, "--out", CONTROLS],
        ["gridhe-bench", "compare", RUN, RUN, *runs],
        ["gridhe-bench", "push", RUN, "--influx-url", CONTROLS],
        ["gridhe-bench", "import", str(folder / "timings")],
        ["gridhe-bench", "import", str(folder / "timings"), "--home", "runs"],
        ["gridhe-bench", "run", CONTROLS],
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Condition:
    redirect: str = ">out"  # of the shell that starts Python
    variables: dict[str, str] = field(default_factory=dict)
    bare: bool = False  # no variable but those
    uid: int | None = None
    cwd: Callable[[Path], None] | None = None  # makes the working directory what it is
    delete_cwd: bool = False
    stderr_kept: bool = False  # not looked at: it is the condition


def unwritable(folder: Path) -> None:
    folder.chmod(0o755)


CONDITIONS = {
    "as usual": Condition(),
    "stdout full": Condition(redirect=">/dev/full"),
    "stdout closed": Condition(redirect=">&-"),
    "stdout's reader gone": Condition(redirect="| true"),
    "everything closed": Condition(redirect="<&- >&- 2>&-", stderr_kept=True),
    "stderr full": Condition(redirect=">out 2>/dev/full", stderr_kept=True),
    "ascii": Condition(
        variables={
            "LC_ALL": "C",
            "PYTHONIOENCODING": "ascii",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
        }
    ),
    "no home": Condition(bare=True, uid=SOMEBODY, cwd=lambda folder: folder.chmod(0o777)),
    "unwritable working directory": Condition(uid=SOMEBODY, cwd=unwritable),
    "working directory gone": Condition(delete_cwd=True),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    settings = Settings()
    authority = AuthorityHome.init(folder / "home", settings, PASSPHRASE, kdf=Kdf(n=2**14))
    authority.enrol_aggregator("main", settings)
    authority.enrol_meters([("anna", "north/f1")], settings)
    authority.close()
    (folder / "passphrase").touch(0o600)
    (folder / "passphrase").write_bytes(PASSPHRASE)
    (folder / "meters.csv").write_text(f"meter,group\n{CONTROLS},north/f1\n", encoding="utf-8")
    (folder / "readings.csv").write_text(f"time,{CONTROLS},b\n1,2,3\n2,3,4\n", encoding="utf-8")
    step = {"process": CONTROLS, "step": CONTROLS, "count": 1, "seconds": [1.0]}
    (folder / "timings").write_text(json.dumps(step) + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "gridhe.bench.cli", "import", folder / "timings", "--home", folder / "runs"],
        check=True,
        capture_output=True,
    )
    (made,) = (folder / "runs").iterdir()
    text = made.read_text(encoding="utf-8").replace(made.stem, RUN)
    made.unlink()
    (folder / "runs" / f"{RUN}.jsonl").write_text(text, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Ended:
    command: list[str]
    code: int
    said: str


def _environment() -> dict[str, str]:
    """Ours, without coverage: where a command may write nothing, coverage's own files would fail too."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONUNBUFFERED" and not name.startswith("COV")
    }


def run_all(condition: Condition, commands: list[list[str]], whole: Path, place: Path) -> list[Ended]:
    """Every command under the condition, with files of its own."""
    results, work = place / "results", place / "work"
    for folder in (results, work):
        folder.mkdir()
    if condition.uid is not None:
        for path in (whole, *whole.rglob("*"), results):
            os.chown(path, condition.uid, condition.uid)
        for folder in (place, *place.parents):
            if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
    if condition.cwd is not None:
        condition.cwd(work)
    job = {"commands": commands, "results": str(results), "cwd": str(work)}
    (place / "jobs").write_text(json.dumps({**job, "delete_cwd": condition.delete_cwd}))
    environ = {} if condition.bare else _environment()
    support = Path(__file__).resolve().parents[1] / "support"
    # matplotlib would make a folder for all forks, and the first to end would remove it.
    environ |= {"PYTHONPATH": str(support), "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(results)}
    environ |= condition.variables
    if condition.stderr_kept:
        environ["CONDITION_KEEPS_STDERR"] = "1"
    become = "" if condition.uid is None else " ".join([*AS_USER, f"--reuid={condition.uid}"])
    script = f'{become} "$0" -m gridhe_testing.conditions jobs {condition.redirect}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        cwd=place,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=250,
    )
    assert (results / "codes.json").exists(), done.stderr.decode(errors="replace")[-3000:]
    codes = json.loads((results / "codes.json").read_text())
    return [
        Ended(command, code, said.read_text(encoding="utf-8", errors="replace") if said.exists() else "")
        for number, (command, code) in enumerate(zip(commands, codes, strict=True))
        for said in [results / f"{number}.err"]
    ]


@pytest.mark.parametrize("name", CONDITIONS)
def test_repro_every_command_ends_in_one_line_and_a_documented_code(
    name: str, whole: Path, tmp_path: Path
) -> None:
    condition = CONDITIONS[name]
    if condition.uid is not None and subprocess.run([*AS_USER, "true"], capture_output=True).returncode:
        pytest.skip("only root can become somebody else who reads everything")
    copy = Path(shutil.copytree(whole, tmp_path / "whole"))
    commands = [*([*each, "--help"] for each in ALL), *representative(copy)]
    ended = run_all(condition, commands, copy, tmp_path)
    wrong = [
        f"{one.command} ended with {one.code}:\n{one.said[-1500:]}"
        for one in ended
        if not fine(one, condition)
    ]
    assert not wrong, f"{len(wrong)} of {len(ended)}:\n" + "\n".join(wrong)
    (config,) = (one for one in ended if one.command == ["gridhe", "config"])
    assert config.code == {"stdout full": 6, "stdout's reader gone": 141}.get(name, 0)


def fine(one: Ended, condition: Condition) -> bool:
    allowed = exit_codes() - ({1} if "doctor" not in one.command else set()) - {130}
    if one.code not in allowed or "Traceback" in one.said:
        return False
    if any(not each.isprintable() for each in one.said if each not in "\n"):
        return False
    if condition.stderr_kept or one.code in (0, 1, 141, 143):
        return True
    errors = [line for line in one.said.splitlines() if line.lower().startswith("error: ")]
    return len(errors) == 1


def test_every_program_and_error_is_walked() -> None:
    assert len(ALL) > 25
    assert {each.exit_code for each in GridHEError.__subclasses__()} <= exit_codes()
    named = {
        tuple(each[:2]) if each[0] not in ("gridhe-aggregate",) else (each[0],)
        for each in representative(Path())
    }
    groups = {(each[0],) for each in ALL if len(each) > 1} | {("gridhe-bench", "faults")}
    assert {tuple(each) for each in ALL} - groups <= named
    assert signal.SIGPIPE + 128 == 141
