"""An encryptor of DLMS/COSEM messages, to test what opens them."""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

__all__ = ["encipher"]


def encipher(
    plain: bytes,
    key: bytes,
    authentication_key: bytes = b"",
    *,
    title: bytes = b"TST\x00\x00\x00\x00\x01",
    counter: int = 1,
    control: int = 0x30,
    tag: int = 0xDB,
    long_length: bool = False,
) -> bytes:
    """A general-glo-ciphering message. Control 0x30: encrypted, with a tag; 0x20: without; 0x10: clear."""
    encryptor = Cipher(AES(key), GCM(title + counter.to_bytes(4, "big"))).encryptor()
    head = bytes([control]) + counter.to_bytes(4, "big")
    if control & 0x10:
        encryptor.authenticate_additional_data(bytes([control]) + authentication_key)
    if control & 0x20:
        text = encryptor.update(plain)
    else:
        encryptor.authenticate_additional_data(plain)
        text = plain
    encryptor.finalize()
    body = head + text + (encryptor.tag[:12] if control & 0x10 else b"")
    if len(body) < 128 and not long_length:
        length = bytes([len(body)])
    elif len(body) < 256 and not long_length:
        length = bytes([0x81, len(body)])
    else:
        length = b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag, len(title)]) + title + length + body
