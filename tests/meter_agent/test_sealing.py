"""Sealing: what TenSEAL encrypts is what arrives, and nothing secret is needed for it."""

from typing import Any

import numpy as np
import pytest

from gridhe.errors import BundleError
from gridhe.meter_agent.sealing import Encryptor, Sealer
from gridhe.plan.parameters import CkksParameters
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
    envelope = open_envelope(payload, 1 << 22)
    envelope.check_tag(device.ingest_key)
    assert (envelope.header.meter, envelope.header.group, envelope.header.window) == ("m1", "north/f1", 5)
    assert (envelope.header.plan, envelope.header.key) == (authority.plan.plan_id, authority.plan.key_id)
    assert len(envelope.ciphertext) == authority.plan.parameters.wire_bytes
    slots = authority.slots_of(payload)
    wanted = authority.plan.layout.encode({"import_wh": readings})
    assert slots[: len(wanted)].tolist() == wanted.tolist()
    assert not slots[len(wanted) :].any()


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
