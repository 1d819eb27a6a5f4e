# Everything starts here; nothing needs to be installed before but Python 3.11+, git, make and a C compiler.

BIN := .venv/bin
READY := .venv/ready

# Without PYTHON the interpreter of an existing .venv stays. One that PYTHON does not name is replaced.
ifndef PYTHON
PYTHON := $(or $(shell $(BIN)/python -c 'import sys; print(sys._base_executable)' 2>/dev/null),python3)
endif
IDENTITY := 'import sys; print(sys.version.replace("\n", " "), sys.base_prefix)'
ifneq ($(shell $(PYTHON) -c $(IDENTITY) 2>/dev/null),$(shell $(BIN)/python -c $(IDENTITY) 2>/dev/null))
.PHONY: $(READY)
endif

# Processes that run the tests: one more than the cores, since tests wait for launchers and disks. 0: one by one.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 8 ? n + 1 : 8 )))
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: help quickstart test test-all check format clean

help:
	@echo "make quickstart [INPUT=\"files\"]   the whole pipeline on real text, in minutes"
	@echo "make test [WORKERS=n]             the tests, a file to each of n processes"
	@echo "make test-all                     with those of whole jobs that take minutes"
	@echo "make check                        formatting, lint, types and tests"
	@echo "make clean                        removes what quickstart made (data/, runs/), keeps .venv"
	@echo "PYTHON=python3.12, given to any of them, names the interpreter of .venv"

# The pinned set of packages; installed afresh when it changes.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gpt2dist needs Python 3.11 or later; name one with: make PYTHON=python3.12 …"; exit 2; }
	@echo "making .venv with $$($(PYTHON) --version) (a few minutes)"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(READY)
	@launch/quickstart.sh $(INPUT)

test: $(READY)
	$(PYTEST) -m "not slow"

test-all: $(READY)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf data runs
