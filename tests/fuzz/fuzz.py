"""Coverage-guided fuzzing of one decoder with atheris (libFuzzer).

    python tests/fuzz/fuzz.py envelope --seconds 600 --out out/fuzz
    python tests/fuzz/fuzz.py envelope --replay out/fuzz/envelope/crash-...

`make fuzz` runs all of them. Not part of `make test`, which feeds the same decoders seeds and mutations from
a seeded generator (tests/fuzz/test_decoders.py). A finding becomes a `test_repro_...` there.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

with atheris.instrument_imports(include=["gridhe"]):
    from gridhe_testing.decoders import decoders

INPUT_MAX = 64 * 1024
MEMORY_MB = 1_024  # libFuzzer ends the run above this
ALLOCATION_MB = 64  # and on any single allocation above this: nothing here may be larger than its input


def main() -> None:
    names = list(decoders(Path()))
    parser = argparse.ArgumentParser()
    parser.add_argument("decoder", choices=names)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, help="feed this one file and stop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        decoder = decoders(Path(scratch))[options.decoder]()
        folder = options.out / options.decoder
        corpus = folder / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(decoder.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        arguments = [sys.argv[0], f"-artifact_prefix={folder}{os.sep}", f"-rss_limit_mb={MEMORY_MB}"]
        arguments += [f"-malloc_limit_mb={ALLOCATION_MB}", f"-max_len={INPUT_MAX}", "-timeout=20"]
        arguments += [f"-seed={options.seed}", "-print_final_stats=1"]
        if options.replay is not None:
            arguments.append(str(options.replay))
        else:
            arguments += [f"-max_total_time={options.seconds}", str(corpus)]
        atheris.Setup(arguments, decoder.feed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
