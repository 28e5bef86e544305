# Every target sets itself up: all it needs is Python 3.11 and the package registries.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO_HOME ?= demo
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
BENCH_READY := $(VENV)/.bench-ready

.PHONY: help demo ui test test-all lint bench docs site release constraints clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# What the demo needs: neither Azure's packages nor those of the tests.
$(DEMO_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[azure,postgres,kubernetes,emulators,hf,open-clip,timm,site,dev]'
	@touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: $(DEMO_READY)  ## the whole loop on handwritten digits, in about four minutes
	$(BIN)/al demo --home $(DEMO_HOME)

ui: $(DEMO_READY)  ## the Dagster UI on the demo's instance; the loop goes on
	$(BIN)/al ui --home $(DEMO_HOME)

test: $(READY)  ## lint, types, layers and all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-all: $(READY)  ## everything of `make test`, and what is longer
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder -m ""

lint: $(READY)  ## ruff, mypy, import-linter, dg check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_READY)  ## the speed tables, each a ratio to a peer or a bound in the same run; RECORD=0.2.0 keeps them
	$(BIN)/python -m benchmarks $(if $(RECORD),--record $(RECORD))

docs: $(READY)  ## the pages that are made from the code
	$(BIN)/python docs/reference.py

site: $(READY)  ## the documentation as pages, in site/
	$(BIN)/mkdocs build --strict --quiet

release: $(READY)  ## wheel and source archive of a tagged commit, after all tests
	@git diff --quiet HEAD || { echo "commit first: a release is a commit"; exit 1; }
	@git describe --exact-match --tags HEAD || { echo "tag the commit first: git tag v0.2.0"; exit 1; }
	@test -f benchmarks/history/$$(git describe --exact-match --tags HEAD | sed s/^v//).json || \
	  { echo "measure it first: make bench RECORD=VERSION, and commit benchmarks/history"; exit 1; }
	$(MAKE) --no-print-directory test-all
	rm -rf dist
	$(BIN)/python -m build
	@ls -l dist

constraints: $(READY)  ## write the versions of this environment to constraints.txt
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ '; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## everything a target made, demo included
	rm -rf $(VENV) $(DEMO_HOME) .al build dist emulators/node_modules emulators/.venv-inference emulators/.arm-models emulators/.rest-models .venv-label-studio* .venv-datumaro* *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
