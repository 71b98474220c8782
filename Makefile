# Everything here works from a bare clone on a machine with only python3 (3.11 or newer).
# PYTHON=/path/to/python names another interpreter.

PYTHON ?= python3
NEWEST_PYTHON ?= python3.13
VENV ?= .venv
VENV_NEWEST ?= .venv-newest
OUT ?= demo-report
WORKERS ?= 2

BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
EDITABLE := --no-build-isolation --editable

.DELETE_ON_ERROR:
.PHONY: help demo test test-newest lint format docs dist-check bench evidence census train constraints clean clean-venv

help:
	@echo "make demo         explain the bundled images; writes $(OUT)/"
	@echo "make test         the whole test suite"
	@echo "make test-newest  tests/core on NEWEST_PYTHON with the newest JAX"
	@echo "make lint         ruff, pyright, import-linter"
	@echo "make format       let ruff mend what it can"
	@echo "make docs         the documentation; a warning is an error"
	@echo "make dist-check   wheel and sdist, built and installed in a clean environment"
	@echo "make bench        time, FLOPs and memory (ARGS='...' are passed on)"
	@echo "make evidence     all methods on all planted tasks; writes docs/explanation/evidence.md"
	@echo "make census       276 models of many libraries (ARGS='--only GLOB')"
	@echo "make constraints  pin what $(VENV) holds in constraints.txt"
	@echo "make clean        remove outputs and caches (clean-venv: the environments)"

demo: $(VENV)/.installed-demo
	$(BIN)/relprop demo --out $(OUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-newest: $(VENV_NEWEST)/.installed-test-core
	$(VENV_NEWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not frameworks" tests/core $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! grep -rn --include='*.py' 'jax\._src' src || { echo "src must not use jax._src"; exit 1; }
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

dist-check: $(VENV)/.ready
	PYTHON=$(BIN)/python bash scripts/check_distributions.sh

bench: $(VENV)/.installed-demo
	$(BIN)/python -m benchmarks $(ARGS)

# Goes on where it was broken off; nice, since it takes minutes.
evidence: $(VENV)/.installed-demo
	nice $(BIN)/python -m evidence $(ARGS)

# KerasHub and Equimo would bring TensorFlow and CUDA; the models need neither.
census: $(VENV)/.installed-test
	$(BIN)/python $(PIP_INSTALL) --no-deps -r census/requirements.txt
	$(BIN)/python -m census --workers $(WORKERS) $(ARGS)

# All extras must be in the environment, so that each of them gets pinned.
constraints: $(addprefix $(VENV)/.installed-,test docs lint peers cluster)
	$(BIN)/python scripts/constraints.py > constraints.new
	mv constraints.new constraints.txt
	touch $(VENV)/.ready $(VENV)/.installed-*

# The build backend is installed first and from the same pins, hence --no-build-isolation.
$(VENV)/.ready: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("relprop needs Python 3.11 or newer, this is " + sys.version + "\nTry: make PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt hatchling hatch-vcs
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt $(VENV)/.ready
	@echo "Installing relprop[$*] into $(VENV): the first time this takes a few minutes."
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt $(EDITABLE) '.[$*]'
	@touch $@

$(VENV_NEWEST)/.installed-%: pyproject.toml constraints-newest.txt
	$(NEWEST_PYTHON) -m venv $(VENV_NEWEST)
	$(VENV_NEWEST)/bin/python $(PIP_INSTALL) -c constraints-newest.txt hatchling hatch-vcs
	$(VENV_NEWEST)/bin/python $(PIP_INSTALL) -c constraints-newest.txt $(EDITABLE) '.[$*]'
	@touch $@

clean:
	rm -rf $(OUT) app-screenshots evidence-report docs/_build build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache .jax_cache
	find src tests docs scripts benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-venv:
	rm -rf $(VENV) $(VENV_NEWEST)
