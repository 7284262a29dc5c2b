"""Packages of the extra `bench`: imported when used; the error names one that is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gridhe.errors import ConfigError

__all__ = ["check_extra", "needs_extra"]


@contextmanager
def needs_extra(user: str) -> Iterator[None]:
    """Put this around an import that only `user` needs: a missing package raises ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "gridhe":
            raise
        raise _missing(user, error.name) from error


def check_extra(user: str, package: str) -> None:
    """Raise ConfigError if `package` is missing, without importing it."""
    if find_spec(package) is None:
        raise _missing(user, package)


def _missing(user: str, package: str) -> ConfigError:
    return ConfigError(f"{user} needs {package}, which is not installed: pip install 'gridhe[bench]'")
