"""Why a broker's certificate is refused, in words that say what to do."""

import ssl

from gridhe.broker.client.url import BrokerUrl

__all__ = ["refused_certificate"]

# OpenSSL's X509_V_ERR_..., which Python's ssl gives as numbers only
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def refused_certificate(url: BrokerUrl, error: ssl.SSLCertVerificationError) -> str:
    """One line for what OpenSSL found wrong with the certificate of the broker at `url`."""
    code = error.verify_code
    if code == _EXPIRED:
        return (
            f"{url} has a certificate that has expired, or whose CA has; if this machine's clock is right, "
            "renew it with gridhe-keyring ca (and --renew-ca for the CA)"
        )
    if code == _NOT_YET_VALID:
        return (
            f"{url} has a certificate that is not yet valid; set this machine's clock, or the broker's CA's"
        )
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        return (
            f"{url} has a certificate that is not trusted for this host ({error.verify_message}); use a "
            "name that it holds, or make one for this name (gridhe-keyring ca --host)"
        )
    return (
        f"{url} has a certificate that is not trusted ({error.verify_message}); set broker.ca_file to its CA"
    )
