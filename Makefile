.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv setup packages browser demo test unit integration molecule sanity lint format bench build lab-up lab-down lab-list clean

export PYTHON ?= python3
BIN := .venv/bin
# Ansible's tools start each other by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

venv: .venv/ready ## Prepare the development environment in .venv
.venv/ready: tests/requirements.txt
	@tests/tools/setup.sh venv

setup: packages venv ## Prepare everything, QEMU too
packages browser:
	@tests/tools/setup.sh $@

demo: setup ## Show the collection at work on real guests
	@$(BIN)/python -m tests.demo

test: setup lint unit sanity integration molecule ## Run every test

unit: venv ## Run the unit tests
	$(BIN)/pytest tests/unit

integration: setup browser ## Run the tests on real guests
	$(BIN)/pytest tests/lab tests/integration

molecule: setup ## Run the role's and the playbook's scenarios on real guests
	$(BIN)/molecule test --all

sanity: venv ## Run ansible-test's sanity tests
	$(BIN)/python tests/tools/sanity.py

lint: venv ## Check style, types, documentation and changelog
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --python-version 3.9 -p ansible_collections.ballast.qemu.plugins
	$(BIN)/mypy -p tests
	$(BIN)/ansible-lint --strict
	$(BIN)/antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs all .
	$(BIN)/antsibull-changelog lint

format: venv ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure speed on real guests
	@$(BIN)/python -m tests.bench

build: venv ## Build the collection's archive into build/
	$(BIN)/ansible-galaxy collection build --force --output-path build

lab-up: setup ## Start test guests: make lab-up GUESTS="web=512 db=1024,busy=600"
	@$(BIN)/python -m tests.lab up $(GUESTS)

lab-down: venv ## End the test guests
	@$(BIN)/python -m tests.lab down

lab-list: venv ## List the test guests
	@$(BIN)/python -m tests.lab list

clean: ## Remove everything that make has made
	rm -rf .venv .cache .ansible .hypothesis build
	find . -name __pycache__ -prune -exec rm -rf {} +
