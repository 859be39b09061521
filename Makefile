# `make demo` shows what vnic does. `make check` and `make test` are what CI runs; `make help` lists all.

VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --dist loadfile

.PHONY: help demo test check guests format bench setup clean attack

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.run ## boot a small Linux guest and pull its cable in every way
	@$(BIN)/vnic demo

test: $(VENV)/.dev ## the tests; those that need a kernel or a tool skip where it is missing
	@$(BIN)/python -m vnic.lab.guest uml || true
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## format, lint, types, dead code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/dead-code

guests: $(VENV)/.dev ## fetch all guests of the tests, some 200 MB, into the cache folder
	@$(BIN)/python -m vnic.lab.guest uml newer-uml qemu newer-passt

format: $(VENV)/.dev ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

attack: $(VENV)/.dev ## attack a running vnic for some minutes, with figures
	@$(BIN)/python -m tests.attack.run

bench: $(VENV)/.run ## measure how fast links change and packets move
	$(BIN)/vnic bench

setup: $(VENV)/.dev ## only make the virtual environment

clean: ## remove what the above made
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: pyproject.toml scripts/venv scripts/apt-unpack
	@scripts/venv $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml scripts/venv scripts/apt-unpack
	@scripts/venv $(VENV) dev
	@touch $@ $(VENV)/.run
