"""Each safeguard taken out: the faults must notice, or they prove nothing."""

import pytest

from faults.cases.mutations import MUTANTS, is_red
from faults.options import Options

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("mosquitto"), pytest.mark.timeout(240)]


@pytest.mark.parametrize("name", list(MUTANTS))
def test_the_suite_goes_red_without(name: str) -> None:
    outcome = MUTANTS[name](Options(seed=1))
    assert is_red(name, outcome), f"nobody noticed that {name} was switched off: {outcome.line()}"
