# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MILVUS := .venv/.milvus
# It starts a Milvus of its own; a small machine carries one at a time.
LOGIN := tests/index/test_milvus_login.py
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo test browser servers crosscheck check format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## train, attack, harden, attack again; writes runs/demo/report.html
	$(BIN)/saat demo

test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

browser: $(READY)  ## test the page; needs Chromium (Debian: apt install chromium)
	SAAT_DEMAND_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser tests/browser

servers: $(MILVUS)  ## test the index on real servers, PostgreSQL and Milvus (Linux on x86-64)
	SAAT_DEMAND_SERVERS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m servers tests --ignore $(LOGIN)
	SAAT_DEMAND_SERVERS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m servers $(LOGIN)

crosscheck:  ## compare attacks with foolbox and ART, in an environment of its own
	$(PYTHON) -m venv .venv-crosscheck
	.venv-crosscheck/bin/python -m pip install --quiet --editable '.[dev,crosscheck]'
	OMP_NUM_THREADS=1 .venv-crosscheck/bin/python -m pytest -q tests/crosscheck

check: $(READY)  ## lint, formatting, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and all results
	rm -rf .venv .venv-crosscheck runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "saat needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

$(MILVUS): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[dev,servers]'
	@$(BIN)/python -c 'import sys, importlib.util as i; sys.exit(0 if i.find_spec("milvus") else "no Milvus for this platform")'
	@touch $(MILVUS)
