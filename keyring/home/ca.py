"""A private certificate authority for the broker and its clients, in the authority's home.

    ca/ca.key               the CA's key, encrypted under a secret of the vault
    ca/ca.crt               the certificate that clients trust (broker.ca_file)
    broker/tls/server.*     the broker's certificate and key; ca.crt beside them, to check clients with
    credentials/NAME.crt    a client's certificate and key: its common name is the broker user, for
    credentials/NAME.key    broker.client_certificates

No certificate is valid longer than the CA. `renew` makes a new CA certificate for ten years with the same key
and name, so certificates it has signed stay valid; clients need the new ca.crt before the old one ends.

Keys are P-256. Each certificate states its purpose (extended key usage): a stolen broker's certificate is not
accepted as a client's, nor a meter's as a broker's.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gridhe.base.files import make_private_dir, write_private
from gridhe.errors import ConfigError, TrustError, VaultError
from gridhe.keyring.home.enrolment import derive_password
from gridhe.plan.names import check_name

__all__ = ["CertificateAuthority", "Issued"]

_CA_DAYS = 3_650
_DAYS = 730
_AHEAD = timedelta(hours=1)  # certificates are valid from this long before now, because clocks differ
_KEY_LABEL = "ca-key"  # the "user" that the password of the CA's key is derived for
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key, on the disk."""

    name: str
    cert_file: Path
    key_file: Path
    until: datetime


class CertificateAuthority:
    """The CA of a home, made if there is none. It signs only while its own certificate is valid."""

    def __init__(
        self, home: Path, broker_secret: bytes, *, authority: str, now: Callable[[], datetime]
    ) -> None:
        """`authority` is the home's id and part of the CA's name; `now` returns a UTC time with its zone.

        Raises VaultError if the CA's key is damaged or of another vault, StateError if the disk fails.
        """
        self._now = now
        self._passphrase = derive_password(broker_secret, _KEY_LABEL, 1).encode()
        self.cert_file = home / "ca" / "ca.crt"
        self._key_file = home / "ca" / "ca.key"
        self._key, self._cert = self._load() if self._key_file.exists() else self._make(authority)

    @property
    def until(self) -> datetime:
        """The end of the CA's own certificate, UTC."""
        return self._cert.not_valid_after_utc

    @property
    def ends_soon(self) -> bool:
        """Whether a certificate made now is valid for less than two years, because the CA ends first."""
        return self.until < self._now() + timedelta(days=_DAYS)

    def renew(self) -> None:
        """Make a new CA certificate with the same key and name, valid from now. Raises StateError."""
        self._cert = self._sign_own(self._key, self._cert.subject)

    def _make(self, authority: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        make_private_dir(self._key_file.parent)
        key = ec.generate_private_key(ec.SECP256R1())
        # Write the certificate first, so that a key on the disk always has its certificate.
        cert = self._sign_own(key, _name(f"gridhe {authority}"))
        encrypted = serialization.BestAvailableEncryption(self._passphrase)
        write_private(self._key_file, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encrypted))
        return key, cert

    def _sign_own(self, key: ec.EllipticCurvePrivateKey, name: x509.Name) -> x509.Certificate:
        """Make the CA's own certificate and write it to the disk."""
        until = self._now() + timedelta(days=_CA_DAYS)
        builder = self._builder(name, name, key.public_key(), key.public_key(), until)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        cert = builder.sign(key, hashes.SHA256())
        write_private(self.cert_file, cert.public_bytes(_PEM))
        self.cert_file.chmod(0o644)
        return cert

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), self._passphrase)
            cert = x509.load_pem_x509_certificate(self.cert_file.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise VaultError(
                f"cannot open the CA in {self._key_file.parent} ({type(error).__name__}): restore it "
                "together with its vault, or move it away and give every party new certificates"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
            raise VaultError(f"{self._key_file} and {self.cert_file} do not belong together")
        return key, cert

    def issue_server(self, hosts: Sequence[str], directory: Path) -> Issued:
        """Write a broker's certificate for these host names and addresses, and the CA's, to `directory`.

        Raises ConfigError if one of them is not a host, TrustError if the CA is not valid now.
        """
        if not hosts:
            raise ConfigError("a broker's certificate needs the host names or addresses that clients use")
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        self._check_valid()
        make_private_dir(directory)
        write_private(directory / "ca.crt", self._cert.public_bytes(_PEM))
        (directory / "ca.crt").chmod(0o644)
        return self._issue("server", hosts[0][:64], ExtendedKeyUsageOID.SERVER_AUTH, directory, names)

    def issue_clients(self, users: Iterable[str], directory: Path) -> list[Issued]:
        """Write a certificate for each broker user to `directory`. Raises TrustError as above."""
        wanted = [check_name(user, "broker user") for user in users]
        make_private_dir(directory)
        return [self._issue(user, user, ExtendedKeyUsageOID.CLIENT_AUTH, directory, None) for user in wanted]

    def _issue(
        self,
        file: str,
        common_name: str,
        purpose: x509.ObjectIdentifier,
        directory: Path,
        names: x509.SubjectAlternativeName | None,
    ) -> Issued:
        self._check_valid()
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(self._now() + timedelta(days=_DAYS), self.until)
        subject, issuer = _name(common_name), self._cert.subject
        builder = self._builder(subject, issuer, key.public_key(), self._key.public_key(), until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(self._key, hashes.SHA256())
        issued = Issued(
            name=common_name,
            cert_file=directory / f"{file}.crt",
            key_file=directory / f"{file}.key",
            until=cert.not_valid_after_utc,
        )
        plain = serialization.NoEncryption()  # a service cannot ask for a passphrase; the file is 0600
        write_private(issued.key_file, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain))
        write_private(issued.cert_file, cert.public_bytes(_PEM))
        issued.cert_file.chmod(0o644)
        return issued

    def _check_valid(self) -> None:
        """Raise TrustError if the CA's certificate has ended or has not begun."""
        now, begins, ends = self._now(), self._cert.not_valid_before_utc, self.until
        if now >= ends:
            raise TrustError(
                f"the CA {self.cert_file} ended on {ends:%Y-%m-%d}; run `gridhe-keyring ca --renew-ca`, "
                "and give every client the new ca.crt"
            )
        if now < begins:
            raise TrustError(
                f"the CA {self.cert_file} is valid from {begins:%Y-%m-%d %H:%M} UTC, and this machine's "
                f"clock shows {now:%Y-%m-%d %H:%M}; set the clock"
            )

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public: ec.EllipticCurvePublicKey,
        issuer_key: ec.EllipticCurvePublicKey,
        until: datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now() - _AHEAD)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError(f"{host[:80]!r} is not a host name; write international names as xn--...") from None


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
