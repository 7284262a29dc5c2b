# make demo     a whole grid on this machine, with the proof that it is exact
# make test     every test, with real brokers and processes, and coverage
# make lint     lint, format, types
# make check    lint and test: what a change has to pass, and what CI runs
# make soak     fault cases at length: each, beside SOAK_MINUTES of all at once; docs/reliability.md has the figures
# make hostile  a million hostile envelopes, 500 kills in the middle of a release, 200 of strands, noise and rounding,
#               10,000 honest totals, all forged totals under ten keys, and 10,000 telegrams of four kinds of
#               meters with faults, pulled cables and killed agents
# make fuzz     coverage-guided fuzzing of every decoder, FUZZ_SECONDS=600 each
# make arm64    golden vectors and a fleet in an emulated arm64 user space, against x86 (root, on Debian or Ubuntu)
# make audit    are advisories known for what the lock files pin?
# make lock     resolve the lock files anew, for every supported Python on x86-64 and arm64
# make venv     .venv with gridhe and its commands
# make clean    what builds and tools leave behind; distclean: .venv and the demo's out/ too
#
# Needs Python 3.11 or newer with its venv module; packages come from pip's usual index, in the versions and with
# the hashes of requirements.lock (what a grid runs) and requirements-dev.lock (that, and all tools).
# PYTHON=python3.12 chooses an interpreter, VENV another folder than .venv, DEMO='--meters 40' (or '--source p1') gives the demo its
# flags, TESTS='tests/broker -k fold' pytest its own.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
DEMO ?=
TESTS ?=
SEED ?= 1
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 60

.PHONY: demo test lint check soak hostile fuzz arm64 audit lock venv clean distclean help
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(BIN)/gridhe demo $(DEMO)

# Two tests at a time: half of the time goes into waiting for processes. Each room has the bound of its own, so that
# none can lean on another. A run of chosen TESTS has none.
COVERED := aggregator broker custody keyring meter_agent plan wire
test: $(VENV)/installed-dev
	$(BIN)/coverage erase
	$(BIN)/pytest $(if $(TESTS),,-q -n 2) --cov --cov-report= $(TESTS)
	$(if $(TESTS),,@set -e; for room in $(COVERED); do \
	  $(BIN)/coverage report --fail-under=90 --include="$$room/*"; \
	done)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

# The fault cases take 30 to 45 minutes on two cores, the soak runs beside them; another SEED is another schedule.
FAULTS := PYTHONPATH=tests $(BIN)/python -m faults
soak: $(VENV)/installed-dev
	@cases=$$($(FAULTS) --list | awk '$$1 != "soak" { print $$1 }'); \
	$(FAULTS) soak --seed $(SEED) --minutes $(SOAK_MINUTES) & soak=$$!; \
	trap 'kill $$soak 2>/dev/null' INT TERM; status=0; \
	$(FAULTS) $$cases --seed $(SEED) || status=1; \
	wait $$soak || status=1; exit $$status

hostile: $(VENV)/installed-dev
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.hostile --count 1000000 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.release_figures --kills 200 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.release_lines --kills 200 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.refusal_kills --kills 100 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.strand_kills --kills 200 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.honest_totals --count 10000 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.forgeries.campaign --rounds 10 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.devices --telegrams 10000 --seed $(SEED)

# One decoder after the other; the first finding ends it and lies in out/fuzz/. FUZZ='receipt' chooses.
FUZZ ?= envelope receipt total bundle roster credential state modbus csv sml d0 tic p1 mqtt homewizard han
fuzz: $(VENV)/installed-dev
	@set -e; for each in $(FUZZ); do \
	  echo "fuzzing $$each for $(FUZZ_SECONDS) s"; \
	  $(BIN)/python tests/fuzz/fuzz.py $$each --seconds $(FUZZ_SECONDS) --seed $(SEED) --out out/fuzz; \
	done

arm64: $(VENV)/installed-dev
	VENV=$(VENV) tools/arm64.sh

# --strict: a package whose advisories cannot be reached is a failure, not a pass.
audit: $(VENV)/installed-dev
	@status=0; for each in requirements.lock requirements-dev.lock; do \
	  echo "$$each"; \
	  $(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement $$each || status=1; \
	done; exit $$status

# One resolution for all: markers choose. setuptools builds gridhe itself. A lock is only taken over if wheels of
# all that it pins exist for each Python that pyproject.toml names, on both architectures.
UV_COMPILE := compile --quiet --upgrade --universal --python-version 3.11 --no-build --generate-hashes \
  --no-annotate --custom-compile-command 'make lock'
PYTHONS := $(shell sed -n 's/.*Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml)
lock: $(VENV)/installed-dev
	@set -e; mkdir -p out; \
	echo setuptools | $(BIN)/uv pip $(UV_COMPILE) --extra demo pyproject.toml - -o out/requirements.lock; \
	$(BIN)/uv pip $(UV_COMPILE) --all-extras -c out/requirements.lock pyproject.toml -o out/requirements-dev.lock; \
	for python in $(PYTHONS); do for machine in x86_64 aarch64; do \
	  echo "Python $$python, $$machine"; \
	  $(BIN)/uv pip install --quiet --dry-run --target out/nowhere --python-version $$python \
	    --python-platform $$machine-manylinux_2_34 --only-binary :all: --require-hashes -r out/requirements-dev.lock; \
	done; done; \
	mv out/requirements.lock out/requirements-dev.lock .

venv: $(VENV)/installed

$(BIN)/python:
	@set -e; \
	usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python=; \
	for each in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	  usable "$$each" || continue; \
	  python=$$each; \
	  if "$$each" -c 'import ensurepip' 2>/dev/null; then break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo 'error: no Python 3.11 or newer found; install it (Debian, Ubuntu: apt install python3 python3-venv) or give PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip' 2>/dev/null; then \
	  echo "error: $$python has no ensurepip, so it cannot make a venv with pip; run: apt install $$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; \
	fi; \
	rm -rf $(VENV); \
	echo "making $(VENV) with $$python"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What the lock pins, by its hashes; then gridhe, editable, so that what is in the checkout is what runs. Nothing is
# built but gridhe, and that with the lock's setuptools (whose warning is about folders that packages are not named after).
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
define install
$(PIP_INSTALL) --require-hashes --only-binary=:all: --requirement $<
PYTHONWARNINGS='ignore:Editable installation' $(PIP_INSTALL) --no-index --no-deps --no-build-isolation --editable .
@touch $@
endef

$(VENV)/installed: requirements.lock pyproject.toml | $(BIN)/python
	$(install)

$(VENV)/installed-dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(install)

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-* out
