# Everything runs from .venv, which the targets make by themselves; Python 3.11 or newer is all that has to be there.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# For `make test`: workers, and what is passed on to pytest (TESTS="tests/unit -k raft", PYTEST_ARGS="-x").
WORKERS     ?= 2
TESTS       ?= tests
PYTEST_ARGS ?=
# For `make up`: passed on to `appliance up` (UP_ARGS="--local --base-port 9001").
UP_ARGS     ?=
# For `make sim`: the range of seeds, first:end.
SEEDS       ?= 0:2000
# For `make chaos`: how much of it, which settings, where the report goes (CHAOS_ARGS="--kills 5 --wipes 5").
CHAOS_ARGS  ?=
# For `make bench`: which groups and rows, how long, whether to write (BENCH_ARGS="--groups speed --rounds 1").
BENCH_ARGS  ?=
# For `make profile`: which load, how long, which node (PROFILE_ARGS="--row 'GET stale c=64' --seconds 30").
PROFILE_ARGS ?=

.PHONY: help install install-dev up down test test-unit test-processes lint format render bench profile sim chaos clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.installed ## make .venv with the locked dependencies
install-dev: $(VENV)/.installed-dev ## the same, with what tests and linters need

up: install ## start the cluster: container stack where an engine answers, else three local nodes
	$(BIN)/appliance up $(UP_ARGS)

down: install ## stop it; data stay
	$(BIN)/appliance down

test: install-dev ## all tests: pure ones side by side, then processes and containers one after another
	$(BIN)/pytest $(TESTS) -m "not cluster and not stack" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest $(TESTS) -m "cluster or stack" $(PYTEST_ARGS) || [ $$? -eq 5 ] # 5: TESTS has none of these

test-unit: install-dev ## the fast tests alone
	$(BIN)/pytest tests/unit tests/contract tests/transcripts tests/docs -m "not cluster and not stack" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-processes: install-dev ## the tests with real clusters and containers alone
	$(BIN)/pytest tests -m "cluster or stack" $(PYTEST_ARGS)

lint: install-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install-dev ## put the code into its form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

render: install-dev ## write the files that repeat the tables: rules, dashboard, reference pages
	$(BIN)/appliance render

bench: install-dev ## measure three local nodes, beside etcd's where it is installed
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

profile: install-dev ## where the leader's time goes under load, stage by stage
	$(BIN)/python -m benchmarks.profile $(PROFILE_ARGS)

sim: install-dev ## the simulator over the seeds SEEDS=first:end
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --jobs $(WORKERS)

chaos: install-dev ## real nodes killed, wiped and reshaped under load, and what clients were told judged
	$(BIN)/python -m tests.cluster.chaos $(CHAOS_ARGS)

clean: ## remove what was installed and cached; .scribe/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
