"""Checks of `gridhe doctor` on certificate files: valid now, and until when."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from gridhe.config import Settings
from gridhe.doctor.checks import Check

__all__ = ["check_certificates"]

_SOON = timedelta(days=30)
_OF_THE_CA = "gridhe-keyring ca --renew-ca, and give every client the new ca.crt"
_OF_THE_BROKER = "gridhe-keyring ca, and restart the broker"
_OF_A_CLIENT = "gridhe-keyring ca --client USER, and give the user the new files"


def check_certificates(settings: Settings | None, home: Path | None, now: datetime) -> Iterator[Check]:
    """Check the certificates in the settings and in the authority's home at `now` (UTC)."""
    hints: dict[Path, str] = {}
    if settings is not None and settings.broker.ca_file is not None:
        hints[Path(settings.broker.ca_file)] = _OF_THE_CA
    if settings is not None and settings.broker.client_cert_file is not None:
        hints[Path(settings.broker.client_cert_file)] = _OF_A_CLIENT
    if home is not None:
        made = {home / "ca/ca.crt": _OF_THE_CA, home / "broker/tls/server.crt": _OF_THE_BROKER}
        hints |= {path: hint for path, hint in made.items() if path.exists()}
    for path, hint in hints.items():
        yield _check(path, hint, now)


def _check(path: Path, hint: str, now: datetime) -> Check:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        text = f"{path} cannot be read as PEM certificates: {getattr(error, 'strerror', None) or error}"
        return Check(name="certificate", state="fail", text=text, hint="give the path of a PEM file")
    ends = min(each.not_valid_after_utc for each in certificates)
    begins = max(each.not_valid_before_utc for each in certificates)
    if now >= ends:
        text = f"{path} has expired, on {ends:%Y-%m-%d}"
        return Check(name="certificate", state="fail", text=text, hint=hint)
    if now < begins:
        text = f"{path} is not yet valid: from {begins:%Y-%m-%d %H:%M} UTC on, and it is {now:%Y-%m-%d %H:%M}"
        return Check(name="certificate", state="fail", text=text, hint="set this machine's clock")
    if now >= ends - _SOON:
        text = f"{path} ends soon, on {ends:%Y-%m-%d}"
        return Check(name="certificate", state="warn", text=text, hint=hint)
    return Check(name="certificate", state="ok", text=f"{path} is valid until {ends:%Y-%m-%d}")
