"""The one error tree.

    GridHEError                     exit code
    |-- ConfigError                 2   settings: a value, a key or a file of settings is wrong
    |-- PlanError                   3   a plan that cannot be exact, or that is not valid
    |-- TrustError                  4   a signature, key or credential of another authority
    |   |-- BundleError                 a bundle or roster without a valid signature of its authority
    |   `-- CredentialError             a credential of another authority, or readable by others
    |-- VaultError                  5   the vault cannot be opened (wrong passphrase, damaged)
    |-- StateError                  6   a state directory: in use, damaged, of another plan, full; standard
    |                                   output or a file that the operating system refuses
    |-- BrokerError                 7   the broker is unreachable or refuses us
    |-- ReleaseRefused              8   the release policy refuses a total; `rule` is the rule's name
    |-- SourceError                 9   readings that cannot be read under the chosen policy
    |-- StoreError                 10   the timings store: unreachable, refuses us, or has unreadable content
    `-- RemoteError                 -   a fault of a peer: counted, never fatal
        `-- EnvelopeError               bytes that are not a valid envelope; `reason` is the cause

Local faults end a command with one clear line and the exit code above. Remote faults end nothing: they are
counted by `reason`. A closed standard output ends a command with 141 (gridhe.base.output). Exit code 1 is for
unexpected errors and for a command with a negative result: a demo that was not exact, a failed doctor, a
failed suite.
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
    """Base of all errors of gridhe. The message has one line: actual value, expected value, what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(GridHEError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class PlanError(GridHEError):
    """A plan cannot be exact with any ring, or a plan record is not valid."""

    exit_code = 3


class TrustError(GridHEError):
    """A signature, key or credential that does not belong to this authority."""

    exit_code = 4


class BundleError(TrustError):
    """A bundle, roster or total with an invalid signature or content."""


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
    """The store of a bench's timings is unreachable, refuses us, or has content this version cannot read."""

    exit_code = 10


class RemoteError(GridHEError):
    """A peer sent something wrong. It is counted by `reason`, and nothing ends."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class EnvelopeError(RemoteError):
    """Bytes that are not a valid envelope, receipt or total."""
