"""Arithmetic on ciphertexts as a forger does it: any linear function, without the secret key.

A ciphertext is residues uint64[2][primes][N] in NTT form (gridhe.wire.planes): place i holds the value at
psi^(2 rev(i) + 1), rev the reversal of bits and psi the least primitive 2N-th root of unity, SEAL's choice.
Python's integers compute it, so nothing overflows for any ring; the authority's own ring arithmetic is not
used, so a mistake in it would be noticed.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.parameters import CkksParameters

__all__ = ["ResidueRing", "Residues", "unembed"]

Residues = NDArray[np.uint64]  # [2][primes][N]


def unembed(slots: NDArray[Any]) -> NDArray[np.float64]:
    """The real polynomial, float64[N], that has these values in its slots [N/2], in SEAL's order."""
    half = len(slots)
    n = 2 * half
    powers = np.array([pow(3, j, 2 * n) for j in range(half)])  # slot j is at zeta^(3^j)
    odd = np.zeros(n, np.complex128)
    odd[(powers - 1) // 2] = slots
    odd[(2 * n - powers - 1) // 2] = np.conj(slots)
    untwist = np.exp(-1j * math.pi * np.arange(n) / n)
    coefficients: NDArray[np.float64] = (np.fft.fft(odd) / n * untwist).real
    return coefficients


class ResidueRing:
    """The ring of one plan's ciphertexts."""

    def __init__(self, parameters: CkksParameters, scale: float) -> None:
        self.parameters, self.scale = parameters, scale
        self.n = n = parameters.ring_degree
        bits = n.bit_length() - 1
        self._reversed = np.array([int(format(i, f"0{bits}b")[::-1], 2) for i in range(n)])
        self._primes = np.array(parameters.primes, object)[:, None]
        self._roots = [_powers(_least_root(n, prime), 2 * n, prime) for prime in parameters.primes]

    # -- polynomials -----------------------------------------------------------------------------

    def polynomial(self, coefficients: NDArray[Any]) -> Residues:
        """uint64[primes][N], NTT form, of whole coefficients [N] of any size and sign."""
        whole = np.array([int(each) for each in coefficients], object)
        rows = [
            self._ntt(whole % prime, roots, prime)
            for roots, prime in zip(self._roots, self.parameters.primes, strict=True)
        ]
        return np.array(rows, np.uint64)

    def monomial(self, degree: int, factor: int = 1) -> Residues:
        """factor X^degree."""
        coefficients = np.zeros(self.n, object)
        coefficients[degree] = factor
        return self.polynomial(coefficients)

    def rounded(self, slots: NDArray[Any], scale: float = 1.0) -> Residues:
        """The polynomial whose slots [N/2] are `scale` times these, its coefficients rounded."""
        return self.polynomial(np.rint(unembed(slots) * scale))

    # -- ciphertexts -----------------------------------------------------------------------------

    def first(self, polynomial: Residues) -> Residues:
        """(polynomial, 0): adding it adds known numbers."""
        return np.stack((polynomial, np.zeros_like(polynomial)))

    def second(self, polynomial: Residues) -> Residues:
        """(0, polynomial): adding it adds the polynomial times the secret key."""
        return np.stack((np.zeros_like(polynomial), polynomial))

    def sum(self, *ciphertexts: Residues) -> Residues:
        """The sum."""
        return self._reduced(np.sum([each.astype(object) for each in ciphertexts], 0))

    def minus(self, ciphertext: Residues) -> Residues:
        """The negative."""
        return self._reduced(-ciphertext.astype(object))

    def times(self, ciphertext: Residues, polynomial: Residues) -> Residues:
        """The product with a polynomial."""
        return self._reduced(ciphertext.astype(object) * polynomial.astype(object))

    def scaled(self, ciphertext: Residues, factor: int) -> Residues:
        """The product with a whole number."""
        return self._reduced(ciphertext.astype(object) * factor)

    def halved(self, ciphertext: Residues) -> Residues:
        """The product with 1/2 modulo Q."""
        return self.scaled(ciphertext, pow(2, -1, self.parameters.modulus))

    def conjugated(self, ciphertext: Residues) -> Residues:
        """The ciphertext under X -> 1/X: the value at each root moves to the inverse root."""
        place = np.empty(self.n, np.int64)
        place[self._reversed] = np.arange(self.n)  # of the odd power 2i + 1
        moved = place[self.n - 1 - self._reversed]
        return np.ascontiguousarray(ciphertext[..., moved])

    def random(self, rng: np.random.Generator) -> Residues:
        """Uniform residues."""
        rows = [rng.integers(0, prime, (2, self.n), np.uint64) for prime in self.parameters.primes]
        return np.stack(rows, 1)

    def _reduced(self, values: NDArray[Any]) -> Residues:
        reduced: Residues = (values % self._primes).astype(np.uint64)
        return reduced

    def _ntt(self, values: NDArray[Any], roots: NDArray[Any], prime: int) -> NDArray[Any]:
        """Cooley-Tukey; `values` object[N] in ascending order of degree, the result in SEAL's order."""
        blocks = 1
        while blocks < self.n:
            pairs = values.reshape(blocks, 2, -1)
            twisted = pairs[:, 1] * roots[self._reversed[blocks : 2 * blocks], None] % prime
            values = np.stack(((pairs[:, 0] + twisted) % prime, (pairs[:, 0] - twisted) % prime), 1)
            blocks *= 2
        return values.reshape(self.n)


def _least_root(n: int, prime: int) -> int:
    candidates = (pow(base, (prime - 1) // (2 * n), prime) for base in range(2, prime))
    root = next(each for each in candidates if pow(each, n, prime) == prime - 1)
    return int(_powers(root, 2 * n, prime)[1::2].min())


def _powers(root: int, count: int, prime: int) -> NDArray[Any]:
    powers = [1]
    for _ in range(count - 1):
        powers.append(powers[-1] * root % prime)
    return np.array(powers, object)
