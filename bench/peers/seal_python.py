"""Microsoft SEAL through `seal-python`, without TenSEAL; ciphertexts are saved without compression."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.bench.peers.protocol import SLOTS, PeerAbsent

__all__ = ["NAME", "SealPeer", "make"]

NAME = "seal-python"


class SealPeer:
    """The same ring as gridhe's default."""

    NAME = NAME
    share = 1

    def __init__(self, seal: Any) -> None:
        parameters = seal.EncryptionParameters(seal.scheme_type.ckks)
        parameters.set_poly_modulus_degree(4096)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(4096, [48, 41, 20]))
        self._seal = seal
        self._context = seal.SEALContext(parameters)
        keys = seal.KeyGenerator(self._context)
        self._encoder = seal.CKKSEncoder(self._context)
        self._encryptor = seal.Encryptor(self._context, keys.create_public_key())
        self._evaluator = seal.Evaluator(self._context)
        self._decryptor = seal.Decryptor(self._context, keys.secret_key())
        self._scale = 2.0**40
        self._none = seal.compr_mode_type.none

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """A Ciphertext."""
        return self._encryptor.encrypt(self._encoder.encode(numbers.astype(np.float64), self._scale))

    def serialize(self, batch: Any) -> bytes:
        """Its bytes, uncompressed: compression costs more time than it saves on a network."""
        data: bytes = batch.to_string(self._none)
        return data

    def add(self, total: Any, data: bytes) -> Any:
        """load_bytes and add_inplace."""
        loaded = self._seal.Ciphertext()
        loaded.load_bytes(self._context, data)
        if total is None:
            return loaded
        self._evaluator.add_inplace(total, loaded)
        return total

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """Rounded."""
        slots = self._encoder.decode(self._decryptor.decrypt(total))[:SLOTS]
        sums: NDArray[np.int64] = np.rint(slots).astype(np.int64)
        return sums


def make(seed: int) -> SealPeer:
    """Ready to encrypt. Raises PeerAbsent."""
    try:
        seal = importlib.import_module("seal")
    except ImportError as error:
        raise PeerAbsent(f"seal-python does not import: {error}") from None
    return SealPeer(seal)
