# Everything runs in a virtual environment of its own, .venv, made on first use; later runs find it ready.
#   make demo PYTHON=python3.12       another interpreter
#   make test PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"    the CPU build of torch
PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt

# GPT-2 small, all 124 million parameters of it: its first screen stands within seconds, the rest within a minute.
DEMO := transformers:gpt2 --seq 128

# One thread a worker: two workers with a thread pool each fight over the same cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# No command here needs the network once it is installed.
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test slow lint docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    install, then check a real transformer and a broken deep network"
	@echo "make test    install with the test extras, then run the quick tests"
	@echo "make slow    the tests that take longer"
	@echo "make lint    ruff (rules and format) and mypy"
	@echo "make docs    the documentation, warnings as errors, into docs/_build/html"
	@echo "make bench   how to run the benchmarks"
	@echo "make clean   remove .venv, caches and build outputs"

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Leadline needs Python 3.11 or newer, and '$(PYTHON)' was not found: install it, or name one with 'make PYTHON=python3.12'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Leadline needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1): name a newer one with 'make PYTHON=python3.12'."; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV) || $(PYTHON) -m virtualenv --quiet $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON)' could not make a virtual environment: install its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }

# One stamp a set of extras; a change of the requirements makes them stale.
$(VENV)/.demo: EXTRAS = transformers,plot
$(VENV)/.test: EXTRAS = test
$(VENV)/.dev: EXTRAS = dev
$(VENV)/.docs: EXTRAS = docs
$(VENV)/.demo $(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing leadline[$(EXTRAS)] (the first time takes a minute or two: torch is large) ..."
	@$(INSTALL) --editable ".[$(EXTRAS)]" </dev/null
	@touch $@

demo: $(VENV)/.demo
	@echo; echo "A healthy network: GPT-2, as the transformers library initializes it."
	@echo "\$$ leadline check $(DEMO)"
	@$(BIN)/leadline check $(DEMO); status=$$?; \
	echo "exit code $$status (0 = healthy)"; test $$status -eq 0
	@echo; echo "A broken network: forty tanh layers with PyTorch's default initialization."
	@echo "\$$ leadline check examples/deep_tanh.py:build"
	@$(BIN)/leadline check examples/deep_tanh.py:build; status=$$?; \
	echo "exit code $$status (1 = unhealthy, as it should be here)"; test $$status -eq 1

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_FLAGS)

slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Built docs/_build/html/index.html"

bench:
	@echo "The benchmarks are plain scripts; each prints its own table and says what it costs:"
	@for script in benchmarks/[a-z]*.py; do \
	  if [ -e "$$script" ]; then echo "  $(BIN)/python $$script --help"; fi; done
	@test -e $(VENV)/.test || echo "They need the test set-up: run 'make test' once."

clean:
	rm -rf $(VENV) build dist docs/_build docs/reference/rooms .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
