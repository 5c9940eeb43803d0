# The steps of .ci/run, one at a time. `make check` runs them here, `make ci` in a fresh copy, as is done before a change
# is handed in. All but `make setup`, which makes one in .venv, need an active virtual environment.
.PHONY: help setup lint format types docs test check ci
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 12

setup: ## a virtual environment in .venv with all that developing needs
	python3 -m venv .venv
	.venv/bin/pip install -e ".[mmcv-lite,dev]"
	.venv/bin/pre-commit install

lint: ## style, and the pages that are generated
	ruff check
	ruff format --check
	python .dev_scripts/generate_model_pages.py --check
	pre-commit validate-config

format: ## mend what lint can mend, and write the generated pages
	ruff check --fix
	ruff format
	python .dev_scripts/generate_model_pages.py

types: ## check the types
	mypy

docs: ## the site, warnings being errors; read docs/_build/html/index.html
	python -m sphinx -q -W --keep-going -b html docs docs/_build/html

test: ## all tests
	pytest

check: lint types docs test ## lint, types, docs and test

ci: ## everything, in a fresh copy and environment
	bash .ci/run
