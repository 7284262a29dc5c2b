"""Secrets stay where they belong: searched for in all that a demo prints, leaves and shows in /proc."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridhe.errors import CredentialError, VaultError
from gridhe.keyring.home.vault import Secrets, Vault
from gridhe.wire.credential import (
    AggregatorCredential,
    DeviceCredential,
    FleetCredential,
    load_aggregator,
    load_device,
    load_fleet,
)
from gridhe.wire.envelope import envelope_key
from gridhe.wire.signing import SigningKey

WINDOW_BYTES = 48  # of a secret key: any stretch this long stands for it


def forms(name: str, secret: bytes | str) -> Iterator[tuple[str, bytes]]:
    """A secret as it could turn up: as it is, in hex, in base64 (each alignment), as Python shows bytes."""
    raw = secret.encode() if isinstance(secret, str) else secret
    yield name, raw
    yield f"{name} in hex", raw.hex().encode()
    yield f"{name} in HEX", raw.hex().upper().encode()
    for shift in range(3):
        body = base64.b64encode(bytes(shift) + raw)[4 if shift else 0 : -4]
        yield f"{name} in base64", body
        yield f"{name} in base64url", body.replace(b"+", b"-").replace(b"/", b"_")
    yield f"{name} as Python shows it", repr(raw)[2:-1].encode()


def wanted(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """What to look for, by the one file where it may stand ("" for nowhere at all)."""
    passphrase = (folder / "passphrase").read_text().strip()
    secrets = Vault.open(folder / "authority/vault", passphrase.encode()).secrets
    found: dict[str, list[tuple[str, bytes]]] = {"": [], "passphrase": list(forms("passphrase", passphrase))}
    for name in ("signing_key", "noise_key", "broker_secret", "guard_secret"):
        found[""] += forms(name, getattr(secrets, name))
    for key, context in secrets.contexts.items():
        assert len(context) > 10_000
        for at in range(len(context) // 4, len(context) - WINDOW_BYTES, len(context) // 8):
            found[""] += forms(f"secret key {key}", context[at : at + WINDOW_BYTES])
    at = "authority/credentials/aggregator-main.json"
    aggregator = load_aggregator(folder / at)
    assert aggregator.ingest_secret == secrets.ingest_secret
    for name in ("ingest_secret", "signing_key", "password"):
        found.setdefault(at, []).extend(forms(f"the aggregator's {name}", getattr(aggregator, name)))
    fleet = load_fleet(folder / "fleet.json")
    own = found.setdefault("fleet.json", [])
    own += forms("the fleet's password", fleet.password or "")
    for device in fleet.devices:
        own += forms(f"{device.meter}'s ingest key", device.ingest_key)
        own += forms(f"{device.meter}'s envelope key", envelope_key(device.ingest_key))
        own += forms(f"{device.meter}'s guard key", device.guard_key)
        own += forms("the home key", device.home_key)
        own += forms(f"{device.meter}'s password", device.password)
    return found


class Watch:
    """Command lines and environments of a process and all beneath it, for as long as it lives."""

    def __init__(self, pid: int) -> None:
        self.lines: set[str] = set()
        self.variables: set[str] = set()
        self.names: set[str] = set()
        self._root = psutil.Process(pid)
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while True:
            try:
                if self._root.status() == psutil.STATUS_ZOMBIE:
                    return
                family = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    line = process.cmdline()
                    self.lines.add(" ".join(line))
                    self.names.add(next((part for part in line if part.startswith("gridhe.")), line[0]))
                    self.variables |= {f"{k}={v}" for k, v in process.environ().items()}
                except (psutil.Error, IndexError):
                    continue
            time.sleep(0.05)  # it samples: there is no event to wait for

    def ended(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.mark.system
def test_a_demo_leaves_secrets_only_in_the_files_made_for_them(tmp_path: Path, mosquitto: Path) -> None:
    command = [sys.executable, "-P", "-m", "gridhe.cli", "demo", "--meters", "20", "--groups", "2"]
    command += ["--windows", "1", "--json", "--keep", "--out", str(tmp_path / "out")]
    command += ["--set", "logging.level=debug", "--prefer-broker", "mosquitto"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    ) as demo:
        watch = Watch(demo.pid)
        try:
            said, told = demo.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            demo.kill()  # its children end with it
            said, told = demo.communicate()
        watch.ended()
    assert demo.returncode == 0, told[-2000:]
    assert json.loads(said)["exact"]
    kept = re.search(r"state of all processes in (\S+)", told)
    assert kept
    folder = Path(kept.group(1))
    try:
        secrets = wanted(folder)
        places: dict[str, bytes] = {"stdout": said.encode(), "stderr": told.encode()}
        places["argv"] = "\n".join(watch.lines).encode(errors="surrogateescape")
        places["environment"] = "\n".join(watch.variables).encode(errors="surrogateescape")
        for root in (folder, tmp_path / "out"):
            for path in root.rglob("*"):
                if path.is_file():
                    places[str(path.relative_to(root))] = path.read_bytes()
        # The search itself works: each file made for secrets holds them, and the processes were seen.
        for place, looked_for in secrets.items():
            assert not place or any(form in places[place] for _, form in looked_for), place
        assert {
            "gridhe.aggregator.cli",
            "gridhe.meter_agent.cli",
            "gridhe.keyring.cli",
        } <= watch.names
        found = [
            f"{name} in {place}"
            for place, data in places.items()
            for own, looked_for in secrets.items()
            if own != place
            for name, form in looked_for
            if form in data
        ]
        assert found == []
        check_permissions(folder, secrets)
    finally:
        shutil.rmtree(folder)


def check_permissions(folder: Path, secrets: dict[str, Any]) -> None:
    assert folder.stat().st_mode & 0o077 == 0
    for place in (
        *filter(None, secrets),
        "authority/vault",
        "authority/ledger.jsonl",
        "authority/answers.db",
    ):
        assert (folder / place).stat().st_mode & 0o777 == 0o600, place


KEY = bytes(range(200, 232))
CREDENTIALS = (
    DeviceCredential(
        meter="m1",
        group="n",
        password="hush-hush",
        ingest_key=KEY,
        guard_key=KEY,
        home_key=KEY,
        authority_key=bytes(32),
    ),
    AggregatorCredential(
        aggregator="main", password="hush-hush", ingest_secret=KEY, signing_key=KEY, authority_key=bytes(32)
    ),
)

SECRETS = Secrets(signing_key=KEY, ingest_secret=KEY, noise_key=KEY, broker_secret=KEY, guard_secret=KEY)


SHOWN = (
    *CREDENTIALS,
    FleetCredential(devices=CREDENTIALS[:1], password="hush-hush"),
    SigningKey.from_private_bytes(KEY),
    replace(SECRETS, contexts={"k": KEY}),
)


@pytest.mark.parametrize("shown", SHOWN)
def test_no_record_shows_its_secrets(shown: object) -> None:
    text = f"{shown} {shown!r} {[shown]}"
    assert "hush" not in text
    for _, form in forms("key", KEY):
        assert form.decode("latin-1") not in text


@pytest.mark.parametrize(
    ("load", "saved"), [(load_device, CREDENTIALS[0]), (load_aggregator, CREDENTIALS[1])]
)
def test_a_damaged_credential_is_refused_without_showing_its_content(
    tmp_path: Path, load: Any, saved: Any
) -> None:
    path = tmp_path / "credential.json"
    saved.save(path)
    whole = path.read_text()
    for damage in (KEY.hex()[:-2], KEY.hex()[:-1] + "z", "hush"):
        path.write_text(whole.replace(KEY.hex(), damage, 1))
        with pytest.raises(CredentialError) as refused:
            load(path)
        # As a crash would print it, causes and all.
        text = "".join(traceback.format_exception(refused.value))
        assert "hush" not in text
        assert KEY.hex()[:16] not in text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_credential_that_others_can_read_is_refused_with_the_command_that_fixes_it(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "m1.json"
    CREDENTIALS[0].save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(mode)
    with pytest.raises(CredentialError, match=f"chmod 600 {path}"):
        load_device(path)


def test_no_command_leaves_a_core_file() -> None:
    program = (
        "import resource, click; from gridhe.base.commands import run_command; "
        "run_command(click.Command('x', callback=lambda: print(resource.getrlimit(resource.RLIMIT_CORE)[0])))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_wrong_passphrase_is_slow_and_says_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    Vault.create(home / "vault", b"correct horse battery", SECRETS)  # at the cost that users get
    says = set()
    for wrong in (b"", b"correct horse batterx", b"CORRECT HORSE BATTERY", b"x" * 10_000):
        started = time.process_time()
        with pytest.raises(VaultError) as refused:
            Vault.open(home / "vault", wrong)
        # scrypt at 2^17 takes 128 MiB and some 0.3 s of any processor: three guesses a second, not millions.
        assert time.process_time() - started > 0.1
        says.add("".join(traceback.format_exception_only(refused.value)))
    assert len(says) == 1
    assert "correct horse" not in says.pop()
