"""Times as text."""

from datetime import UTC, datetime

__all__ = ["iso"]


def iso(at_s: float) -> str:
    """UTC epoch seconds as 2026-01-31T00:00:00Z; after the year 9999 as a number of seconds."""
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{at_s:.0f} s"
