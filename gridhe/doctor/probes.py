"""Checks of `gridhe doctor` that run code: a plan, an encryption, programs, credentials."""

from pathlib import Path

import numpy as np
import tenseal as ts

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.broker.server.embedded import available
from gridhe.broker.server.mosquitto_config import FLEET_USER, aggregator_user
from gridhe.config import Settings
from gridhe.doctor.broker import Login
from gridhe.doctor.checks import Check
from gridhe.errors import CredentialError, EnvelopeError, PlanError
from gridhe.plan.planner import Choice, choose
from gridhe.wire import topics
from gridhe.wire.credential import (
    AggregatorCredential,
    DeviceCredential,
    FleetCredential,
    load_aggregator,
    load_device,
    load_fleet,
)
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import from_tenseal, to_tenseal

__all__ = ["try_credential", "try_encryption", "try_plan", "try_programs"]

_NOT_AN_AGGREGATORS = (f"{topics.PREFIX}/release/#",)
_NOT_A_METERS = (
    *_NOT_AN_AGGREGATORS,
    *(f"{topics.PREFIX}/{name}/#" for name in ("batch", "roster", "total")),
)
_SLOTS = 64  # of a batch's thousands of slots: enough to detect a wrong fold


def try_plan(settings: Settings) -> tuple[Check, Choice | None]:
    """Check that the planner finds an exact ring for the settings."""
    try:
        choice = choose(settings)
    except PlanError as error:
        hint = "change plan: or ckks: in the settings as described"
        return Check(name="plan", state="fail", text=str(error), hint=hint), None
    ring = choice.parameters
    text = f"exact for {choice.meters} meters: ring {ring.ring_degree}, {ring.wire_bytes // 1024} KB a batch"
    return Check(name="plan", state="ok", text=text), choice


def try_encryption(choice: Choice) -> Check:
    """Check the sum of two batches: encrypted by TenSEAL, folded by gridhe, decrypted by TenSEAL."""
    hint = "pip install --force-reinstall gridhe"
    try:
        exact = _folds_exactly(choice)
    except (EnvelopeError, RuntimeError, ValueError) as error:  # TenSEAL raises the latter two
        text = f"TenSEAL's ciphertexts have an unknown format: {error}"
        return Check(name="encryption", state="fail", text=text, hint=hint)
    if not exact:
        text = "the sum of two encrypted batches is wrong"
        return Check(name="encryption", state="fail", text=text, hint=hint)
    return Check(name="encryption", state="ok", text="two batches encrypted, folded, decrypted: exact")


def _folds_exactly(choice: Choice) -> bool:
    parameters, scale = choice.parameters, 2.0**choice.scale_bits
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        parameters.ring_degree,
        coeff_mod_bit_sizes=list(parameters.prime_bits),
        n_threads=1,
    )
    planes = Planes(parameters)
    total = Accumulator(planes)
    readings = np.arange(2 * _SLOTS, dtype=np.int64).reshape(2, _SLOTS)
    for batch in readings:
        sealed = ts.ckks_vector(context, batch.tolist(), scale).serialize()
        total.fold(planes.views(planes.pack(from_tenseal(sealed, parameters, scale))))
    released = ts.ckks_vector_from(context, to_tenseal(total.residues(), parameters, scale)).decrypt()
    return bool((np.rint(released[:_SLOTS]) == readings.sum(axis=0)).all())


def try_programs() -> Check:
    """Check for a broker program that `gridhe demo` can start."""
    kinds = available()
    if not kinds:
        return Check(
            name="broker program",
            state="warn",
            text="neither mosquitto nor iotcore is installed, so gridhe demo has no broker to start",
            hint="apt install mosquitto, or pip install 'gridhe[demo]'",
        )
    return Check(name="broker program", state="ok", text=" and ".join(kinds))


def try_credential(path: Path) -> tuple[Check, Login | None]:
    """Check that a credential file is private and complete; also returns its login."""
    refused = ""
    for load in (load_device, load_aggregator, load_fleet):
        try:
            login = _login(load(path))
        except CredentialError as error:
            refused = str(error)
            if "is not a credential of kind" not in refused:
                break
        else:
            text = f"{path} is complete and private"
            return Check(name="credential", state="ok", text=text), login
    hint = "" if "chmod" in refused else "give a file of the authority's credentials/, or enrol again"
    return Check(name="credential", state="fail", text=refused, hint=hint), None


def _login(credential: object) -> Login | None:
    match credential:
        case DeviceCredential():
            return Login(user=credential.meter, password=credential.password, foreign=_NOT_A_METERS)
        case AggregatorCredential():
            user = aggregator_user(credential.aggregator)
            return Login(user=user, password=credential.password, foreign=_NOT_AN_AGGREGATORS)
        case FleetCredential() if credential.password is not None:
            return Login(user=FLEET_USER, password=credential.password, foreign=_NOT_A_METERS)
    return None
