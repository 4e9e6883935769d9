# Two commands do everything on a fresh machine: `make run` and `make test`.
# Another one, for the other end of the versions, has an environment of its own.
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
SEED ?= 0
WORKDIR ?= runs/quickstart
WORKERS ?= 2
# `make test LOCKED=1` installs the versions of requirements.lock.
LOCK := $(if $(LOCKED),--constraint requirements.lock)

.PHONY: run test test-slow check format lock clean

# Reinstalled whenever the requirements change; the package itself is installed editable.
$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(LOCK) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet $(LOCK) --editable '.[dev]'
	touch $@

# Both are only ever compared with; torch is pinned to what the comparisons were written against.
$(VENV)/.installed-torch: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet torch==2.13.0 "transformers>=5.20,<6"
	touch $@

run: $(VENV)/.installed
	$(BIN)/esam quickstart --workdir $(WORKDIR) --seed $(SEED)

test: $(VENV)/.installed-dev $(if $(WITH_TORCH),$(VENV)/.installed-torch)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# What takes minutes more than a change should wait for; CI runs both.
test-slow: $(VENV)/.installed-dev $(if $(WITH_TORCH),$(VENV)/.installed-torch)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not nightly"

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# To run once the suite has passed with newer versions.
lock: $(VENV)/.installed-dev
	$(BIN)/python tests/helpers/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv .venv-* .test_programs build dist *.egg-info
