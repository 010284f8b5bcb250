# make run | test | lint | compile; see README.md
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
BROWSERS = chromium-headless-shell chromium chromium-browser google-chrome

.PHONY: run test browser lint compile clean

run: $(VENV)/.local  ## the whole loop on this machine; DATA=DIR for your own lines, ONCE=1 to stop after the check
	@exec $(BIN)/python -m pipeline run $(if $(DATA),--data $(DATA)) $(if $(ONCE),--once) $(ARGS)

test: $(VENV)/.test browser  ## all tests, with real servers and a real browser
	@$(BIN)/python -m pytest $(ARGS)

browser:  ## Debian's Chromium, where there is none, and root to install it; without one some tests are skipped
	@for name in "$$CHROMIUM" $(BROWSERS); do command -v "$$name" >/dev/null && exit; done; \
	if test `id -u` = 0 && command -v apt-get >/dev/null; then export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null; fi; \
	command -v chromium-headless-shell >/dev/null || echo "no Chromium: the page's tests in a browser are skipped"

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
