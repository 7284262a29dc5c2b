"""The vault: the authority's secrets in one file, encrypted under the passphrase.

    magic        8 bytes, "GRIDHEV1"
    length       4 bytes, little-endian: of the header
    header       msgpack {kdf, n, r, p, salt, cipher, nonce}: in clear, authenticated
    body         AES-256-GCM of the msgpack of the secrets; magic, length and header are its
                 associated data, so that no parameter can be exchanged

The key is scrypt(passphrase, salt; n, r, p) (RFC 7914). The parameters are read from the file, so they are
checked against bounds before scrypt runs: a forged file can neither weaken the next rewrite nor exhaust the
memory. Every rewrite draws a new nonce.

A wrong passphrase and a damaged body raise the same error, because AES-GCM cannot distinguish them.
"""

import os
import stat
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gridhe.base.files import read_private, stranger, write_private
from gridhe.errors import CredentialError, StateError, VaultError

__all__ = ["Kdf", "Secrets", "Vault", "check_private_dir"]

_MAGIC = b"GRIDHEV1"
_LENGTH = struct.Struct("<I")
_HEADER_MAX = 1024
_FILE_MAX = 1 << 30  # a ring of degree 32768 has a secret of some 6 MB; this holds over a hundred keys
_KEY_BYTES = 32
_SALT_BYTES = 16
_NONCE_BYTES = 12
_KEYS = ("signing_key", "ingest_secret", "noise_key", "broker_secret", "guard_secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kdf:
    """scrypt's cost. The default takes 128 MiB and about 0.5 s. Raises VaultError if out of bounds."""

    n: int = 2**17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.n, self.r, self.p))
        if not whole or self.n & (self.n - 1) or not (2**14 <= self.n <= 2**20):
            raise VaultError("the vault's scrypt n must be a power of two from 2^14 to 2^20")
        if not (8 <= self.r <= 16 and 1 <= self.p <= 4) or 128 * self.n * self.r > 2**30:
            raise VaultError("the vault's scrypt r, p are out of bounds (r 8 to 16, p 1 to 4, at most 1 GiB)")

    def derive(self, passphrase: bytes, salt: bytes) -> bytes:
        """The 32-byte key of a passphrase. Raises VaultError if there is too little memory."""
        try:
            return Scrypt(salt=salt, length=_KEY_BYTES, n=self.n, r=self.r, p=self.p).derive(passphrase)
        except MemoryError:
            need = 128 * self.n * self.r >> 20
            raise VaultError(
                f"the vault needs {need} MiB of free memory to open; this machine has less"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The authority's secrets. No field appears in `repr`."""

    signing_key: bytes = field(repr=False)  # Ed25519 private key, 32 bytes
    ingest_secret: bytes = field(repr=False)  # 32 bytes
    noise_key: bytes = field(repr=False)  # 32 bytes, see gridhe.keyring.release.decrypt
    broker_secret: bytes = field(repr=False)  # 32 bytes, all broker passwords derive from it
    guard_secret: bytes = field(repr=False)  # 32 bytes, see gridhe.plan.guards; nobody else has it
    contexts: dict[str, bytes] = field(
        repr=False, default_factory=dict
    )  # TenSEAL contexts with secret key, by key id

    def __post_init__(self) -> None:
        for name in _KEYS:
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != _KEY_BYTES:
                raise VaultError(f"the vault's {name} must have {_KEY_BYTES} bytes")

    def with_context(self, key_id: str, context: bytes) -> "Secrets":
        """These secrets and one more secret key."""
        return replace(self, contexts={**self.contexts, key_id: context})

    def without_context(self, key_id: str) -> "Secrets":
        """These secrets without a retired key: totals encrypted under it can never be decrypted again."""
        return replace(
            self, contexts={other: data for other, data in self.contexts.items() if other != key_id}
        )

    def _encode(self) -> bytes:
        record: bytes = msgpack.packb(
            {
                **{name: getattr(self, name) for name in _KEYS},
                "contexts": self.contexts,
            }
        )
        return record

    @classmethod
    def _decode(cls, data: bytes) -> "Secrets":
        try:
            record = msgpack.unpackb(data, max_bin_len=len(data))
            if "guard_secret" not in record:
                raise VaultError(
                    "the vault has no guard secret, without which no total can be checked: restore a backup "
                    "of the vault; if an earlier version of gridhe made this home, make a new one "
                    "(gridhe-keyring init) and enrol the meters there"
                )
            return cls(**record)
        except (ValueError, TypeError):
            raise VaultError(
                "the vault was written by another version of gridhe; upgrade this machine"
            ) from None


def check_private_dir(path: Path) -> None:
    """Raise VaultError unless `path` is a folder of ours or root's that only its owner can list.

    Its group may have execute permission, because a broker on this machine needs it to reach its own files.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise VaultError(f"cannot read the folder {path}: {error.strerror or error}") from None
    mode, owner = status.st_mode, stranger(status)
    if not stat.S_ISDIR(mode):
        raise VaultError(f"{path} is not a folder")
    if owner is not None:
        raise VaultError(f"{path} belongs to {owner}; run this as that user")
    if mode & 0o067:
        raise VaultError(f"{path} can be entered by others (mode {mode & 0o7777:04o}); run: chmod 700 {path}")


class Vault:
    """An open vault. `save` replaces the file as a whole: a crash leaves the old vault or the new one."""

    def __init__(self, path: Path, *, key: bytes, salt: bytes, kdf: Kdf, secrets: Secrets) -> None:
        self.path = path
        self.secrets = secrets
        self._key = key
        self._salt = salt
        self._kdf = kdf

    @classmethod
    def create(cls, path: Path, passphrase: bytes, secrets: Secrets, *, kdf: Kdf | None = None) -> "Vault":
        """Write a new vault, 0600 in a 0700 folder. Raises VaultError if there already is one."""
        check_private_dir(path.parent)
        if path.exists():
            raise VaultError(f"{path} is an existing vault, which is never overwritten; choose another home")
        kdf = Kdf() if kdf is None else kdf
        salt = os.urandom(_SALT_BYTES)
        vault = cls(path, key=kdf.derive(passphrase, salt), salt=salt, kdf=kdf, secrets=secrets)
        vault.save(secrets)
        return vault

    @classmethod
    def open(cls, path: Path, passphrase: bytes) -> "Vault":
        """Open a vault. Raises VaultError: missing, open to others, damaged, wrong passphrase."""
        check_private_dir(path.parent)
        data = cls._read(path)
        head, kdf, salt, nonce = cls._read_head(path, data)
        key = kdf.derive(passphrase, salt)
        secrets = cls._open_body(path, key, nonce, data, head)
        return cls(path, key=key, salt=salt, kdf=kdf, secrets=secrets)

    def reload(self) -> None:
        """Read the file again: another process of this authority may have replaced it (a new key)."""
        data = self._read(self.path)
        head, _, salt, nonce = self._read_head(self.path, data)
        if salt != self._salt:
            raise VaultError(f"{self.path} was replaced, or its passphrase was changed; restart this program")
        self.secrets = self._open_body(self.path, self._key, nonce, data, head)

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return read_private(path, maximum_bytes=_FILE_MAX)
        except CredentialError as error:
            raise VaultError(f"vault: {error}") from None

    @staticmethod
    def _open_body(path: Path, key: bytes, nonce: bytes, data: bytes, head: bytes) -> Secrets:
        try:
            return Secrets._decode(AESGCM(key).decrypt(nonce, data[len(head) :], head))
        except InvalidTag:
            raise VaultError(f"cannot open {path}: wrong passphrase, or the file is damaged") from None

    @staticmethod
    def _read_head(path: Path, data: bytes) -> tuple[bytes, Kdf, bytes, bytes]:
        """The bytes before the body, and the header's fields, checked against their bounds."""
        start = len(_MAGIC) + _LENGTH.size
        if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
            raise VaultError(f"{path} is not a vault")
        (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
        if length > _HEADER_MAX or len(data) < start + length:
            raise VaultError(f"{path} is not a whole vault")
        try:
            header: dict[str, Any] = msgpack.unpackb(data[start : start + length])
            kdf = Kdf(n=header["n"], r=header["r"], p=header["p"])
            salt, nonce = header["salt"], header["nonce"]
            known = header["kdf"] == "scrypt" and header["cipher"] == "aes-256-gcm"
        except (ValueError, TypeError, KeyError):
            raise VaultError(f"{path} is not a whole vault") from None
        sized = isinstance(salt, bytes) and isinstance(nonce, bytes)
        if not known or not sized or len(salt) != _SALT_BYTES or len(nonce) != _NONCE_BYTES:
            raise VaultError(f"{path} is not a vault of this version of gridhe")
        return data[: start + length], kdf, salt, nonce

    def change_passphrase(self, passphrase: bytes) -> None:
        """Encrypt the vault under this passphrase. On StateError the old file and passphrase remain."""
        before = self._key, self._salt
        self._salt = os.urandom(_SALT_BYTES)
        self._key = self._kdf.derive(passphrase, self._salt)
        try:
            self.save(self.secrets)
        except StateError:
            self._key, self._salt = before
            raise

    def save(self, secrets: Secrets) -> None:
        """Replace the vault's content on disk, then in memory. Raises StateError if the disk fails."""
        nonce = os.urandom(_NONCE_BYTES)
        header = msgpack.packb(
            {
                "kdf": "scrypt",
                "n": self._kdf.n,
                "r": self._kdf.r,
                "p": self._kdf.p,
                "salt": self._salt,
                "cipher": "aes-256-gcm",
                "nonce": nonce,
            }
        )
        head = _MAGIC + _LENGTH.pack(len(header)) + header
        write_private(self.path, head + AESGCM(self._key).encrypt(nonce, secrets._encode(), head))
        self.secrets = secrets
