# `make demo` shows what vnic does. `make check` and `make test` are what CI runs; `make help` lists all.

VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --dist loadfile

# Real guests of the demo; downloaded by vnic itself where they may not be installed.
GUEST_PACKAGES = user-mode-linux busybox-static

.PHONY: help demo test check guests format bench setup clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.run ## boot a small Linux guest and pull its cable in every way
	@scripts/apt-install --optional $(GUEST_PACKAGES) >/dev/null
	@$(BIN)/vnic demo

test: $(VENV)/.dev ## the tests; those that need a kernel or a tool skip where it is missing
	@scripts/apt-install --optional $(GUEST_PACKAGES) >/dev/null
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

guests: $(VENV)/.dev ## fetch the QEMU guest of the tests, some 160 MB, into the cache folder
	@$(BIN)/python -c 'from vnic.guest.qemu_kit import obtain_qemu; print(obtain_qemu().version_text())'

format: $(VENV)/.dev ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.run ## measure how fast links change and packets move
	$(BIN)/vnic bench

setup: $(VENV)/.dev ## only make the virtual environment

clean: ## remove what the above made
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: pyproject.toml scripts/venv
	@scripts/venv $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml scripts/venv
	@scripts/venv $(VENV) dev
	@touch $@ $(VENV)/.run
