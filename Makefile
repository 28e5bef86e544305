# Every target sets itself up: all it needs is Python 3.11 and the package registries.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO_HOME ?= demo
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready

.PHONY: help demo ui test test-all lint bench constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[azure,emulators,hf,open-clip,timm,dev]'
	@touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: $(READY)  ## the whole loop on handwritten digits, in about five minutes
	$(BIN)/al demo --home $(DEMO_HOME)

ui: $(READY)  ## the Dagster UI on the demo's instance; the loop goes on
	$(BIN)/al ui --home $(DEMO_HOME)

test: $(READY)  ## lint, types, layers and all tests but the slow ones
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder -m "not slow"

test-all: $(READY)  ## the slow ones, too
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

lint: $(READY)  ## ruff, mypy, import-linter, dg check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_READY)  ## the speed tables, each a ratio to a peer or a bound in the same run
	$(BIN)/python -m benchmarks

constraints: $(READY)  ## write the versions of this environment to constraints.txt
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ '; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## everything a target made, demo included
	rm -rf $(VENV) $(DEMO_HOME) .al build dist emulators/node_modules emulators/.venv-inference emulators/.rest-models *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
