# make demo     a whole grid on this machine, with the proof that it is exact
# make test     every test, with real brokers and processes
# make soak     faults at length: every case, beside SOAK_MINUTES of all at once; docs/reliability.md has the figures
# make hostile  a million hostile envelopes, 200 kills in the middle of a release, noise and rounding at length
# make fuzz     coverage-guided fuzzing of every decoder, FUZZ_SECONDS=600 each
# make audit    are advisories known for what requirements.lock and requirements-bench.lock pin? (make lock: pin anew)
# make check    what a change has to pass: lint, format, types, tests, coverage
# make venv     only .venv
# make clean    what builds and tools leave behind; distclean: .venv and the demo's out/ too
#
# Needs Python 3.11 or newer with its venv module; packages come from pip's usual index.
# PYTHON=python3.12 chooses an interpreter, DEMO='--meters 20' gives the demo its flags,
# TESTS='tests/broker -k fold' pytest its own.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
DEMO ?=
TESTS ?=
SEED ?= 1
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 60

.PHONY: demo test soak hostile fuzz audit lock check lint coverage venv clean distclean help
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed-demo
	$(BIN)/gridhe demo $(DEMO)

test: $(VENV)/installed-test
	$(BIN)/pytest $(TESTS)

# The cases take 30 to 45 minutes on two cores, the soak runs beside them; another SEED is another schedule.
soak: $(VENV)/installed-test
	@cases=$$($(BIN)/gridhe-bench faults --list | awk '$$1 != "soak" { print $$1 }'); \
	$(BIN)/gridhe-bench faults soak --seed $(SEED) --minutes $(SOAK_MINUTES) & soak=$$!; \
	trap 'kill $$soak 2>/dev/null' INT TERM; status=0; \
	$(BIN)/gridhe-bench faults $$cases --seed $(SEED) || status=1; \
	wait $$soak || status=1; exit $$status

hostile: $(VENV)/installed-test
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.hostile --count 1000000 --seed $(SEED)
	PYTHONPATH=tests/support $(BIN)/python -m gridhe_testing.release_figures --kills 200 --seed $(SEED)

# One decoder after the other; the first finding ends it and lies in out/fuzz/. FUZZ='receipt' chooses.
FUZZ ?= envelope receipt total bundle roster credential state
fuzz: $(VENV)/installed-fuzz
	@set -e; for each in $(FUZZ); do \
	  echo "fuzzing $$each for $(FUZZ_SECONDS) s"; \
	  $(BIN)/python tests/fuzz/fuzz.py $$each --seconds $(FUZZ_SECONDS) --seed $(SEED) --out out/fuzz; \
	done

# --strict: a package whose advisories cannot be reached is a failure, not a pass.
audit: $(VENV)/installed-audit
	@status=0; for each in requirements.lock requirements-bench.lock; do \
	  echo "$$each"; \
	  $(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement $$each || status=1; \
	done; exit $$status

# The demo's first, and the bench's within its versions. Each keeps the comment at its head.
LOCKED := annotate header emit-index-url emit-trusted-host emit-find-links emit-options
lock: $(VENV)/installed-audit
	@set -e; pin() { \
	  lock=$$1; shift; \
	  $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --build-deps-for wheel \
	    $(addprefix --no-,$(LOCKED)) "$$@" --output-file requirements.new pyproject.toml; \
	  { sed -n '1,/^[^#]/{/^#/p}' $$lock; sed '/^gridhe @/d; /^#/d; /^ *#/d; /^$$/d' requirements.new; } > requirements.tmp; \
	  mv requirements.tmp $$lock; rm requirements.new; \
	}; \
	pin requirements.lock --extra demo; \
	pin requirements-bench.lock --extra bench --constraint requirements.lock

check: lint coverage

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Lines of the rooms where a mistake costs a household's privacy or a grid's numbers; each on its own,
# so that one cannot lean on another.
coverage: $(VENV)/installed-dev
	$(BIN)/coverage erase
	$(BIN)/pytest --cov --cov-report= $(TESTS)
	$(BIN)/coverage report --fail-under=90 --include='aggregator/*'
	$(BIN)/coverage report --fail-under=90 --include='broker/*'
	$(BIN)/coverage report --fail-under=90 --include='keyring/*'

venv: $(BIN)/python

$(BIN)/python:
	@set -e; \
	usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python=; \
	for each in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
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

# Editable, so that what is in the checkout is what runs; only a change of pyproject.toml installs anew.
$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) out
