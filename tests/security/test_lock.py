"""The lock files: whole, hashed, from no particular place, and in step with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
MARKED = r"(?: ; (?:\w+ [<=>]+ \"\w[\w.]*\"(?: and )?)+)?"
EXTRAS = {"requirements.lock": ["operator", "demo"], "requirements-bench.lock": ["operator", "demo", "bench"]}
ELSEWHERE = {"openfhe"}  # has wheels for Python 3.12 alone; the locks are Python 3.11's


def lock(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def pinned(name: str) -> dict[str, tuple[str, str]]:
    """Version and hashes by package."""
    pattern = rf"(?m)^([a-z0-9-]+)==(\S+){MARKED}((?: \\\n    --hash=sha256:[0-9a-f]{{64}})+)$"
    return {package: (version, hashes) for package, version, hashes in re.findall(pattern, lock(name))}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


@pytest.mark.parametrize("name", EXTRAS)
def test_every_line_is_a_pinned_package_or_one_of_its_hashes(name: str) -> None:
    packages = pinned(name)
    assert len(packages) >= 25
    lines = 0
    for line in lock(name).splitlines():
        package = re.fullmatch(rf"[a-z0-9-]+==[0-9][\w.]*{MARKED} \\", line)
        hashed = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert package or hashed or line.startswith("# ") or line.startswith("#   "), line
        lines += package is not None
    assert lines == len(packages)
    assert "://" not in lock(name)


@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_pinned_at_a_version_that_pyproject_allows(name: str) -> None:
    packages = pinned(name)
    wanted = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"]]
    for extra in EXTRAS[name]:
        wanted += PROJECT["optional-dependencies"][extra]
    for requirement in wanted:
        found = re.match(r"([A-Za-z0-9_-]+)(?:\[\w+\])?(?:>=([\d.]+))?", requirement)
        assert found
        package = found[1].lower().replace("_", "-")
        if package != "gridhe" and package not in ELSEWHERE:
            assert package in packages, f"{package} is not in {name}: make lock"
            assert numbers(packages[package][0]) >= numbers(found[2] or "0"), package


def test_the_benchmarks_run_with_what_a_grid_runs_with() -> None:
    assert pinned("requirements.lock").items() <= pinned("requirements-bench.lock").items()
