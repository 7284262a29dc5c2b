"""Messages for a broker's certificate that is refused: the reason and what to do."""

import ssl

from gridhe.broker.client.url import BrokerUrl

__all__ = ["refused_certificate"]

# OpenSSL's X509_V_ERR_... codes; Python's ssl module has no names for them
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def refused_certificate(url: BrokerUrl, error: ssl.SSLCertVerificationError) -> str:
    """One line for OpenSSL's error about the certificate of the broker at `url`."""
    code = error.verify_code
    if code == _EXPIRED:
        return (
            f"{url} has a certificate that has expired, or its CA has; if this machine's clock is right, "
            "renew it with gridhe-keyring ca (and --renew-ca for the CA)"
        )
    if code == _NOT_YET_VALID:
        return f"{url} has a certificate that is not yet valid; set the clock of this machine or of the CA"
    if code in (_OTHER_HOST, _OTHER_ADDRESS):
        return (
            f"{url} has a certificate that is not trusted for this host ({error.verify_message}); use a "
            "name that is in it, or make one for this name (gridhe-keyring ca --host)"
        )
    return (
        f"{url} has a certificate that is not trusted ({error.verify_message}); set broker.ca_file to its CA"
    )
