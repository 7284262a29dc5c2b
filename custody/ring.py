"""Arithmetic in Z_q[X] / (X^N + 1), exact in integers, and the full decoding of a ciphertext.

An element is uint64[primes][N]: its residues by data prime, each below the prime. In NTT form, as SEAL stores
ciphertexts and keys, row i holds the values at the odd powers of the least primitive 2N-th root of unity
modulo prime i, in bit-reversed order (Longa, Naehrig, "Speeding up the number theoretic transform", CANS
2016; SEAL's smallntt).

Decoding evaluates a polynomial with integer coefficients at zeta^(3^j), zeta = exp(i pi / N), for the slots
j = 0 .. N/2 - 1, with one FFT of length N. TenSEAL's own decryption returns real parts only.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.parameters import CkksParameters

__all__ = ["Ring", "embed", "ring_of"]

Residues = NDArray[np.uint64]
_U64 = np.uint64
_WIDE_BITS = 50  # larger primes are multiplied in two halves
_HALF = _U64(30)


@functools.cache
def ring_of(parameters: CkksParameters) -> "Ring":
    """The ring of these parameters, made once: its tables take 2 to 40 ms, 0.2 s for nineteen primes."""
    return Ring(parameters)


class Ring:
    """The ring of one set of parameters. All functions return new arrays."""

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        self.n, self.primes = parameters.ring_degree, parameters.primes
        self._q = np.array(self.primes, _U64)[:, None]
        self._signed = self._q.view(np.int64)
        self._inverse = 1.0 / np.array(self.primes, np.float64)[:, None]
        self._wide = max(self.primes).bit_length() > _WIDE_BITS
        bits = self.n.bit_length() - 1
        order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(self.n)])
        self._roots, self._inverse_roots = (np.empty((len(self.primes), self.n), _U64) for _ in range(2))
        for row, prime in enumerate(self.primes):
            powers = self._powers(_least_root(prime, self.n), row)
            self._roots[row] = powers[order]
            self._inverse_roots[row] = powers[-order % (2 * self.n)]
        degree = np.array([pow(self.n, -1, prime) for prime in self.primes], _U64)
        self._inverse_degree = np.repeat(degree[:, None], self.n, 1)
        # Garner's inverses: of q_0 .. q_(i-1), one after the other, modulo q_i
        self._garner = [
            [pow(earlier, -1, prime) for earlier in self.primes[:i]] for i, prime in enumerate(self.primes)
        ]

    def _powers(self, root: int, row: int) -> Residues:
        """root^0 .. root^(2N - 1) modulo prime `row`, by doubling."""
        prime, powers = self.primes[row], np.ones(1, _U64)
        step = root
        while len(powers) < 2 * self.n:
            factor = np.full_like(powers, step)
            powers = np.concatenate((powers, self._mul_row(powers, factor, row)))
            step = step * step % prime
        return powers

    # -- elements, coefficient by coefficient or value by value

    def mul(self, a: Residues, b: Residues) -> Residues:
        """a * b, both uint64[primes][N]: of values in NTT form the product in the ring."""
        return self._mul(a, b, self._q, self._inverse)

    def add(self, a: Residues, b: Residues) -> Residues:
        """a + b."""
        total = a + b  # below 2^61
        return np.where(total >= self._q, total - self._q, total)

    def negate(self, a: Residues) -> Residues:
        """-a."""
        return np.where(a == 0, a, self._q - a)

    def lift(self, coefficients: NDArray[np.int64]) -> Residues:
        """The residues of signed coefficients int64[N], each in -2^62..2^62."""
        return (coefficients[None, :] % self._signed).view(_U64)

    def _mul(self, a: Residues, b: Residues, q: Residues, inverse: NDArray[np.float64]) -> Residues:
        if not self._wide:
            return _mul_narrow(a, b, q, inverse)
        # a b = (a b_high mod q) 2^30 + a b_low, with b_high and b_low below 2^30
        high = _mul_narrow(a, b >> _HALF, q, inverse)
        high = _mul_narrow(high, np.full_like(high, 1 << 30), q, inverse)
        total = high + _mul_narrow(a, b & _U64((1 << 30) - 1), q, inverse)
        return np.where(total >= q, total - q, total)

    def _mul_row(self, a: Residues, b: Residues, row: int) -> Residues:
        return self._mul(a, b, self._q[row], self._inverse[row])

    # -- number theoretic transform

    def ntt(self, coefficients: Residues) -> Residues:
        """NTT form of coefficients uint64[primes][N]."""
        primes, n, q, inverse = len(self.primes), self.n, self._q[..., None], self._inverse[..., None]
        x, m = coefficients, 1
        while m < n:
            pairs = x.reshape(primes, m, 2, n // (2 * m))
            u = pairs[:, :, 0]
            roots = np.broadcast_to(self._roots[:, m : 2 * m, None], u.shape)
            v = self._mul(pairs[:, :, 1], roots, q, inverse)
            plus, minus = u + v, u + q - v
            x = np.stack((np.where(plus >= q, plus - q, plus), np.where(minus >= q, minus - q, minus)), 2)
            m *= 2
        return x.reshape(primes, n)

    def intt(self, values: Residues) -> Residues:
        """Coefficients uint64[primes][N] of an element in NTT form."""
        primes, n, q, inverse = len(self.primes), self.n, self._q[..., None], self._inverse[..., None]
        x, m = values, self.n // 2
        while m:
            pairs = x.reshape(primes, m, 2, n // (2 * m))
            u, v = pairs[:, :, 0], pairs[:, :, 1]
            plus, minus = u + v, u + q - v
            roots = np.broadcast_to(self._inverse_roots[:, m : 2 * m, None], u.shape)
            scaled = self._mul(np.where(minus >= q, minus - q, minus), roots, q, inverse)
            x = np.stack((np.where(plus >= q, plus - q, plus), scaled), 2)
            m //= 2
        return self.mul(x.reshape(primes, n), self._inverse_degree)

    # -- integers and slots

    def centred(self, coefficients: Residues) -> NDArray[np.float64]:
        """The integers in -Q/2..Q/2 with these residues uint64[primes][N], float64[N].

        Garner's mixed radix with digits in -q_i/2..q_i/2: an integer of at most 52 bits comes out exact,
        because no partial sum is above 2^53; a larger one within 2^-50 of its size for up to three primes,
        2^-47 for up to nineteen.
        """
        digits: list[NDArray[np.int64]] = []
        for row, prime in enumerate(self.primes):
            rest = coefficients[row]
            for earlier, digit in enumerate(digits):
                rest = rest + (-digit % prime).view(_U64)  # below 2^61
                rest = np.where(rest >= prime, rest - _U64(prime), rest)
                factor = np.full_like(rest, self._garner[row][earlier])
                rest = self._mul_row(rest, factor, row)
            digit = rest.view(np.int64)
            digits.append(np.where(digit > prime // 2, digit - prime, digit))
        value = digits[-1].astype(np.float64)
        for row in range(len(digits) - 2, -1, -1):
            value = value * float(self.primes[row]) + digits[row]
        return value

    def decode(self, ciphertext: Residues, secret: Residues, scale: float) -> NDArray[np.complex128]:
        """All slots complex128[N/2], in SEAL's order, of a ciphertext uint64[2][primes][N] in NTT form.

        `secret`: the secret key uint64[primes][N] in NTT form. Nothing is rounded to integers: the result
        contains the ciphertext's error, from which the key could be derived, so it must not be shown.

        The only inexact steps are `centred` and the FFT. The result was measured to be off by at most
        2^-50.05 of the largest slot (N = 32768, all slots of the same size; 2^-50.3 for N = 4096), with
        numpy's FFT in doubles. TenSEAL's own decoding is about as exact.
        """
        message = self.add(ciphertext[0], self.mul(ciphertext[1], secret))
        return embed(self.centred(self.intt(message))) / scale


def embed(coefficients: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The slots complex128[N/2], in SEAL's order, of a polynomial's coefficients float64[N]; unscaled."""
    n = len(coefficients)
    twist, at = _embedding(n)
    # ifft evaluates at exp(2 pi i j k / N); with the twist zeta^k, at zeta^((2j + 1) k): all odd powers.
    slots: NDArray[np.complex128] = (np.fft.ifft(coefficients * twist) * n)[at]
    return slots


