"""`python -m faults`, with the folder `tests` on PYTHONPATH."""

from faults.command import faults
from gridhe.base.commands import run_command

if __name__ == "__main__":
    run_command(faults)
