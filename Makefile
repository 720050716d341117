# `make help` lists the targets. Start with `make demo` and `make test`.
PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
RUN      := $(BIN)/python -m
PARALLEL := -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Two stamp files: one for the program, one for the additional development dependencies.
$(VENV)/.program: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: could not create a virtual environment; install your system's Python venv package"; exit 2; }
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.program
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.doors: $(VENV)/.developer
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[doors]'
	@touch $@

.PHONY: install
install: $(VENV)/.program ## Install the program into .venv

.PHONY: developer
developer: $(VENV)/.developer ## Add all extras and the tools of development

.PHONY: demo
demo: $(VENV)/.program ## Train a small model on the bundled photographs; takes minutes on any machine
	$(BIN)/diffusion train experiment=demo

.PHONY: memoire
memoire: $(VENV)/.program ## Train the memoir's exact recipe (preferably on a GPU)
	$(BIN)/diffusion train experiment=memoire

.PHONY: test
test: $(VENV)/.developer ## Run the tests
	$(RUN) pytest $(PARALLEL) -m "not reliability and not slow and not doors"

.PHONY: test-reliability
test-reliability: $(VENV)/.developer ## Run the reliability tests: kill, damage, interrupt and poison runs
	$(RUN) pytest $(PARALLEL) -m reliability

.PHONY: test-doors
test-doors: $(VENV)/.doors ## Run the tests of what needs more packages: data of the Hub, trackers
	$(RUN) pytest $(PARALLEL) -m doors

.PHONY: test-slow
test-slow: $(VENV)/.developer ## Run the slow tests: train recipes, compile networks, some steps of EDM2-S and CIFAR-10
	$(RUN) pytest -m slow

.PHONY: test-pythons
test-pythons: ## Run check, test and test-reliability on each Python from 3.11 to 3.14 that is installed
	@for n in 11 12 13 14; do \
	  python3.$$n -c '' 2>/dev/null || { echo "python3.$$n: not installed"; continue; }; \
	  $(MAKE) --no-print-directory check test test-reliability PYTHON=python3.$$n VENV=.venv-3.$$n || exit 1; \
	done

.PHONY: test-lowest
test-lowest: ## Run the tests with the lowest versions that pyproject.toml allows, on Python 3.11
	python3.11 -m venv --clear .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip compile --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	  --extra dev --extra doors --output-file .venv-lowest/lowest.txt pyproject.toml
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --no-deps -r .venv-lowest/lowest.txt -e .
	.venv-lowest/bin/python -m pytest $(PARALLEL) -m "not reliability and not slow"

.PHONY: test-hydra-next
test-hydra-next: ## Run the tests with the next Hydra, a release candidate; prints what breaks, and never fails
	$(PYTHON) -m venv --clear .venv-hydra-next
	.venv-hydra-next/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	.venv-hydra-next/bin/pip install --quiet --disable-pip-version-check --upgrade --pre hydra-core
	-.venv-hydra-next/bin/python -m pytest $(PARALLEL) -m "not reliability and not slow and not doors"

.PHONY: check
check: $(VENV)/.developer ## Check linting, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/.developer ## Fix linting and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.developer ## Benchmark startup, a run against a bare loop, networks against their peers, sampling, noise and scoring
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python bench/start.py
	$(BIN)/python bench/loop.py
	$(BIN)/python bench/network.py
	$(BIN)/python bench/sampler.py
	$(BIN)/python bench/noise.py
	$(BIN)/python bench/scoring.py
	$(BIN)/python bench/latents.py

.PHONY: mutations
mutations: $(VENV)/.developer ## Plant faults in mathematics, metrics, data, training and reports; the tests must catch each
	$(BIN)/python tests/mutations.py

.PHONY: docs
docs: $(VENV)/.developer ## Measure the samplers' orders again; updates docs/samplers.md and docs/convergence.png
	$(BIN)/python -m docs.convergence

.PHONY: gallery
gallery: $(VENV)/.program ## Make the runs that the website shows, in outputs/gallery; about 12 minutes on one CPU core
	$(RUN) docs.gallery

.PHONY: site
site: $(VENV)/.developer ## Build the website of the documentation in site/
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[site]'
	$(RUN) docs.site
	$(BIN)/zensical build --strict

.PHONY: wheel
wheel: $(VENV)/.developer ## Build the source archive and, from it, the wheel; check what an index would show
	$(BIN)/pip install --quiet --disable-pip-version-check build twine
	rm -rf dist
	$(RUN) build
	$(RUN) twine check --strict dist/*

.PHONY: release
release: $(VENV)/.developer ## Check and build what a tag publishes, try it in a bare environment, write dist/NOTES.md
	$(BIN)/python .ci/release.py check
	$(MAKE) --no-print-directory check wheel
	$(BIN)/python .ci/release.py try

.PHONY: clean
clean: ## Remove the environment and caches (runs in outputs/ are kept)
	rm -rf $(VENV) .venv-* build dist site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find diffusion tests bench docs -name __pycache__ -prune -exec rm -rf {} +