@functools.cache
def _embedding(n: int) -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    """zeta^k for k < N, and for each slot j the position (3^j - 1) / 2 of its odd power."""
    at, power = np.empty(n // 2, np.int64), 1
    for j in range(n // 2):
        at[j] = power >> 1
        power = power * 3 % (2 * n)
    return np.exp(1j * math.pi * np.arange(n) / n), at


def _mul_narrow(a: Residues, b: Residues, q: Residues, inverse: NDArray[np.float64]) -> Residues:
    """a b mod q for a below q, where q is below 2^50, or q is below 2^60 and b at most 2^30.

    The quotient is below b. Guessed in doubles it has three roundings (a b, 1 / q, their product), and a
    fourth of a if q is above 2^53. So it is off by less than 2^50 * 3.1 * 2^-53 < 1/2 before it is cut off,
    and by at most 1 afterwards. The remainder is between -q and 2q, below 2^61 in size, so it is exact
    although it is computed modulo 2^64.
    """
    guess = (a.astype(np.float64) * b.astype(np.float64) * inverse).astype(_U64)
    rest, signed = (a * b - guess * q).view(np.int64), q.view(np.int64)
    rest += signed * (rest < 0)
    rest -= signed * (rest >= signed)
    return rest.view(_U64)


def _least_root(prime: int, n: int) -> int:
    """SEAL's choice: the least primitive 2N-th root of unity modulo a prime that is 1 modulo 2N."""
    root = next(
        r
        for r in (pow(base, (prime - 1) // (2 * n), prime) for base in range(2, prime))
        if pow(r, n, prime) == prime - 1
    )
    square, least = root * root % prime, root
    for _ in range(n - 1):
        root = root * square % prime
        least = min(least, root)
    return least
