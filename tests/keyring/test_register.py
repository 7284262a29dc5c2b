"""Member lists, before anything is decrypted."""

import tracemalloc

import pytest

from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.register import read_members
from gridhe.wire.total import MemberList, Piece, bitmap_of

METERS = [f"m{number:02}" for number in range(12)]
PROOF = 11


def read(bitmap: bytes, meters: int, proofs: bytes | None = None) -> tuple[str, ...]:
    listed = MemberList(bitmap, bytes(PROOF * meters) if proofs is None else proofs)
    return read_members(Piece("f1", 0, meters, listed), METERS, PROOF).names


def test_a_list_names_the_meters_of_its_bits() -> None:
    assert read(bitmap_of([0, 3, 11]), 3) == ("m00", "m03", "m11")


@pytest.mark.parametrize(
    ("bitmap", "meters", "proofs", "text"),
    [
        (bitmap_of([0, 12]), 2, None, "bit 12, and the roster 12 meters"),
        (bitmap_of([0, 3]), 3, None, "2 members, not 3"),
        (bitmap_of([0, 3]), 2, bytes(21), "21 bytes of proofs, not 2 x 11"),
    ],
)
def test_a_list_that_contradicts_roster_or_header_is_refused(
    bitmap: bytes, meters: int, proofs: bytes | None, text: str
) -> None:
    with pytest.raises(ReleaseRefused, match=text) as refused:
        read(bitmap, meters, proofs)
    assert refused.value.rule == "members"


def test_repro_a_bitmap_of_megabytes_is_refused_before_it_is_expanded() -> None:
    bitmap = b"\xff" * (1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseRefused, match="bit 8388607"):
            read(bitmap, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20  # expanded, it takes 377 MB
