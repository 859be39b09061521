# `make demo` shows what vnic does. `make check` and `make test` are what CI runs; `make help` lists all.

VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --dist loadfile
FUZZ_SECONDS ?= 180
SOAK_SECONDS ?= 60

.PHONY: help demo test check guests format bench setup clean attack wire fuzz soak tsan man schemas service

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: wire ## boot a small Linux guest and pull its cable in every way
	@$(BIN)/vnic demo

test: $(VENV)/.dev wire ## the tests; those that need a kernel or a tool skip where it is missing
	@$(BIN)/python -m vnic.lab.guest uml || true
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## format, lint, types, dead code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/dead-code

guests: $(VENV)/.dev ## fetch all guests of the tests, some 200 MB, into the cache folder
	@$(BIN)/python -m vnic.lab.guest uml newer-uml qemu newer-passt agent

format: $(VENV)/.dev ## format the code and mend what lint can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

attack: $(VENV)/.dev ## attack a running vnic for some minutes, with figures
	@$(BIN)/python -m tests.attack.run

soak: $(VENV)/.dev wire ## guests with traffic, while processes of vnic are killed at random, for SOAK_SECONDS (60)
	@PYTHONPATH=src $(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

fuzz: $(VENV)/.dev ## attack vnic-wire, built with sanitizers, for FUZZ_SECONDS (180), from FUZZ_SEED
	@PYTHONPATH=src $(BIN)/python -m tests.fuzz.wire_fuzzer --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

tsan: $(VENV)/.dev ## the tests of vnic-wire, built with the thread sanitizer, then some attacks
	TSAN_OPTIONS=atexit_sleep_ms=0 VNIC_WIRE_SANITIZER=thread $(BIN)/pytest tests/unit/wire --deselect tests/unit/wire/test_sandboxed.py
	@PYTHONPATH=src $(BIN)/python -m tests.fuzz.wire_fuzzer --seconds $(FUZZ_SECONDS) --sanitizer thread

bench: wire ## measure how fast links change and packets move
	$(BIN)/vnic bench

setup: $(VENV)/.dev wire ## only make the virtual environment, and vnic-wire

wire: $(VENV)/.run ## compile vnic-wire, which moves packets, and vnic-probe of `vnic rehearse`
	@$(BIN)/python src/vnic/dataplane/wire/build.py

man: $(VENV)/.run ## the man pages, in build/man, from the manual and the parsers; a wheel that is built then has them
	$(BIN)/python -m vnic.reference.man docs build/man

schemas: $(VENV)/.run ## docs/schemas, of what the verbs print with --json, from the types
	$(BIN)/python -m vnic.reference.schemas docs/schemas

service: $(VENV)/.run wire ## as root: install the systemd unit vnic@.service, with this tree's program
	install -Dm644 packaging/vnic@.service /etc/systemd/system/vnic@.service
	sed -i 's|^ExecStart=vnic|ExecStart=$(abspath $(BIN))/vnic|' /etc/systemd/system/vnic@.service
	systemctl daemon-reload

clean: ## remove what the above made
	rm -rf $(VENV) src/vnic/dataplane/wire/vnic-wire src/vnic/lab/rehearse/vnic-probe build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: pyproject.toml scripts/venv scripts/apt-unpack
	@scripts/venv $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml scripts/venv scripts/apt-unpack
	@scripts/venv $(VENV) dev
	@touch $@ $(VENV)/.run
