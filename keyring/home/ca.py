"""A private certificate authority for the broker and its clients, in the authority's home.

    ca/ca.key               the CA's key, encrypted under a secret of the vault
    ca/ca.crt               what clients are given to trust (broker.ca_file)
    broker/tls/server.*     the broker's certificate and key; ca.crt beside them, to check clients with
    credentials/NAME.crt    a client's certificate and key: its common name is the broker user, for
    credentials/NAME.key    broker.client_certificates

Keys are P-256. A certificate says what it is for (extended key usage): a stolen broker's certificate does not
pass for a client's, nor a meter's for a broker's.
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
from gridhe.errors import ConfigError, VaultError
from gridhe.keyring.home.enrolment import derive_password
from gridhe.plan.names import check_name

__all__ = ["CertificateAuthority", "Issued"]

_CA_DAYS = 3_650
_DAYS = 730
_AHEAD = timedelta(hours=1)  # valid this long before it was made: clocks differ
_KEY_LABEL = "ca-key"  # no broker user can have it: it stands for the CA's key among derived passwords
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key, on the disk."""

    name: str
    cert_file: Path
    key_file: Path
    until: datetime


class CertificateAuthority:
    """The CA of a home, made when there is none."""

    def __init__(
        self, home: Path, broker_secret: bytes, *, authority: str, now: Callable[[], datetime]
    ) -> None:
        """`authority` is the home's id, which the CA is named after; `now` gives a UTC time with its zone.

        Raises VaultError when the CA's key is of another vault or damaged, StateError when the disk refuses.
        """
        self._now = now
        self._passphrase = derive_password(broker_secret, _KEY_LABEL, 1).encode()
        self.cert_file = home / "ca" / "ca.crt"
        self._key_file = home / "ca" / "ca.key"
        self._key, self._cert = self._load() if self._key_file.exists() else self._make(authority)

    def _make(self, authority: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        make_private_dir(self._key_file.parent)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"gridhe {authority}")
        builder = self._builder(name, name, key.public_key(), _CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        cert = builder.sign(key, hashes.SHA256())
        # The certificate first: whoever finds a key finds its certificate too.
        write_private(self.cert_file, cert.public_bytes(_PEM))
        self.cert_file.chmod(0o644)
        encrypted = serialization.BestAvailableEncryption(self._passphrase)
        write_private(self._key_file, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encrypted))
        return key, cert

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        try:
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), self._passphrase)
            cert = x509.load_pem_x509_certificate(self.cert_file.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise VaultError(
                f"the CA in {self._key_file.parent} does not open ({type(error).__name__}): restore it with "
                "its vault, or move it away and let every party have new certificates"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or cert.public_key() != key.public_key():
            raise VaultError(f"{self._key_file} and {self.cert_file} do not belong together")
        return key, cert

    def issue_server(self, hosts: Sequence[str], directory: Path) -> Issued:
        """A broker's certificate for these host names and addresses, in `directory` with the CA's."""
        if not hosts:
            raise ConfigError("a broker's certificate needs the host names or addresses that clients use")
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        make_private_dir(directory)
        write_private(directory / "ca.crt", self._cert.public_bytes(_PEM))
        (directory / "ca.crt").chmod(0o644)
        return self._issue("server", hosts[0][:64], ExtendedKeyUsageOID.SERVER_AUTH, directory, names)

    def issue_clients(self, users: Iterable[str], directory: Path) -> list[Issued]:
        """A certificate for each of these broker users, in `directory`."""
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
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common_name), self._cert.subject, key.public_key(), _DAYS)
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
        plain = serialization.NoEncryption()  # a service has nobody to ask; the file is 0600
        write_private(issued.key_file, key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain))
        write_private(issued.cert_file, cert.public_bytes(_PEM))
        issued.cert_file.chmod(0o644)
        return issued

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        now = self._now()
        issuer_key = self._cert.public_key() if subject != issuer else public
        assert isinstance(issuer_key, ec.EllipticCurvePublicKey)  # noqa: S101 - `_load` has checked it
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _AHEAD)
            .not_valid_after(now + timedelta(days=days))
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
        raise ConfigError(f"{host[:80]!r} is no host name; write international names as xn--...") from None


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
