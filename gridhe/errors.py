"""The one error tree.

    GridHEError                     exit code
    |-- ConfigError                 2   settings: a value, a key or a file of settings is wrong
    |-- PlanError                   3   a plan that cannot be exact, or that is not valid
    |-- TrustError                  4   a signature, key or credential does not belong here
    |   |-- BundleError                 a bundle or roster that is not its authority's
    |   `-- CredentialError             a credential of another authority, or readable by others
    |-- VaultError                  5   the vault cannot be opened (wrong passphrase, damaged)
    |-- StateError                  6   a state directory: in use, damaged, of another plan, full; standard
    |                                   output or a file that the operating system refuses
    |-- BrokerError                 7   the broker is away or refuses us
    |-- ReleaseRefused              8   the release policy says no; `rule` names which rule
    |-- SourceError                 9   readings that cannot be read under the chosen policy
    |-- StoreError                 10   the timings store: away, refuses us, or holds what cannot be read
    `-- RemoteError                 -   a peer's fault: counted and survived, never fatal
        `-- EnvelopeError               bytes that are no valid envelope; `reason` names why

Local faults end a command with one clear line and the exit code above. Remote faults never end
anything: they are counted by `reason`. A reader of standard output that goes away ends a command with 141
(gridhe.base.output). Exit code 1 is kept for what nobody foresaw and for a command
whose finding is a "no": a demo that was not exact, a broken promise, a suite that failed.
"""

from typing import ClassVar

__all__ = [
    "BrokerError",
    "BundleError",
    "ConfigError",
    "CredentialError",
    "EnvelopeError",
    "GridHEError",
    "PlanError",
    "ReleaseRefused",
    "RemoteError",
    "SourceError",
    "StateError",
    "StoreError",
    "TrustError",
    "VaultError",
]


class GridHEError(Exception):
    """Anything gridhe raises on purpose. Its message, one line: what came, what was expected, a way out."""

    exit_code: ClassVar[int] = 1


class ConfigError(GridHEError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class PlanError(GridHEError):
    """A plan cannot be exact with any ring, or a plan record is not valid."""

    exit_code = 3


class TrustError(GridHEError):
    """Something signed or secret does not belong to this authority."""

    exit_code = 4


class BundleError(TrustError):
    """A bundle, roster or total whose signature or content is not its maker's."""


class CredentialError(TrustError):
    """A credential file that is unreadable, exposed to others or of another authority."""


class VaultError(GridHEError):
    """The vault cannot be opened: wrong passphrase, damaged or missing file."""

    exit_code = 5


class StateError(GridHEError):
    """A state directory or database is in use, damaged, full or belongs to something else."""

    exit_code = 6


class BrokerError(GridHEError):
    """The broker cannot be reached, or refuses this client."""

    exit_code = 7


class ReleaseRefused(GridHEError):
    """The release policy refuses a total; `rule` is the rule's name in docs/operations.md."""

    exit_code = 8

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class SourceError(GridHEError):
    """Readings that the chosen policy refuses to read (text, a broken row, a missing file)."""

    exit_code = 9


class StoreError(GridHEError):
    """The store of a bench's timings is away, refuses us, or holds what this version cannot read."""

    exit_code = 10


class RemoteError(GridHEError):
    """A peer sent something wrong: counted by `reason`, survived."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EnvelopeError(RemoteError):
    """Bytes that are not a valid envelope, receipt or total."""
