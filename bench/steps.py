"""Timings that the pipeline's processes wrote (`--timings FILE`), as records."""

import json
from pathlib import Path

from gridhe.bench.recorder import Recorder
from gridhe.errors import StoreError

__all__ = ["add_steps"]

_LONGEST_S = 1e9  # thirty years: no step takes longer, and statistics of such numbers stay finite


def add_steps(recorder: Recorder, path: Path, *, suite: str, case: str = "") -> int:
    """Store every step in a file; return the number of steps. Raises StoreError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            step = json.loads(line)
            process, name, count = str(step["process"]), str(step["step"]), int(step["count"])
            seconds = [float(one) for one in step["seconds"]]
            if not seconds or not all(0 <= one <= _LONGEST_S for one in seconds):
                raise ValueError(f"expected seconds from 0 to {_LONGEST_S:.0e}")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise StoreError(
                f"{path}, line {number}: not a line that --timings writes ({type(error).__name__}: {error})"
            ) from None
        note = "" if count == len(seconds) else f"a sample of {count:,}"
        recorder.add(
            suite, f"{case} {process}".strip(), name, [one * 1e3 for one in seconds], "ms", note=note
        )
    return len(lines)
