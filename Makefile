# Each target does its own set-up. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where pip finds no CPU wheel of torch by itself and the machine has no GPU:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.PHONY: install demo test check prove format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt .ci/preflight
	@PYTHON=$(PYTHON) .ci/preflight
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about 1.5 GB with torch; some minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(EXTRA_INDEX) \
		--editable '.[orchestrator,video,devchain,dev]'
	@touch $@

demo: install
	$(BIN)/python node.py demo

test: install
	$(BIN)/python -m pytest -m "not prove" -q -n 2 --dist loadfile

check: install
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(MAKE) test

# Half of them wait most of the time. The attack has the machine to itself: it measures times and memory.
prove: install
	$(BIN)/python -m pytest -m prove -q -n 2 --dist loadfile --ignore tests/test_attack.py
	$(BIN)/python -m pytest -m prove -q tests/test_attack.py

format: install
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
