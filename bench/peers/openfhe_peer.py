"""OpenFHE's Python package: its wheels hold modules for CPython 3.10 and 3.12 (Ubuntu 22.04, 24.04) only."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.bench.peers.protocol import SLOTS, PeerAbsent

__all__ = ["NAME", "OpenFhePeer", "make"]

NAME = "openfhe"


class OpenFhePeer:
    """CKKS with 128 bits of security, no multiplication; OpenFHE chooses the ring, 1,024 slots are used."""

    NAME = NAME
    share = 1

    def __init__(self, openfhe: Any) -> None:
        parameters = openfhe.CCParamsCKKSRNS()
        parameters.SetMultiplicativeDepth(0)
        parameters.SetScalingModSize(40)
        parameters.SetFirstModSize(60)
        parameters.SetBatchSize(SLOTS)
        parameters.SetSecurityLevel(openfhe.SecurityLevel.HEStd_128_classic)
        self._openfhe = openfhe
        self._context = openfhe.GenCryptoContext(parameters)
        for feature in (openfhe.PKESchemeFeature.PKE, openfhe.PKESchemeFeature.LEVELEDSHE):
            self._context.Enable(feature)
        self._keys = self._context.KeyGen()

    def encrypt(self, numbers: NDArray[np.int64]) -> Any:
        """A Ciphertext."""
        plaintext = self._context.MakeCKKSPackedPlaintext([float(number) for number in numbers])
        return self._context.Encrypt(self._keys.publicKey, plaintext)

    def serialize(self, batch: Any) -> bytes:
        """Its binary form."""
        return bytes(self._openfhe.Serialize(batch, self._openfhe.BINARY))

    def add(self, total: Any, data: bytes) -> Any:
        """Load and add."""
        loaded = self._openfhe.DeserializeCiphertextString(data, self._openfhe.BINARY)
        if total is None:
            return loaded
        self._context.EvalAddInPlace(total, loaded)
        return total

    def decrypt(self, total: Any) -> NDArray[np.int64]:
        """Rounded."""
        plaintext = self._context.Decrypt(total, self._keys.secretKey)
        plaintext.SetLength(SLOTS)
        sums: NDArray[np.int64] = np.rint(np.array(plaintext.GetRealPackedValue())).astype(np.int64)
        return sums


def make(seed: int) -> OpenFhePeer:
    """Ready to encrypt. Raises PeerAbsent."""
    try:
        openfhe = importlib.import_module("openfhe")
    except ImportError as error:
        raise PeerAbsent(f"openfhe does not import: {error}") from None
    return OpenFhePeer(openfhe)
