"""The lock files: whole, hashed, from no particular place, and in step with pyproject.toml everywhere."""

import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CHECKOUT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = {"requirements.lock": ["demo"], "requirements-dev.lock": list(PROJECT["optional-dependencies"])}
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
PLATFORMS = [
    pytest.param(
        {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "platform_machine": machine,
        },
        id=f"{python}-{machine}",
    )
    for python, machine in product(PYTHONS, ("x86_64", "aarch64"))
]


def lock(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def pinned(name: str, platform: dict[str, str]) -> dict[str, tuple[Version, str]]:
    """Version and hashes of each package that is installed on this platform; no package is pinned twice."""
    pattern = r"(?m)^([a-z0-9-]+)==(\S+)(?: ; (.*?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$"
    packages: dict[str, tuple[Version, str]] = {}
    for package, version, marker, hashes in re.findall(pattern, lock(name)):
        if not marker or Marker(marker).evaluate(platform):
            assert package not in packages, f"{package} is pinned twice"
            packages[package] = Version(version), hashes
    return packages


def wanted(extras: list[str], platform: dict[str, str]) -> list[Requirement]:
    """What pyproject.toml asks for on this platform, its own extras followed."""
    found: list[Requirement] = []
    texts = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"]]
    followed: set[str] = set()
    pending = set(extras)
    while pending:
        extra = pending.pop()
        followed.add(extra)
        for text in PROJECT["optional-dependencies"][extra]:
            if canonicalize_name(Requirement(text).name) == PROJECT["name"]:
                pending |= Requirement(text).extras - followed
            else:
                texts.append(text)
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate(platform):
            found.append(requirement)
    return found


def test_the_locks_are_for_every_supported_python() -> None:
    assert PYTHONS == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("name", EXTRAS)
def test_every_line_is_a_pinned_package_or_one_of_its_hashes(name: str) -> None:
    for line in lock(name).splitlines():
        package = re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*( ; [\w <>=!.*'()]+)? \\", line)
        hashed = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert package or hashed or line.startswith("#"), line
    assert "://" not in lock(name)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_pinned_at_a_version_that_pyproject_allows(
    name: str, platform: dict[str, str]
) -> None:
    packages = pinned(name, platform)
    requirements = wanted(EXTRAS[name], platform)
    assert len(packages) > len(requirements) >= 12
    for requirement in requirements:
        package = canonicalize_name(requirement.name)
        assert package in packages, f"{package} is not in {name}: make lock"
        assert packages[package][0] in requirement.specifier, f"{package}: make lock"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_tests_run_with_what_a_grid_runs_with(platform: dict[str, str]) -> None:
    grid = pinned("requirements.lock", platform)
    assert len(grid) >= 25
    assert grid.items() <= pinned("requirements-dev.lock", platform).items()
