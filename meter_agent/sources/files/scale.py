"""Exact integers for energies, powers and registers, whatever unit and fraction a file has."""

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from gridhe.meter_agent.policy import TEXT

__all__ = ["MICRO", "MILLI", "SCALE", "Kind", "scaled"]

Kind = Literal["interval", "register", "power"]
SCALE = 3_600_000_000  # units in a Wh: a mean power in millionths of a W over whole seconds is exact
MICRO = 1_000_000  # units in a W
MILLI = 1000  # units in a register's Wh


def scaled(value: Decimal, factor: int, kind: Kind) -> int:
    """A value in units of `factor` Wh or W as a Collector's integer; TEXT if no meter counts so far."""
    units = {"interval": SCALE, "power": MICRO, "register": MILLI}[kind]
    most = 10**14 if kind == "register" else 10**9 if kind == "interval" else 10**8
    amount = value * factor
    if not -most <= amount <= most:
        return TEXT
    return int((amount * units).to_integral_value(ROUND_HALF_EVEN))
