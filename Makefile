# Everything runs in .venv, which `make setup` makes from a bare python3. Nothing needs
# to be activated. Overrides: PYTHON=python3.12, JOBS=4, PYTEST_FLAGS="-x -k chat".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 3
PYTEST_FLAGS ?=
DEMO_FLAGS ?=
# One arithmetic thread to a test worker: more only fight over the same cores. Compiled
# modules are kept, also where the environment forbids it: tests start many processes.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest
QUICK := "not thorough and not faults and not slow and not gpu and not multigpu"
MORE := "(thorough or faults) and not slow and not gpu and not multigpu"
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup hooks docs demo test test-more test-slow test-gpu test-faults coverage steady mutants lint format ledger clean

help:
	@echo "make setup        .venv with every pinned dependency and lumina itself"
	@echo "make demo         train, fine-tune and question a small model (minutes, no download of data)"
	@echo "make test         the quick tests        make test-more    longer runs, kills, damage"
	@echo "make test-slow    the longest ones"
	@echo "make test-gpu     tests on CUDA devices  make test-faults  every fault of docs/reliability.md"
	@echo "make mutants      make each listed mistake in a copy: do its tests notice?"
	@echo "make coverage     which share of the statements the quick tests run (an hour)"
	@echo "make steady       the quick tests twenty times, half of them under load"
	@echo "make lint         ruff, mypy, the import contract, the ledger's marks"
	@echo "make hooks        look at the form of staged files before each commit"
	@echo "make format       let ruff rewrite       make ledger       docs/internal/ledger.md: what tests show"
	@echo "make docs         build/site: the documentation, its links checked"
	@echo "make clean        remove caches and build leftovers (never ./runs)"

setup: $(READY)

# The stamp is written last, so an interrupted set-up is taken up again.
# torch comes first and alone: pip then takes the CPU build wherever one is offered to it,
# and a build that is already there (CUDA, say) stays.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lumina needs Python 3.11 or newer as '$(PYTHON)'; name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; install Python's venv module (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }
	$(PIP) torch
	$(PIP) --quiet --no-build-isolation --editable ".[test,lint]"
	@touch $(READY)

demo: setup
	$(BIN)/lumina demo $(DEMO_FLAGS)

test: setup
	$(PYTEST) -n $(JOBS) --dist worksteal -m $(QUICK) $(PYTEST_FLAGS)

test-more: setup
	$(PYTEST) -n $(JOBS) --dist worksteal -m $(MORE) $(PYTEST_FLAGS)

test-slow: setup
	$(PYTEST) -m "slow and not gpu and not multigpu" $(PYTEST_FLAGS)

test-gpu: setup
	$(PYTEST) -m "gpu or multigpu" $(PYTEST_FLAGS)

test-faults: setup
	$(PYTEST) -n $(JOBS) --dist worksteal -m "(faults or mechanism) and not gpu and not multigpu" $(PYTEST_FLAGS)

mutants: setup
	$(BIN)/python tools/mutants.py run --jobs $(JOBS)

coverage: setup
	$(BIN)/python tools/covered.py run
	$(BIN)/python tools/covered.py report benchmarks/results/coverage-cpu.json

steady: setup
	$(BIN)/python tools/steady.py --runs 20 --load 2 --jobs $(JOBS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/ledger.py --check

hooks: setup
	git config core.hooksPath .githooks

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ledger: setup
	$(BIN)/python tools/ledger.py

docs: setup
	$(PIP) --quiet --no-build-isolation --editable ".[docs]"
	$(BIN)/python tools/docs.py

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .ledger .steady .mutants
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
