"""requirements.lock: whole, hashed, from no particular place, and in step with pyproject.toml."""

import re
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = {
    name: (version, hashes)
    for name, version, hashes in re.findall(
        r"(?m)^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", LOCK
    )
}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def test_every_line_is_a_pinned_package_or_one_of_its_hashes() -> None:
    assert len(PINNED) >= 25
    for line in LOCK.splitlines():
        pinned = re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]* \\", line)
        hashed = re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert pinned or hashed or line.startswith("# ") or line.startswith("#   "), line
    assert "://" not in LOCK


def test_every_dependency_of_a_grid_is_pinned_at_a_version_that_pyproject_allows() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["operator"], *extras["demo"]]
    for requirement in wanted:
        found = re.match(r"([A-Za-z0-9_-]+)(?:\[\w+\])?(?:>=([\d.]+))?", requirement)
        assert found
        name = found[1].lower().replace("_", "-")
        if name != "gridhe":
            assert name in PINNED, f"{name} is not in requirements.lock: make lock"
            assert numbers(PINNED[name][0]) >= numbers(found[2] or "0"), name
