"""gridhe: smart metering in which group totals are exact and households stay unreadable.

The rooms (`gridhe.config`, `gridhe.keyring`, `gridhe.broker`, `gridhe.meter_agent`,
`gridhe.aggregator`, `gridhe.bench`) are packages of their own; this root holds the version,
the error tree and the `gridhe` command.
"""

from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__"]

# In a source checkout the rooms stand beside this folder instead of inside it. Without this line
# `python -m gridhe.cli` in the checkout's root would find this folder first and no room in it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "keyring" / "parameters.py").is_file():
    __path__.append(str(_checkout))
