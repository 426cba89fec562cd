# Everything a person does here. `make` alone says what there is.
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Tests wait about as much as they compute.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: help setup demo test test-all backends lint format docs bench conformance conformance-server clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/.stamp ## Make .venv with raincheck, every store and engine, and what its tests need

.venv/.stamp: pyproject.toml scripts/setup
	@./scripts/setup
	@touch .venv/.stamp-server $@

# What a newcomer waits for: the server alone.
.venv/.stamp-server: pyproject.toml scripts/setup
	@./scripts/setup server
	@touch $@

demo: .venv/.stamp-server ## Show the main job: a slow tool, a kill -9, and every result
	@$(PY) -m raincheck demo

test: .venv/.stamp ## Run the quick tests: no servers, no network, three minutes
	@$(PY) -m pytest -q -n $(WORKERS) --dist loadgroup --quick

test-all: .venv/.stamp ## Run all tests: every store and engine, real processes and clients, faults (make backends first)
	@$(PY) -m pytest -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

backends: ## Install PostgreSQL and Redis for the tests of stores and engines (Debian)
	@./scripts/backends

lint: .venv/.stamp ## Check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m basedpyright --level error

format: .venv/.stamp ## Format the code
	@$(PY) -m ruff check -q --fix . ; $(PY) -m ruff format .

bench: .venv/.stamp ## Measure beside the floor and the rival; writes benchmarks/RESULTS.md
	@$(PY) -m benchmarks

chaos: .venv/.stamp ## Kill, freeze and cut off everything, on every store and engine: make chaos SEED=4 PAIR="redis + docket"
	@PYTHONPATH=tests $(PY) -m chaos $(if $(SEED),--seed $(SEED)) $(if $(PAIR),--pair "$(PAIR)") $(if $(PLAN),--plan)

conformance: .venv/.stamp ## Run the official MCP conformance suite (needs npm)
	@$(PY) tests/conformance/run.py

conformance-server: .venv/.stamp ## Serve the fixtures of the suite: make conformance-server PORT=8765
	@$(PY) tests/conformance/server.py $(or $(PORT),0)

clean: ## Remove what make made
	@rm -rf .venv .tools benchmarks/.venv-rival .pytest_cache .ruff_cache .mypy_cache .hypothesis dist
