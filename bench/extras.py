"""What the extra `bench` brings: imported when it is used, and named when it is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gridhe.errors import ConfigError

__all__ = ["check_extra", "needs_extra"]


@contextmanager
def needs_extra(who: str) -> Iterator[None]:
    """Around an import that only `who` needs: a package that is missing is a ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "gridhe":
            raise
        raise _missing(who, error.name) from error


def check_extra(who: str, package: str) -> None:
    """Raises ConfigError if `package` is missing, without importing it."""
    if find_spec(package) is None:
        raise _missing(who, package)


def _missing(who: str, package: str) -> ConfigError:
    return ConfigError(f"{who} needs {package}, which is not installed: pip install 'gridhe[bench]'")
