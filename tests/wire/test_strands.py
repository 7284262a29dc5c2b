"""Strands, by a second implementation."""

import hashlib
import hmac
from collections import Counter

from gridhe.wire.strands import STRANDED_METERS, STRANDS, strand_key, strand_of


def test_strands_are_what_the_page_says() -> None:
    secret = bytes(range(32))
    extracted = hmac.digest(bytes(32), secret, "sha256")
    key = hmac.digest(extracted, b"gridhe/v2/strands\x01", "sha256")
    assert strand_key(secret) == key
    for name, window in (("m1", 0), ("anna", 20_000), ("x" * 64, 2**48 - 1)):
        digest = hmac.new(key, window.to_bytes(8, "big") + name.encode(), hashlib.sha256).digest()
        assert strand_of(key, name, window) == digest[0] % 8
    assert (STRANDS, STRANDED_METERS) == (8, 40)


def test_meters_are_spread_and_have_other_neighbours_in_each_window() -> None:
    key, meters = strand_key(b"s" * 32), [f"m{number}" for number in range(8_000)]
    sizes = Counter(strand_of(key, meter, 7) for meter in meters)
    assert len(sizes) == STRANDS
    assert all(850 < size < 1_150 for size in sizes.values())  # 5 standard deviations of 1,000
    again = sum(strand_of(key, meter, 7) == strand_of(key, meter, 8) for meter in meters)
    assert 850 < again < 1_150
