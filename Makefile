# Every target sets up what it needs. INPUT=folder gives `make demo` your own files.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
INPUT ?=
TESTS ?= tests
SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit bench fuzz lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## a fresh machine to a working .venv

$(VENV)/.ready: requirements.lock pyproject.toml tools/setup.sh
	@sh tools/setup.sh $(VENV)

demo: setup ## start everything, protect real data under a key, take the key away and give it back
	@$(BIN)/keystead demo $(if $(INPUT),--input "$(INPUT)")

test: lint unit ## all checks and all tests

lint: setup ## style, types, and the rooms of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## the tests alone; TESTS=path runs some of them
	$(BIN)/pytest -n 2 --dist loadfile $(TESTS)

bench: setup ## the ratios, each against a baseline of the same run
	$(BIN)/python -m bench

fuzz: setup ## every parser of foreign bytes, for SECONDS altogether
	$(BIN)/python -m fuzz --seconds $(SECONDS)

lock: setup ## choose versions anew and pin them with their hashes
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes \
	  --python-version 3.11 --no-header --upgrade -o requirements.lock

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
