# Two commands are all one needs: `make run` and `make test`. python3 (3.11 or later) and make are all they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KILLS ?= 330
TASKS ?= 2000
SEED ?= 20261122
ON ?= sqlite+folder
ROUNDS ?= 3
BENCH_TASKS ?= 1000000
ONLY ?=
PEERS := .venv-bench
PYTEST := $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --ignore=tests/browser
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
CHROMIUM = $${RUNNER_BROWSER:-$$(command -v chromium || command -v chromium-browser || command -v google-chrome)}

.PHONY: help run test browser-test screenshots crash hosts faults fuzz bench guard check format schema clean

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

run: $(VENV)/.installed ## Make jobs/nightly-thumbnails.yaml with the embedded simulator: free, nothing leaves this machine
	@$(BIN)/runner run jobs/nightly-thumbnails.yaml --provider simulator

test: $(VENV)/.installed-servers ## Run the tests, on every core; on PostgreSQL too, which is installed where it may be
	@$(PYTEST)

browser-test: $(VENV)/.installed-browser ## Run the tests of the gallery and the review in a real browser: installs Chromium where it may
	@$(BIN)/python -m pytest tests/browser

screenshots: $(VENV)/.installed-browser ## Make docs/images anew: a sweep on the simulator, seen in a browser
	@$(BIN)/python -m tests.browser.screenshots

crash: $(VENV)/.installed-dev ## Kill runs for some minutes and hold what is left to the laws: make crash KILLS=1000 SEED=7 ON=postgres+s3
	@$(BIN)/python -m tests.crash.campaign --kills $(KILLS) --seed $(SEED) --on $(ON)

hosts: $(VENV)/.installed-dev ## Let three hosts share a ledger, a bucket and a key that has a limit, and say how it was kept
	@$(BIN)/python -m tests.hosts.measure

faults: $(VENV)/.installed-dev ## Meet every fault in a random mix and hold the ledger against the bill: make faults TASKS=5000 SEED=7
	@$(BIN)/python -m tests.faults.mix --tasks $(TASKS) --seed $(SEED)
	@$(BIN)/python -m tests.faults.batch_mix --tasks $(TASKS) --seed $(SEED)

fuzz: $(VENV)/.installed-dev ## Search for bad input that gets through, some minutes, other examples each time
	@$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long

bench: $(VENV)/.installed-dev $(PEERS)/.installed ## Compare with peers, 40 minutes, and write docs/performance.md: make bench ONLY=cpu,startup ROUNDS=5
	@$(BIN)/python -m tests.bench.compare --peers $(PEERS)/bin/python --rounds $(ROUNDS) --tasks $(BENCH_TASKS) --only "$(ONLY)" --write

guard: $(VENV)/.installed-dev ## Fail if an image has come to cost much more than it did: ratios only, 90 seconds
	@$(BIN)/python -m tests.bench.guard

check: $(VENV)/.installed-servers ## Format, lint, types, import floors and tests: what CI runs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST)

format: $(VENV)/.installed-dev ## Format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

schema: $(VENV)/.installed ## Write docs/manifest.schema.json anew
	@$(BIN)/runner schema > docs/manifest.schema.json

clean: ## Remove the virtual environment and caches; images and ledger stay
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "runner needs Python 3.11 or later; name one with: make PYTHON=python3.12 run" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "this Python cannot make virtual environments (on Debian: apt install python3-venv)" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing runner into $(VENV) ..." >&2
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the tools for development into $(VENV) ..." >&2
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-servers: $(VENV)/.installed-dev
	@if ! $(BIN)/python -m tests.servers.postgres >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing PostgreSQL for the tests ..." >&2; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; \
		else \
			echo "$$($(BIN)/python -m tests.servers.postgres); the tests that need it are skipped" >&2; \
		fi; \
	fi
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	@echo "installing the tools for the tests in a browser into $(VENV) ..." >&2
	@$(PIP_INSTALL) --editable '.[dev,browser]'
	@if [ -z "$(CHROMIUM)" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing Chromium ..." >&2; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
		else \
			echo "there is no Chromium in PATH: install it (on Debian: apt install chromium), or name it in RUNNER_BROWSER" >&2; \
			exit 1; \
		fi; \
	fi
	@touch $@

$(PEERS)/.installed: tests/bench/peers-requirements.txt | $(BIN)/python
	@echo "installing the benchmark's peers into $(PEERS) ..." >&2
	@$(BIN)/python -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/bench/peers-requirements.txt
	@touch $@
