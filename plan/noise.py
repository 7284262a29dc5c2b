"""The error of a decrypted total: its distribution and its bound.

All sizes are standard deviations in units of the encoded numbers times the scale: divide by the
scale to get units of the reading.

Fresh error: SEAL encrypts one level above the data primes and switches down, which divides the
encryption noise by the last prime. The rest is the rounding of both components, uniform in
[-1/2, 1/2) per coefficient, the second one multiplied by the ternary secret (2N/3 non-zero
coefficients on average): t = sqrt((1 + 2N/3) / 12) per coefficient. A slot is a sum of N
coefficients times cosines: t * sqrt(N / 2), as the root of the mean square over slots.

The error differs between slots. Slot j's error is that of the second component times s(zeta_j), the secret
at that slot's root, and |s(zeta_j)|^2 has an exponential distribution. The key fixes s(zeta_j), so a slot
with a large error keeps it under that key. Over keys, a slot's error has the tails of a Laplace distribution,
exp(-x sqrt(2)) beyond x standard deviations, not those of a normal one. (Measured: 0.0035 to 0.0039 beyond 4;
Laplace gives 0.0035, normal 0.00006.) Flooding noise is normal, equal in every slot, and much larger if on.

Flooding: OpenFHE's rule for noise that hides CKKS's decryption error from a reader of tau
results with s bits of statistical security: 2^(s/2) * sqrt(12 tau) times the error to hide
(Li, Micciancio, Schultz, Sorrell, "Securing approximate homomorphic encryption using
differential privacy", CRYPTO 2022).
"""

import math

__all__ = [
    "FLOODING_TAIL",
    "FRESH_TAIL",
    "flooding_sigma",
    "fresh_error_sigma",
    "slot_error_bound",
    "slot_error_sigma",
    "slot_failure_log2",
]

# Numbers of standard deviations, each exceeded with probability below 2^-65:
FRESH_TAIL = 32.0  # Laplace: exp(-32 sqrt(2)) = 2^-65.3
FLOODING_TAIL = 9.3  # normal, both tails: 1.4e-20 = 2^-65.9


def fresh_error_sigma(ring_degree: int) -> float:
    """Error of one fresh ciphertext, per coefficient."""
    return math.sqrt((1 + 2 * ring_degree / 3) / 12)


def flooding_sigma(ring_degree: int, meters: int, flooding_bits: int, decryptions: int) -> float:
    """Flooding noise to add at release, per coefficient, for totals of up to `meters`; 0.0: no flooding."""
    if flooding_bits == 0:
        return 0.0
    hidden = fresh_error_sigma(ring_degree) * math.sqrt(meters)
    return math.exp2(flooding_bits / 2) * math.sqrt(12 * decryptions) * hidden


def slot_error_sigma(ring_degree: int, meters: int, flooding_per_coefficient: float = 0.0) -> float:
    """Error of a decrypted slot of a total of `meters` ciphertexts, flooding included."""
    per_coefficient = math.hypot(fresh_error_sigma(ring_degree) * math.sqrt(meters), flooding_per_coefficient)
    return per_coefficient * math.sqrt(ring_degree / 2)


def slot_error_bound(ring_degree: int, meters: int, flooding_per_coefficient: float = 0.0) -> float:
    """The slot error of a decrypted total that is exceeded with probability below 2^-64."""
    fresh = FRESH_TAIL * fresh_error_sigma(ring_degree) * math.sqrt(meters)
    return (fresh + FLOODING_TAIL * flooding_per_coefficient) * math.sqrt(ring_degree / 2)


def slot_failure_log2(room: float, ring_degree: int, meters: int, flooding_per_coefficient: float) -> float:
    """log2 of a bound on the probability that a slot's error exceeds `room` (same unit).

    Fresh error and flooding each get the share of `room` that they have in `slot_error_bound`; their
    probabilities are added.
    """
    share = room / slot_error_bound(ring_degree, meters, flooding_per_coefficient)
    chances = [-math.sqrt(2) * share * FRESH_TAIL / math.log(2)]
    if flooding_per_coefficient:
        chances.append(_log2_normal_tail(share * FLOODING_TAIL))
    return max(chances) + math.log2(len(chances))


def _log2_normal_tail(sigmas: float) -> float:
    """log2 of the probability that a normal variable is more than `sigmas` standard deviations from its mean.

    erfc underflows from about 38 on, so its asymptote exp(-x^2/2) * sqrt(2/pi) / x is used from 20 on.
    """
    if sigmas < 20:
        return math.log2(math.erfc(sigmas / math.sqrt(2)))
    return (-(sigmas**2) / 2 - math.log(sigmas) + 0.5 * math.log(2 / math.pi)) / math.log(2)
