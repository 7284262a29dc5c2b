"""Honest totals are all released, exactly; `make hostile` does it with 10,000."""

import pytest

from gridhe.plan.parameters import RINGS
from gridhe_testing.honest_totals import measure


@pytest.mark.timeout(300)
def test_no_honest_total_is_refused_in_any_ring() -> None:
    figures = measure(200, 20_261_125)
    assert figures.refused == []
    assert figures.wrong == []
    assert figures.totals >= 200
    assert set(figures.rings) == {str(ring) for ring in RINGS}
    assert figures.decrypted > 100
    assert max(figures.strays.values()) < 0.5
