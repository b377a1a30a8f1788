# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: demo test lint reliability all-tests clean

demo: $(VENV)/.installed  ## train Faster R-CNN on generated scenes, judge it, and say where the pictures are
	@rm -rf $(RUN)
	$(BIN)/cvtasks train task=faster_rcnn run_dir=$(RUN)
	@echo "The pictures: $(CURDIR)/$(RUN)/plots"

test: $(VENV)/.installed-dev  ## the default tests, about five minutes on two cores
	$(BIN)/python -m pytest

reliability: $(VENV)/.installed-dev  ## kills, full disks, damaged files, signals: all of what `make test` does a tenth of
	CVTASKS_RELIABILITY=full $(BIN)/python -m pytest tests/reliability

all-tests: $(VENV)/.installed-dev  ## the slow ones as well
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cvtasks needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
