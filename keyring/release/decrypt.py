"""Decrypting a total: the only module that uses the secret key on a ciphertext.

It returns integers for the plan's used slots and nothing else. The decrypted floats contain CKKS's error.
From enough of these errors the secret key can be computed (Li, Micciancio, EUROCRYPT 2021). So the floats
never leave `decrypt`, are not logged, and get flooding noise before they are rounded: even if the plan's
bound on the error is wrong, the noise and not the error decides how a value rounds.

The noise equals adding a polynomial e of N independent Gaussian coefficients of standard deviation sigma_f
to the plaintext polynomial: slot j gains Re e(zeta^(3^j)) / scale, zeta = exp(i pi / N), of standard
deviation sqrt(N/2) sigma_f / scale. `embed` evaluates e at all odd powers of zeta with one FFT of length N,
the coefficients twisted by zeta^k.

The noise of one total is always the same: ChaCha20 expands it from HMAC-SHA256(noise key, label), where the
noise key is in the vault and the label is the digest of plan, key and ciphertext. So a crash between
decrypting and storing the answer is harmless: decrypting again repeats the noise, an attacker cannot average
the noise out by causing crashes, and the query budget counts the total once. Other ciphertexts get
independent noise, as far as HMAC and ChaCha20 are pseudorandom. The noise key comes from the OS's CSPRNG.
"""

import hashlib
import hmac
import math
from typing import Any

import numpy as np
import tenseal as ts
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from gridhe.errors import VaultError
from gridhe.plan.plan import Plan
from gridhe.wire.planes import Planes
from gridhe.wire.tenseal_format import to_tenseal

__all__ = ["Decryptor", "embed", "gaussian", "noise_label"]

_DOMAIN = b"gridhe/v1/noise\0"


def noise_label(plan: Plan, ciphertext: bytes) -> bytes:
    """32 bytes that identify this ciphertext under this plan and key."""
    digest = hashlib.sha256(ciphertext).digest()
    return hashlib.sha256(f"{plan.plan_id}/{plan.key_id}/".encode() + digest).digest()


def gaussian(noise_key: bytes, label: bytes, count: int) -> NDArray[np.float64]:
    """float64[count] of standard normal numbers: equal for equal key and label, otherwise independent.

    Box-Muller on pairs of 53-bit uniforms; the radius' uniform lies in (0, 1], so it reaches
    sqrt(2 * 53 ln 2) = 8.6 standard deviations.
    """
    seed = hmac.digest(noise_key, _DOMAIN + label, "sha256")
    pairs = (count + 1) // 2
    # A fresh key per label, so the nonce may be zero; 2 * 8 bytes a pair.
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor().update(bytes(16 * pairs))
    words = np.frombuffer(stream, "<u8").reshape(2, pairs) >> np.uint64(11)
    uniform = (words + np.array([[1], [0]], np.uint64)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[0]))
    angle = 2.0 * math.pi * uniform[1]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]


def embed(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The real slots float64[N/2], in SEAL's order, of a polynomial's coefficients float64[N]; unscaled."""
    n = len(coefficients)
    k = np.arange(n)
    # ifft evaluates at exp(+2 pi i jk / N); with the twist, at zeta^((2j + 1) k): every odd power of zeta.
    odd = (np.fft.ifft(coefficients * np.exp(1j * math.pi * k / n)) * n).real
    powers = np.empty(n // 2, np.int64)
    power = 1
    for j in range(n // 2):  # slot j is at zeta^(3^j)
        powers[j] = power
        power = power * 3 % (2 * n)
    slots: NDArray[np.float64] = odd[(powers - 1) // 2]
    return slots


class Decryptor:
    """Decrypts totals of one plan."""

    def __init__(self, plan: Plan, secret_context: bytes, noise_key: bytes) -> None:
        """`secret_context` is a serialized TenSEAL context with its secret key. Raises VaultError."""
        self.plan = plan
        self._planes = Planes(plan.parameters)
        self._noise_key = noise_key
        try:
            self._context: Any = ts.context_from(secret_context, n_threads=1)
            private = self._context.is_private()
        except (ValueError, RuntimeError, TypeError):
            private = False
        if not private:
            raise VaultError(
                f"the vault's entry for key {plan.key_id} is not a secret key; restore the vault"
            )

    def decrypt(self, ciphertext: bytes) -> NDArray[np.int64]:
        """The integers of a total's used slots, int64[used], after flooding and rounding.

        Raises EnvelopeError if the bytes are not a ciphertext of this ring. Values are clipped to
        -2^62..2^62; a ciphertext under another key decrypts to larger ones.
        """
        self._planes.check(self._planes.views(ciphertext))
        plan = self.plan
        vector = to_tenseal(self._planes.unpack(ciphertext), plan.parameters, plan.scale)
        slots = np.array(ts.ckks_vector_from(self._context, vector).decrypt(), np.float64)
        if plan.flooding_bits:
            noise = gaussian(self._noise_key, noise_label(plan, ciphertext), plan.parameters.ring_degree)
            slots += embed(noise) * (plan.flooding_sigma / plan.scale)
        used = np.rint(slots[: plan.layout.used])
        # 2^62 is an exact double, is far above any plan's totals, and the sum of two fits an int64.
        bounded = np.clip(np.nan_to_num(used, nan=-(2.0**62)), -(2.0**62), 2.0**62)
        integers: NDArray[np.int64] = bounded.astype(np.int64)
        return integers
