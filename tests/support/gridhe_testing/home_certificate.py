"""A certificate that a home's device or broker has made for itself."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["HomeCertificate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeCertificate:
    """PEM files, and the SHA-256 fingerprint of the certificate in hexadecimal."""

    cert: Path
    key: Path
    fingerprint: str

    @classmethod
    def make(cls, folder: Path, *, address: str | None = "127.0.0.1") -> "HomeCertificate":
        """Valid for an hour, self-signed; for `address`, or only for a serial number as HomeWizard's."""
        folder.mkdir()
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "appliance/p1dongle/0123456789")])
        key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(key_id, critical=False)
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        cert = builder.sign(key, hashes.SHA256())
        paths = folder / "cert.pem", folder / "key.pem"
        paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        for path in paths:
            path.chmod(0o600)
        return cls(cert=paths[0], key=paths[1], fingerprint=cert.fingerprint(hashes.SHA256()).hex())
