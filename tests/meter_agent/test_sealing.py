"""Sealing: what TenSEAL encrypts is what arrives, and nothing secret is needed for it."""

from typing import Any

import numpy as np
import pytest

from gridhe.errors import BundleError
from gridhe.meter_agent.sealing import Encryptor, Sealer
from gridhe.plan.guards import Guards
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import TAGS
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.envelope import open_envelope


@pytest.mark.parametrize(
    ("degree", "bits", "scale_bits"),
    [
        (2048, (40, 14), 16),
        (4096, (32, 32, 20), 23),
        (4096, (48, 41, 20), 25),
        (8192, (48, 48, 48, 20), 25),
        (8192, (60, 40, 40, 60), 25),
    ],
)
def test_every_slot_of_a_sealed_batch_decrypts_to_its_integer(
    authority_of: Any, degree: int, bits: tuple[int, ...], scale_bits: int
) -> None:
    authority = authority_of(CkksParameters(degree, bits), scale_bits)
    readings = np.random.default_rng(1).integers(0, 20_000, 24)
    readings[[3, 7]] = -1
    device = authority.device("m1")
    payload = Sealer(Encryptor(authority.bundle), device).seal(5, {"import_wh": readings})
    header = open_envelope(payload, 1 << 22).header
    assert (header.meter, header.group, header.window) == ("m1", "north/f1", 5)
    assert (header.plan, header.key) == (authority.plan.plan_id, authority.plan.key_id)
    assert len(authority.opened(payload)) == authority.plan.parameters.wire_bytes
    slots = authority.slots_of(payload)
    wanted = authority.plan.layout.encode({"import_wh": readings})
    assert slots[: len(wanted)].tolist() == wanted.tolist()
    # Every other slot is a guard that the authority computes from the proof; tag slots add a checksum.
    guards = Guards(authority.plan)
    proven = guards.prove(5, header.proof, device.guard_key)
    assert slots[len(wanted) : -TAGS].tolist() == proven.guards[:-TAGS].tolist()
    assert not guards.tag_faults(5, slots, proven.guards, device.home_key).any()
    assert proven.present.tolist() == [[int(value >= 0) for value in readings]]
    assert slots[len(wanted) :].any()


def test_repro_a_window_sealed_again_with_other_readings_has_another_proof_and_other_guards(
    authority: Any,
) -> None:
    # As after a restored outbox: the difference of two such batches would be a ciphertext without guards.
    sealer = Sealer(Encryptor(authority.bundle), authority.device("m1"))
    first = np.arange(24)
    late = first.copy()
    late[3] = -1
    payloads = [sealer.seal(5, {"import_wh": readings}) for readings in (late, first, first)]
    slots = [authority.slots_of(payload) for payload in payloads]
    proofs = [open_envelope(payload, 1 << 22).header.proof for payload in payloads]
    assert proofs[0][:8] != proofs[1][:8]
    assert proofs[1] == proofs[2]
    used = authority.plan.layout.used
    assert (slots[0][used:] != slots[1][used:]).mean() > 0.99
    assert (slots[1] == slots[2]).all()


def test_two_meters_with_the_same_readings_have_other_guards(authority: Any) -> None:
    encryptor, readings = Encryptor(authority.bundle), {"import_wh": np.arange(24)}
    first, second = (
        authority.slots_of(Sealer(encryptor, authority.device(meter)).seal(5, readings))
        for meter in ("m1", "m2")
    )
    used = authority.plan.layout.used
    assert (first[:used] == second[:used]).all()
    assert (first[used:] != second[used:]).mean() > 0.99


def test_sealing_twice_gives_other_bytes(authority: Any) -> None:
    sealer = Sealer(Encryptor(authority.bundle), authority.device("m1"))
    assert sealer.seal(5, {}) != sealer.seal(5, {})


def test_a_bundle_of_another_authority_is_refused(authority: Any, authority_of: Any) -> None:
    other = authority_of(CkksParameters(2048, (40, 14)), 16)
    with pytest.raises(BundleError, match=f"this meter's is {authority.plan.authority}"):
        Sealer(Encryptor(other.bundle), authority.device("m1"))


def test_a_public_key_that_is_none_or_of_another_ring_or_secret_is_refused(authority: Any) -> None:
    secret = authority.context.serialize(save_secret_key=True, save_public_key=True)
    for public_key, changes in (
        (b"junk", {}),
        (authority.public_key, {"parameters": CkksParameters(4096, (32, 32, 20))}),
        (secret, {}),
    ):
        plan = authority.with_plan(key_id=key_id_of(public_key), **changes).plan
        with pytest.raises(BundleError):
            Encryptor(Bundle(plan=plan, public_key=public_key))
