"""Decrypting a total: the only place where the secret key meets a ciphertext.

What comes out are integers of the plan's used slots and nothing else. The decrypted floats carry CKKS's
error, and who sees enough of it computes the key (Li, Micciancio, EUROCRYPT 2021); they never leave
`decrypt`, are not logged, and are flooded before they are rounded, so that even the rounding, should the
plan's bound on the error be wrong, is decided by our noise and not by the error.

The flooding noise is what adding N independent Gaussian coefficients of standard deviation sigma_f
to the plaintext polynomial would do: slot j gains Re e(zeta^(3^j)) / scale, zeta = exp(i pi / N), of standard
deviation sqrt(N/2) sigma_f / scale. `embed` evaluates e at all odd powers of zeta with one FFT of length N,
the coefficients twisted by zeta^k.

The noise of one total is always the same: it is expanded by ChaCha20 from HMAC-SHA256(noise key, label),
with the noise key from the vault and the label the digest of plan, key and ciphertext. A crash between
decrypting and storing the answer is then harmless: decrypting again repeats the noise, so nobody can
average it out by crashing us, and the query budget counts the total once. Other ciphertexts get noise that
is independent as far as HMAC and ChaCha20 are pseudorandom. The noise key comes from the OS's CSPRNG.
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
    """32 bytes that stand for this ciphertext under this plan and key."""
    digest = hashlib.sha256(ciphertext).digest()
    return hashlib.sha256(f"{plan.plan_id}/{plan.key_id}/".encode() + digest).digest()


def gaussian(noise_key: bytes, label: bytes, count: int) -> NDArray[np.float64]:
    """`count` standard normal numbers float64, the same for the same key and label, else independent.

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
        """The integers of a total's used slots, int64[used], flooded and rounded.

        Raises EnvelopeError when the bytes are no ciphertext of this ring. A value too large for an int64
        (garbage under another key) comes out as the largest or least one.
        """
        self._planes.check(self._planes.views(ciphertext))
        plan = self.plan
        vector = to_tenseal(self._planes.unpack(ciphertext), plan.parameters, plan.scale)
        slots = np.array(ts.ckks_vector_from(self._context, vector).decrypt(), np.float64)
        if plan.flooding_bits:
            noise = gaussian(self._noise_key, noise_label(plan, ciphertext), plan.parameters.ring_degree)
            slots += embed(noise) * (plan.flooding_sigma / plan.scale)
        used = np.rint(slots[: plan.layout.used])
        # 2^62 is a double, is far beyond any plan's totals, and sums of two still fit.
        bounded = np.clip(np.nan_to_num(used, nan=-(2.0**62)), -(2.0**62), 2.0**62)
        integers: NDArray[np.int64] = bounded.astype(np.int64)
        return integers
