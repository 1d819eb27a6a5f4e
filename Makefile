# Everything starts here; nothing needs to be installed before but Python 3.11+, git, make and a C compiler.

VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Without PYTHON the interpreter of an existing environment stays. One that PYTHON does not name is replaced.
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

.PHONY: help quickstart test test-all check nightly docs format clean

help:
	@echo "make quickstart [INPUT=\"files\"]   the whole pipeline on real text, in minutes"
	@echo "make test [WORKERS=n]             the tests, a file to each of n processes"
	@echo "make test-all                     with those of whole jobs that take minutes"
	@echo "make check                        formatting, lint, types and tests"
	@echo "make nightly                      what takes longer: slow tests, lowest versions, newest Python"
	@echo "make docs                         the documentation as a site"
	@echo "make clean                        removes what quickstart made (data/, runs/), keeps .venv"
	@echo "PYTHON=python3.12, given to any of them, names the interpreter of .venv"

# The pinned set of packages; installed afresh when it changes.
$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "gpt2dist needs Python 3.11 or later; name one with: make PYTHON=python3.12 …"; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version) (a few minutes)"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
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

# Each part has an environment of its own, which is kept. The environment of `make test` stays as it is.
nightly:
	HYPOTHESIS_PROFILE=nightly $(MAKE) test-all
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt
	$(MAKE) test VENV=.venv-newest PYTHON="$$(tools/pythons.sh | tail -n 1)"
	$(MAKE) quickstart

# The documentation as a site, in build/site. Fails if a link leads nowhere.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf data runs
