# make run | test | lint | compile; see README.md
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: run test lint compile clean

run: $(VENV)/.local  ## the whole loop on this machine; DATA=DIR for your own lines, ONCE=1 to stop after the check
	@exec $(BIN)/python -m pipeline run $(if $(DATA),--data $(DATA)) $(if $(ONCE),--once) $(ARGS)

test: $(VENV)/.test  ## all tests, with real servers
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.lint
	@$(BIN)/python -m flake8
	@$(BIN)/python -m mypy

compile: $(VENV)/.local  ## build/: the pipeline and the cluster's side
	@$(BIN)/python compile.py

clean:
	rm -rf $(VENV) .run build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet --editable '.[$*]'
	@touch $@
