"""However gridhe is installed, its rooms are gridhe.<room>, and PyPI's `keyring` stays itself.

Everything is built and installed from a copy of the checkout, without the network: each venv gets PyPI's
own `keyring` as its neighbour and sees the other packages of the environment that runs these tests.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_DIRS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]

# Run in the new environment: where each package comes from, and whether the shipped files are there.
PROBE = """
import importlib, importlib.metadata, importlib.resources, json, sys
import gridhe.keyring, keyring
for room in sys.argv[1:]:
    importlib.import_module(room)
print(json.dumps({
    "keyring": [keyring.__file__, callable(getattr(keyring, "get_password", None))],
    "gridhe.keyring": [gridhe.keyring.__file__, hasattr(gridhe.keyring, "get_password")],
    "yaml": importlib.resources.files("gridhe.config").joinpath("gridhe.yaml").is_file(),
    "typed": importlib.resources.files("gridhe").joinpath("py.typed").is_file(),
    "config": importlib.util.find_spec("config") is not None,
    "version": importlib.metadata.version("gridhe"),
    "scripts": sorted(e.name for e in importlib.metadata.distribution("gridhe").entry_points),
}))
"""

pytestmark = pytest.mark.timeout(180)


def run(*command: object, cwd: Path) -> str:
    # No PYTHONPATH and not in the checkout: only what is installed can be imported.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's files, without what builds and tools leave there."""
    target = tmp_path_factory.mktemp("source") / "gridhe"
    names = {Path(folder).parts[0] for folder in PACKAGE_DIRS.values()}
    for name in names:
        shutil.copytree(
            CHECKOUT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, target)
    return target


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist, as a package index would get them."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    assert [path.name for path in out.glob("*.tar.gz")] == [f"gridhe-{version()}.tar.gz"]
    (built,) = out.glob("*.whl")
    return built


def version() -> str:
    from gridhe import __version__

    return __version__


class Venv:
    """A new environment with PyPI's keyring in its site-packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.python = folder / "bin" / "python"
        (self.site,) = (folder / "lib").glob("python3*/site-packages")
        own = sysconfig.get_paths()
        (self.site / "parent.pth").write_text(f"{own['purelib']}\n{own['platlib']}\n", encoding="utf-8")
        keyring = importlib.metadata.distribution("keyring")
        for file in keyring.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                copy = self.site / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(keyring.locate_file(file)), copy)
        self.before = self.names()

    def names(self) -> set[str]:
        return {path.name for path in self.site.iterdir() if path.name != "__pycache__"}

    def install(self, *what: object) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check")
        options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
        run(*pip, "install", *options, *what, cwd=self.folder)

    def check(self, gridhe_keyring: Path) -> None:
        """The rooms import from where they should, and keyring is PyPI's."""
        probe = json.loads(run(self.python, "-c", PROBE, *PACKAGE_DIRS, cwd=self.folder))
        assert probe == {
            "keyring": [str(self.site / "keyring" / "__init__.py"), True],
            "gridhe.keyring": [str(gridhe_keyring / "__init__.py"), False],
            "yaml": True,
            "typed": True,
            "config": False,
            "version": version(),
            "scripts": sorted(SCRIPTS),
        }
        assert run(self.folder / "bin" / "gridhe", "--version", cwd=self.folder).split() == [
            "gridhe",
            version(),
        ]


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    return Venv(tmp_path / "venv")


def test_a_wheel_from_the_sdist_installs_beside_pypis_keyring(venv: Venv, wheel: Path) -> None:
    venv.install(wheel)
    venv.check(venv.site / "gridhe" / "keyring")
    assert venv.names() - venv.before == {"gridhe", f"gridhe-{version()}.dist-info"}


def test_pip_install_of_the_checkout_works_beside_pypis_keyring(venv: Venv, source: Path) -> None:
    venv.install(source)
    venv.check(venv.site / "gridhe" / "keyring")
    assert venv.names() - venv.before == {"gridhe", f"gridhe-{version()}.dist-info"}


def test_an_editable_install_works_beside_pypis_keyring(venv: Venv, source: Path) -> None:
    venv.install("--editable", source)
    venv.check(source / "keyring")
    assert all("gridhe" in name for name in venv.names() - venv.before)


def test_the_wheel_holds_every_file_of_every_room_and_nothing_else(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    rooms = {package.split(".")[1] for package in PACKAGE_DIRS if "." in package}
    here = {f"gridhe/{path.relative_to(source)}" for room in rooms for path in (source / room).rglob("*.*")}
    here |= {str(path.relative_to(source)) for path in (source / "gridhe").rglob("*.*")}
    assert {name for name in names if name.endswith(".py")} == {name for name in here if name.endswith(".py")}
    assert {"gridhe/config/gridhe.yaml", "gridhe/py.typed"} <= names
    data = {name for name in here if "/data/" in name}
    assert data, "the shipped readings"
    assert data - names == set(), "data that lies in the checkout and is missing from the wheel"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_answers_help(script: str, tmp_path: Path) -> None:
    command = Path(sysconfig.get_path("scripts")) / script
    assert command.is_file(), (
        f"{script} is not installed here: install gridhe into the environment of the tests"
    )
    assert run(command, "--help", cwd=tmp_path).startswith(f"Usage: {script}")
    assert run(command, "--version", cwd=tmp_path).split() == [script, version()]
