"""Bundles: plan, key and signer belong together, or BundleError."""

import hashlib
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import BundleError
from gridhe.plan.parameters import RINGS
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.wire.bundle import Bundle, key_id_of
from gridhe.wire.signing import SigningKey, authority_id, sign_record

KEY = SigningKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = b"stands for a TenSEAL context: a bundle does not look into it"
PLAN = Plan(
    authority=authority_id(KEY.verify_key),
    key_id=key_id_of(PUBLIC_KEY),
    first_window=0,
    window_s=3_600,
    interval_s=900,
    quantities=(Quantity(name="power_w", unit="W", largest=9_000, statistics=("sum",)),),
    largest_group=10,
    largest_rollup=10,
    minimum_meters=3,
    grace_s=1.0,
    late_s=1.0,
    early_s=1.0,
    horizon_s=1.0,
    parameters=RINGS[0],
    scale_bits=20,
    flooding_bits=0,
    decryptions=1,
    guard_bits=14,
)
BUNDLE = Bundle(plan=PLAN, public_key=PUBLIC_KEY)


def test_a_bundle_survives_its_bytes() -> None:
    assert Bundle.decode(BUNDLE.encode(KEY), KEY.verify_key) == BUNDLE


def test_a_key_is_named_by_the_hash_of_its_bytes() -> None:
    assert key_id_of(PUBLIC_KEY) == "k" + hashlib.sha256(PUBLIC_KEY).hexdigest()[:16]


def test_a_bundle_of_another_authority_is_refused() -> None:
    with pytest.raises(BundleError, match="not signed by"):
        Bundle.decode(BUNDLE.encode(KEY), SigningKey.generate().verify_key)


def test_a_plan_of_another_authority_is_refused_even_when_signed_by_ours() -> None:
    foreign = replace(BUNDLE, plan=replace(PLAN, authority="a" + "0" * 16))
    with pytest.raises(BundleError, match="is of authority a0000000000000000"):
        foreign.encode(KEY)
    data = sign_record(KEY, "bundle", msgpack.packb([foreign.plan.encode(), PUBLIC_KEY]))
    with pytest.raises(BundleError, match="is of authority a0000000000000000"):
        Bundle.decode(data, KEY.verify_key)


def test_another_public_key_than_the_plans_is_refused() -> None:
    with pytest.raises(BundleError, match="is for key"):
        replace(BUNDLE, public_key=b"other").encode(KEY)
    data = sign_record(KEY, "bundle", msgpack.packb([PLAN.encode(), b"other"]))
    with pytest.raises(BundleError, match="is for key"):
        Bundle.decode(data, KEY.verify_key)


def test_a_bundle_with_a_plan_of_version_1_is_refused() -> None:
    record = msgpack.unpackb(PLAN.encode())
    del record["guard_bits"]
    data = sign_record(KEY, "bundle", msgpack.packb([msgpack.packb({**record, "v": 1}), PUBLIC_KEY]))
    with pytest.raises(BundleError, match="of another version of gridhe"):
        Bundle.decode(data, KEY.verify_key)


def test_a_roster_cannot_pass_for_a_bundle() -> None:
    data = sign_record(KEY, "roster", msgpack.packb([PLAN.encode(), PUBLIC_KEY]))
    with pytest.raises(BundleError):
        Bundle.decode(data, KEY.verify_key)


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "ab",
        [],
        [b"not a plan", PUBLIC_KEY],
        [PLAN.encode()],
        [PLAN.encode(), PUBLIC_KEY, b""],
        [PLAN.encode(), None],
        [PLAN.encode(), 5],
        [PLAN.encode(), "text"],
        ["text", PUBLIC_KEY],
        {"plan": PLAN.encode(), "key": PUBLIC_KEY},
    ],
)
def test_repro_signed_content_of_the_wrong_types_is_a_bundle_error(content: object) -> None:
    with pytest.raises(BundleError):
        Bundle.decode(sign_record(KEY, "bundle", msgpack.packb(content)), KEY.verify_key)


@given(st.binary(max_size=200))
def test_signed_junk_is_a_bundle_error(body: bytes) -> None:
    with pytest.raises(BundleError):
        Bundle.decode(sign_record(KEY, "bundle", body), KEY.verify_key)


@given(st.binary(max_size=200))
def test_junk_is_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        Bundle.decode(data, KEY.verify_key)
