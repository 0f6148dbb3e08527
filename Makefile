# PYTHON (3.11 to 3.13) creates the virtual environment .venv at the first use of a target.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow lint clean

train: .venv/ready
	$(BIN)/python train.py $(ARGS)

test: .venv/ready
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

# Tests that start several processes, kill runs, take longer than about 8 seconds, or need converters.
test-slow: .venv/export
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy rope

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/export: .venv/ready requirements-export.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-export.txt
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
