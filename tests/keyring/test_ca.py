"""The CA knows its own end: nothing outlives it, and a command renews it."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from gridhe.errors import TrustError
from gridhe.keyring.home.ca import CertificateAuthority

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
DAY = timedelta(days=1)


@pytest.fixture
def ca(tmp_path: Path) -> Callable[[datetime], CertificateAuthority]:
    """The CA of one home, opened with this clock."""
    return lambda now: CertificateAuthority(tmp_path, bytes(32), authority="a1", now=lambda: now)


def handshake(server: Any, ca_file: Path, host: str) -> None:
    """A TLS handshake in memory, checked as strictly as Python 3.13 does. Raises ssl.SSLError."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server.cert_file, server.key_file)
    ours = ssl.create_default_context(cafile=ca_file)
    ours.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        ours.wrap_bio(to_client, to_server, server_hostname=host),
        theirs.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not ends:
            return
    raise AssertionError("the handshake does not end")


def test_repro_no_certificate_outlives_the_ca(ca: Any, tmp_path: Path) -> None:
    first = ca(NOW)
    assert not first.ends_soon
    assert first.issue_server(["localhost"], tmp_path / "tls").until == NOW + 2 * YEAR
    late = ca(NOW + 9 * YEAR)
    assert late.ends_soon
    assert late.until == first.until == NOW + 10 * YEAR
    assert late.issue_server(["localhost"], tmp_path / "tls").until == late.until
    assert late.issue_clients(["anna"], tmp_path / "c")[0].until == late.until


@pytest.mark.parametrize("when", [10 * YEAR, 10 * YEAR + DAY, 40 * YEAR])
def test_repro_a_ca_that_has_ended_signs_nothing_until_it_is_renewed(
    ca: Any, tmp_path: Path, when: timedelta
) -> None:
    ca(NOW)
    ended = ca(NOW + when)
    for issue in (
        lambda: ended.issue_server(["localhost"], tmp_path / "tls"),
        lambda: ended.issue_clients(["anna"], tmp_path / "c"),
    ):
        with pytest.raises(TrustError, match=r"ended on 2036-02-27.*--renew-ca.*new ca\.crt"):
            issue()
    assert not (tmp_path / "tls").exists()
    ended.renew()
    assert ended.issue_server(["localhost"], tmp_path / "tls").until == NOW + when + 2 * YEAR


def test_a_clock_before_the_ca_and_an_ended_ca_have_different_errors(ca: Any, tmp_path: Path) -> None:
    ca(NOW)
    with pytest.raises(
        TrustError, match=r"valid from 2026-03-01 11:00 UTC.*clock shows 1970-01-02.*set the clock"
    ):
        ca(datetime(1970, 1, 2, tzinfo=UTC)).issue_clients(["anna"], tmp_path / "c")


def test_repro_what_the_old_certificate_signed_is_good_under_the_renewed_one(ca: Any, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old = ca(now - 9 * YEAR)
    before = old.cert_file.read_bytes()
    issued = ca(now - YEAR).issue_server(["broker.example", "::1"], tmp_path / "tls")
    ca(now).renew()
    assert old.cert_file.read_bytes() != before
    assert ca(now).until > now + 9 * YEAR
    assert old.cert_file.stat().st_mode & 0o777 == 0o644
    for host in ("broker.example", "::1"):
        handshake(issued, old.cert_file, host)
    (tmp_path / "before.crt").write_bytes(before)
    again = ca(now).issue_server(["broker.example"], tmp_path / "tls")
    handshake(again, tmp_path / "before.crt", "broker.example")  # who has only the old one, until its end


def test_certificates_pass_the_strict_checks_of_openssl(ca: Any, tmp_path: Path) -> None:
    issuer = ca(datetime.now(UTC))
    handshake(issuer.issue_server(["10.0.0.5"], tmp_path / "tls"), issuer.cert_file, "10.0.0.5")
    own = x509.load_pem_x509_certificate(issuer.cert_file.read_bytes())
    client = x509.load_pem_x509_certificate(
        issuer.issue_clients(["anna"], tmp_path / "c")[0].cert_file.read_bytes()
    )
    key_id = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    for cert in (own, client):
        named = cert.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == key_id
        cert.verify_directly_issued_by(own)


@pytest.mark.parametrize(
    ("made", "host", "said"),
    [
        (timedelta(days=-800), "127.0.0.1", "has expired, or its CA has"),
        (timedelta(days=30), "127.0.0.1", "not yet valid; set the clock"),
        (timedelta(0), "127.0.0.2", "not trusted for this host"),
    ],
)
def test_repro_expired_and_not_yet_valid_have_other_errors_than_untrusted(
    ca: Any, tmp_path: Path, made: timedelta, host: str, said: str
) -> None:
    from gridhe.broker.client.certificates import refused_certificate
    from gridhe.broker.client.url import BrokerUrl

    now = datetime.now(UTC)
    ca(now - YEAR * 5)
    issuer = ca(now + made)
    server = issuer.issue_server(["127.0.0.1"], tmp_path / "tls")
    url = BrokerUrl.parse(f"mqtts://{host}")
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        handshake(server, issuer.cert_file, host)
    assert said in refused_certificate(url, refused.value)
    stranger = CertificateAuthority(tmp_path / "other", bytes(32), authority="a2", now=lambda: now)
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        handshake(server, stranger.cert_file, host)
    assert refused_certificate(url, refused.value).endswith("set broker.ca_file to its CA")
