# The tasks of this project. `make run` and `make test` are all that a newcomer needs; each does its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Many tests wait for a disk or a process: one worker more than there are cores, at most four.
WORKERS := $(shell n=$$(nproc); echo $$(( n < 4 ? n + 1 : 4 )))

# Bytecode is kept also where the environment says no: else each server that a test starts compiles all of it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run test test-faults test-long check fix web generate bench bench-cluster audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: .venv/server.stamp web ## Set up what is missing and start the server with the web client
	@exec $(BIN)/securechat serve $(ARGS)

test: .venv/dev.stamp web ## Set up what is missing and run every test
	@tools/services
	@cd web && export PATH="$$(../tools/node-path):$$PATH" && npm run --silent check && npm run --silent size && npm test --silent
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone and not faults" $(ARGS)
	@$(BIN)/pytest -m "alone and not faults" $(ARGS)

test-faults: .venv/dev.stamp ## Every fault on a cluster, in full; SOAK_MIN=60 soaks it for an hour after that (report: build/faults)
	@tools/services
	@FAULTS=full FAULT_REPORT=build/faults $(BIN)/pytest tests/faults/cluster $(ARGS)
	@if [ -n "$(SOAK_MIN)" ]; then $(BIN)/python tests/faults/soak.py --minutes $(SOAK_MIN) --report build/faults; fi

test-long: .venv/dev.stamp web ## Fuzz every entry point for a minute each (SECURECHAT_FUZZ_S), simulate twenty thousand seeds (SIM_SEEDS)
	@export SECURECHAT_FUZZ_S=$${SECURECHAT_FUZZ_S:-60} SIM_SEEDS=$${SIM_SEEDS:-20000}; $(BIN)/pytest tests/fuzz tests/sim $(ARGS) && cd web && \
	  export PATH="$$(../tools/node-path):$$PATH" && npx --no-install vitest run tests/markdownFuzz.test.ts

check: .venv/dev.stamp web ## The quick checks, in a minute: format, lint and types of server and web client, import contracts, unit tests
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	@cd web && export PATH="$$(../tools/node-path):$$PATH" && npm run --silent check
	@$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m "not alone and not slow" tests/unit

fix: .venv/dev.stamp ## Format, and repair what can be repaired
	@$(BIN)/ruff check -q --fix . || true
	@$(BIN)/ruff format -q .

web: web/dist/index.html

generate: .venv/dev.stamp ## Write what is made from the code: schemas, OpenAPI, tables in the docs
	@$(BIN)/python tools/generate

bench: .venv/server.stamp ## Measure this machine
	@$(BIN)/securechat bench $(ARGS)

bench-cluster: .venv/server.stamp ## Measure several servers on PostgreSQL and Redis against one by itself
	@tools/services && $(BIN)/securechat bench --cluster $(ARGS)

audit: ## Look for known weaknesses, and write what SecureChat is made of (CycloneDX)
	@tools/audit-env && tools/sbom && tools/audit

clean: ## Remove what was built (the data folder stays)
	@rm -rf .venv .venv-audit web/node_modules web/dist build dist .mypy_cache .ruff_cache .pytest_cache
	@find src tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} +

.venv/server.stamp: requirements/server.txt pyproject.toml
	@tools/venv server $(PYTHON)

.venv/dev.stamp: requirements/dev.txt pyproject.toml
	@tools/venv dev $(PYTHON)

web/dist/index.html: $(shell find web/src web/public web/index.html web/package-lock.json web/vite.config.ts -type f 2>/dev/null)
	@tools/web
