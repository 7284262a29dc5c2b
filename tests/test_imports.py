"""Imports go one way, and who must not decrypt cannot import what decrypts."""

import ast
import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gridhe

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE_DIRS: dict[str, str] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))[
    "tool"
]["setuptools"]["package-dir"]

# docs/rooms.md: a module imports its own room and rooms of earlier places in this order. Rooms that share
# a place never import each other, which is also the security rule: only `keyring` can decrypt.
ORDER: list[set[str]] = [
    {"gridhe.errors", "gridhe"},
    {"gridhe.config"},
    {"gridhe.base"},
    {"gridhe.plan"},
    {"gridhe.wire"},
    {"gridhe.broker"},
    {"gridhe.custody"},
    {"gridhe.meter_agent", "gridhe.aggregator", "gridhe.keyring"},
    {"gridhe.bench", "gridhe.demo", "gridhe.doctor"},
    {"gridhe.cli"},
]
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the rooms, and its file."""
    for room, folder in PACKAGE_DIRS.items():
        for file in (CHECKOUT / folder).rglob("*.py"):
            inner = file.relative_to(CHECKOUT / folder).with_suffix("").parts
            yield ".".join((room, *inner)).removesuffix(".__init__"), file


MODULES = dict(modules())


def room(module: str) -> str:
    """`gridhe.wire.total` is in `gridhe.wire`."""
    return ".".join(module.split(".")[:2])


def imported(file: Path, module: str) -> set[str]:
    """Every gridhe module that the file names in an import, wherever in the file it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import; write the full name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "gridhe"}


def test_every_module_has_its_place_in_the_order() -> None:
    assert {room(module) for module in MODULES} == PLACE.keys()


def test_imports_go_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, file in MODULES.items()
        for other in imported(file, module)
        if room(other) != room(module) and PLACE[room(other)] >= PLACE[room(module)]
    ]
    # (`gridhe` imports its sub-commands by name, when they are used: nothing static shows.)
    assert wrong == []


def test_modules_import_each_other_in_no_circle() -> None:
    sorter = TopologicalSorter(
        {module: imported(file, module) - {module} for module, file in MODULES.items()}
    )
    sorter.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", ["gridhe", "tests", "docs", "tools", "nothing"])
def test_only_rooms_are_packages(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"gridhe.{name}")


def test_the_rooms_are_listed_once_in_the_order_of_the_tree() -> None:
    assert {"gridhe", *(f"gridhe.{name}" for name in gridhe.ROOMS)} == PACKAGE_DIRS.keys()


def test_nothing_imports_a_top_level_room() -> None:
    # `import keyring` would be PyPI's, and `import config` whatever lies in the working directory.
    names = set(PACKAGE_DIRS.values()) - {"gridhe"}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not names & {alias.name.split(".")[0] for alias in node.names}, module
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] not in names, module


def test_the_keyrings_own_init_imports_nothing() -> None:
    tree = ast.parse(MODULES["gridhe.keyring"].read_text(encoding="utf-8"))
    assert [type(node).__name__ for node in tree.body] == ["Expr"], "a docstring and nothing else"


def loaded_by(*names: str) -> set[str]:
    """What is in sys.modules of a new interpreter once it has imported `names`."""
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(sorted(sys.modules)))", *names],
        # Coverage in the new interpreter would import modules of its own.
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("role", ["gridhe.meter_agent", "gridhe.aggregator"])
def test_a_role_that_must_not_decrypt_loads_nothing_of_the_authoritys(role: str) -> None:
    own = [module for module in MODULES if module.startswith(role)]
    loaded = loaded_by(*own)
    assert set(own) <= loaded
    assert not {module for module in loaded if room(module) in ("gridhe.keyring", "gridhe.custody")}


def test_only_the_authority_imports_custody() -> None:
    users = {
        room(module)
        for module, file in MODULES.items()
        if any(room(other) == "gridhe.custody" for other in imported(file, module))
    }
    assert users == {"gridhe.custody", "gridhe.keyring"}


def test_the_aggregator_does_not_load_guards() -> None:
    # With the meters' guard keys it could make up members.
    own = [module for module in MODULES if module.startswith("gridhe.aggregator")]
    assert "gridhe.plan.guards" not in loaded_by(*own)


def test_the_aggregator_does_not_load_tenseal() -> None:
    loaded = loaded_by(*(module for module in MODULES if module.startswith("gridhe.aggregator")))
    assert not {"tenseal", "tenseal.tensors"} & loaded


def test_the_fold_loads_no_database_and_no_other_part_of_the_aggregator() -> None:
    fold = [module for module in MODULES if module.startswith("gridhe.aggregator.fold")]
    loaded = loaded_by(*fold)
    assert "sqlite3" not in loaded
    others = {module for module in loaded if room(module) == "gridhe.aggregator"} - set(fold)
    assert others == {"gridhe.aggregator", "gridhe.aggregator.counters"}


def test_a_meter_loads_no_plots_terminal_views_or_test_tools() -> None:
    loaded = loaded_by(*(module for module in MODULES if module.startswith("gridhe.meter_agent")))
    assert not {"matplotlib", "rich", "psutil", "influxdb_client", "pytest", "hypothesis", "pandas"} & loaded


def test_the_type_checkers_view_shows_every_module() -> None:
    view = CHECKOUT / ".typing" / "gridhe"
    seen = {path.name: path.resolve() for path in view.iterdir()}
    top = {path.name: path for path in (CHECKOUT / "gridhe").iterdir() if path.suffix in (".py", ".typed")}
    top |= {
        folder: CHECKOUT / folder
        for folder in PACKAGE_DIRS.values()
        if folder != "gridhe" and "/" not in folder
    }
    top |= {file.parent.name: file.parent for file in (CHECKOUT / "gridhe").glob("*/__init__.py")}
    assert seen == {name: path.resolve() for name, path in top.items()}, "mend with: ln -s in .typing/gridhe"
