"""How far a decrypted total may stray from the integers it stands for.

All sizes are standard deviations in units of the encoded numbers times the scale: divide by the
scale to get units of the reading.

Fresh error: SEAL encrypts one level above the data primes and switches down, which divides the
encryption noise by the last prime; what is left is the rounding of both components, uniform in
[-1/2, 1/2) per coefficient, the second one multiplied by the ternary secret (2N/3 non-zero
coefficients on average): t = sqrt((1 + 2N/3) / 12) per coefficient. A slot is a sum of N
coefficients times cosines: t * sqrt(N / 2).

Flooding: OpenFHE's rule for noise that hides CKKS's decryption error from a reader of tau
results with s bits of statistical security: 2^(s/2) * sqrt(12 tau) times the error to be hidden
(Li, Micciancio, Schultz, Sorrell, "Securing approximate homomorphic encryption using
differential privacy", CRYPTO 2022).
"""

import math

__all__ = ["TAIL_SIGMAS", "flooding_sigma", "fresh_error_sigma", "slot_error_sigma"]

# A normal variable exceeds 9.3 standard deviations with probability 1.4e-20 < 2^-65 (both tails).
TAIL_SIGMAS = 9.3


def fresh_error_sigma(ring_degree: int) -> float:
    """Error of one fresh ciphertext, per coefficient."""
    return math.sqrt((1 + 2 * ring_degree / 3) / 12)


def flooding_sigma(ring_degree: int, meters: int, flooding_bits: int, decryptions: int) -> float:
    """Flooding noise to add at release, per coefficient, for totals of up to `meters`; 0.0 if not wanted."""
    if flooding_bits == 0:
        return 0.0
    hidden = fresh_error_sigma(ring_degree) * math.sqrt(meters)
    return math.exp2(flooding_bits / 2) * math.sqrt(12 * decryptions) * hidden


def slot_error_sigma(ring_degree: int, meters: int, flooding_per_coefficient: float = 0.0) -> float:
    """Error of a decrypted slot of a total of `meters` ciphertexts, flooding included."""
    per_coefficient = math.hypot(fresh_error_sigma(ring_degree) * math.sqrt(meters), flooding_per_coefficient)
    return per_coefficient * math.sqrt(ring_degree / 2)
