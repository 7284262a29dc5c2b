"""Opens the ciphered messages of DLMS/COSEM meters, and reads the household's keys from their files.

A general-glo-ciphering or general-ded-ciphering APDU (IEC 62056-5-3, "Green Book"), for HAN ports and for
P1 ports that encrypt (Luxembourg, Austria, Poland):

    DB or DC | 08 | system title, 8 bytes | length | control | frame counter, 4 bytes | text | tag, 12 bytes

The control byte holds the security suite (bits 0..3; 0 and 1: AES-128-GCM, 2: AES-256-GCM), 0x10
authenticated, 0x20 encrypted, 0x40 broadcast key, 0x80 compressed. Nonce: system title || frame counter.
The tag is there only if the text is authenticated; it covers control || authentication key || text.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from gridhe.base.files import read_private
from gridhe.errors import CredentialError, RemoteError

__all__ = ["TAGS", "CipherFault", "CipheredApdu", "decipher", "read_key", "whole_length"]

TAGS = (0xDB, 0xDC)  # general-glo-ciphering, general-ded-ciphering
_TITLE_BYTES = 8
_COUNTER_BYTES = 4
_TAG_BYTES = 12
_AUTHENTICATED, _ENCRYPTED, _COMPRESSED = 0x10, 0x20, 0x80
_KEY_BYTES = {0: 16, 1: 16, 2: 32}  # by security suite


class CipherFault(RemoteError):
    """A ciphered message that cannot be opened. `reason` is one of

    cipher_frame         the message is cut off, or not a ciphered message
    cipher_unsupported   a security suite or a compression that is not supported here
    wrong_key            the tag does not match the keys, or a key has another length than the suite's
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class CipheredApdu:
    """The parts of a ciphered message."""

    system_title: bytes  # 8 bytes: three letters of the maker, and a number of the meter
    control: int
    counter: bytes  # 4 bytes, big-endian
    text: bytes  # still encrypted, if `encrypted`
    tag: bytes  # 12 bytes, or none

    @property
    def encrypted(self) -> bool:
        """Whether the text is encrypted."""
        return bool(self.control & _ENCRYPTED)

    @classmethod
    def parse(cls, apdu: bytes) -> "CipheredApdu":
        """From a whole message. Raises CipherFault."""
        length = whole_length(apdu)
        if length is None or length != len(apdu):
            raise CipherFault("cipher_frame", f"a ciphered message of {length} bytes has {len(apdu)}")
        body = apdu[_head_bytes(apdu) :]
        control = body[0]
        rest = body[1 + _COUNTER_BYTES :]
        tag_bytes = _TAG_BYTES if control & _AUTHENTICATED else 0
        if len(rest) < tag_bytes:
            raise CipherFault("cipher_frame", "a ciphered message is too short for its tag")
        return cls(
            system_title=apdu[2 : 2 + _TITLE_BYTES],
            control=control,
            counter=body[1 : 1 + _COUNTER_BYTES],
            text=rest[: len(rest) - tag_bytes],
            tag=rest[len(rest) - tag_bytes :],
        )

    def open(self, key: bytes, authentication_key: bytes | None) -> bytes:
        """The plain text. Raises CipherFault. See `decipher`."""
        suite = self.control & 0x0F
        if suite not in _KEY_BYTES:
            raise CipherFault("cipher_unsupported", f"security suite {suite} is not supported")
        if self.control & _COMPRESSED:
            raise CipherFault("cipher_unsupported", "compressed messages are not supported")
        for each in (key, authentication_key):
            if each is not None and len(each) != _KEY_BYTES[suite]:
                raise CipherFault(
                    "wrong_key",
                    f"the meter uses keys of {_KEY_BYTES[suite]} bytes, the key's file holds {len(each)}",
                )
        checked = bool(self.tag) and authentication_key is not None
        mode = GCM(self.system_title + self.counter, self.tag if checked else None, min_tag_length=_TAG_BYTES)
        opener = Cipher(AES(key), mode).decryptor()
        opener.authenticate_additional_data(bytes([self.control]) + (authentication_key or b""))
        if self.encrypted:
            plain = opener.update(self.text)
        else:
            opener.authenticate_additional_data(self.text)
            plain = self.text
        if checked:
            try:
                opener.finalize()
            except InvalidTag:
                raise CipherFault(
                    "wrong_key", "the message's tag does not match: one of the two keys is not this meter's"
                ) from None
        return plain


def decipher(apdu: bytes, key: bytes, authentication_key: bytes | None) -> bytes:
    """The plain text of a whole ciphered message. Raises CipherFault with a reason to count.

    `key` is the encryption key (GUEK, EK), `authentication_key` the other one (GAK, AK): 16 bytes each, 32 in
    security suite 2. Without an authentication key, or in a message without a tag, a wrong key shows only in
    the plain text: the caller has to check that it is what it should be.
    """
    return CipheredApdu.parse(apdu).open(key, authentication_key)


def whole_length(start: bytes) -> int | None:
    """The number of bytes of the ciphered message that starts so; None if more bytes are needed to know.

    Raises CipherFault if it is none.
    """
    if start[:1] and start[0] not in TAGS:
        raise CipherFault("cipher_frame", f"no ciphered message starts with {start[0]:02x}")
    if start[1:2] and start[1] != _TITLE_BYTES:
        raise CipherFault("cipher_frame", f"a system title has 8 bytes, not {start[1]}")
    at = 2 + _TITLE_BYTES
    if len(start) <= at:
        return None
    octets = start[at] - 0x80 if start[at] >= 0x80 else 0
    if octets not in (0, 1, 2):  # 64 KB are more than any meter's message
        raise CipherFault("cipher_frame", f"a length of {octets} bytes")
    if len(start) < at + 1 + octets:
        return None
    inner = int.from_bytes(start[at + 1 : at + 1 + octets], "big") if octets else start[at]
    if start[at] == 0x80 or inner < 1 + _COUNTER_BYTES:
        raise CipherFault("cipher_frame", f"a ciphered message holds {inner} bytes, fewer than its own head")
    return at + 1 + octets + inner


def _head_bytes(apdu: bytes) -> int:
    at = 2 + _TITLE_BYTES
    return at + 1 + (apdu[at] - 0x80 if apdu[at] >= 0x80 else 0)


def read_key(path: Path) -> bytes:
    """A key of 16 or 32 bytes from a file of hex digits, which only its owner may read.

    Blanks, colons and line ends between the digits are allowed. Raises CredentialError.
    """
    digits = read_private(path, maximum_bytes=1024).translate(None, b" \t\r\n:-")
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:  # its message may quote the file
        key = b""
    if len(key) not in _KEY_BYTES.values():
        raise CredentialError(
            f"{path} holds no key: expected 32 hex digits (64 for AES-256), as the grid operator sent them"
        )
    return key
