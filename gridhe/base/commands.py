"""Common parts of all commands: flags, error handling, version.

A command line is built like this:

    @click.group()
    @version_option
    def cli() -> None: ...

    @cli.command()
    @common_options
    def run(common: CommonOptions, broker: str | None) -> None:
        settings = common.load({"broker.url": broker})   # also starts logging

    def main() -> None:
        run_command(cli)
"""

import functools
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar, get_args

import click

from gridhe import __version__
from gridhe.base.logs import set_up_logging
from gridhe.base.output import OutputClosed, echo, standard_streams
from gridhe.config import Settings, load_settings
from gridhe.config.document import parse_value
from gridhe.config.environment import unused_variables
from gridhe.config.load import Section, load_section, setting_paths
from gridhe.config.settings import LoggingSettings
from gridhe.errors import ConfigError, GridHEError, StateError

__all__ = [
    "CommonOptions",
    "common_options",
    "run_command",
    "timings_option",
    "trust_clock_option",
    "version_option",
]

P = ParamSpec("P")
R = TypeVar("R")

_LOG = logging.getLogger(__name__)
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SIGNALLED = 128  # plus the signal: 143 for SIGTERM, 129 for SIGHUP

version_option = click.version_option(__version__, "--version", message="%(prog)s %(version)s")

timings_option = click.option(
    "--timings",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="At the end, append the durations of the work's steps; `gridhe-bench import FILE` stores them.",
)


trust_clock_option = click.option(
    "--trust-clock",
    is_flag=True,
    help="Believe this machine's clock although it is more than 400 days after the last known time.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """The values of --config, --set and --log-level."""

    config: Path | None
    overrides: Mapping[str, Any]

    def load(self, flags: Mapping[str, Any] | None = None, *, logging: bool = True) -> Settings:
        """Return the settings, and set up logging from them (unless `logging` is False).

        `flags` are the command's own flags by setting ({"broker.url": url}); None: not given. They override
        --set. Raises ConfigError.
        """
        own = {name: value for name, value in (flags or {}).items() if value is not None}
        settings = load_settings(self.config, overrides={**self.overrides, **own})
        if logging:
            set_up_logging(settings.logging)
            for line in unused_variables(os.environ, setting_paths()):
                _LOG.warning(line)
        return settings

    def section(self, name: str) -> Section:
        """The values of a section that another model checks. Raises ConfigError."""
        return load_section(name, self.config, overrides=self.overrides)


def common_options(function: Callable[P, R]) -> Callable[..., R]:
    """Add --config, --set and --log-level to a command, as its argument `common: CommonOptions`."""

    @click.option(
        "--config",
        "_config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Settings file. Default: $GRIDHE_CONFIG, else ./gridhe.yaml, else built-in defaults.",
    )
    @click.option(
        "--set",
        "_set",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="One setting; overrides the file and the environment; repeatable.",
    )
    @click.option(
        "--log-level",
        "_log_level",
        type=click.Choice(get_args(LoggingSettings.model_fields["level"].annotation)),
        help="The same as --set logging.level=...",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        overrides = dict(map(_parse_set, kwargs.pop("_set")))
        level = kwargs.pop("_log_level")
        if level is not None:
            overrides["logging.level"] = level
        common = CommonOptions(config=kwargs.pop("_config"), overrides=overrides)
        return function(*args, common=common, **kwargs)  # type: ignore[arg-type]  # no way to type an added keyword

    return wrapper


def run_command(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a click command as the main program, and exit with its code.

    GridHEError: `error: ...` on stderr for each line of the message, and its exit code. Wrong flag: click's
    message and 2. Ctrl-C: 130. SIGTERM and SIGHUP unwind a command like Ctrl-C (temporary folders and child
    processes are removed) with 143 or 129, unless it has its own handler, as daemons have. OSError (no space,
    no permission, a missing folder): one line and 6. A file name outside the locale: one line and 2.
    Any other exception is a bug: traceback and 1.
    """
    # Every role has keys in memory: a crash in a native library must not write them to a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with standard_streams():
        sys.exit(_run(command, args))


def _run(command: click.Command, args: Sequence[str] | None) -> int:
    terminated: list[int] = []
    try:
        with _signals_unwind(terminated):
            result = command.main(args=args, standalone_mode=False)
        sys.stdout.flush()
    except OutputClosed as error:
        return error.exit_code
    except GridHEError as error:
        _print_error(str(error) or type(error).__name__)
        return error.exit_code
    except click.ClickException as error:
        message = io.StringIO()
        error.show(file=message)
        echo(message.getvalue(), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("stopped", err=True)
        return _SIGNALLED + terminated[0] if terminated else _INTERRUPTED
    except OSError as error:
        _LOG.debug("the operating system refuses", exc_info=True)
        where = "" if error.filename is None else f"{error.filename}: "
        _print_error(f"{where}{error.strerror or error}; check the disk, and who may read and write there")
        return StateError.exit_code
    except UnicodeEncodeError as error:
        _LOG.debug("a name has characters that this locale has not", exc_info=True)
        _print_error(f"{error.object!a} has characters that this locale cannot write; set LC_ALL=C.UTF-8")
        return ConfigError.exit_code
    # ctx.exit(n) is returned as a number here; a command's own return value may be anything.
    return result if isinstance(result, int) else 0


def _print_error(text: str) -> None:
    for line in text.splitlines():
        echo(f"error: {line}", err=True)


@contextmanager
def _signals_unwind(terminated: list[int]) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, and add it to `terminated`; a second one is ignored.

    Only signals with the default handler are changed.
    """
    taken = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    owner = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker, with nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in taken:
            signal.signal(each, signal.SIG_IGN)  # so that the clean-up is not interrupted
        terminated.append(number)
        raise KeyboardInterrupt

    for each in taken:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def _parse_set(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {text}: expected section.key=value, such as plan.window_s=3600")
    return name, parse_value(value, f"--set {name}")
