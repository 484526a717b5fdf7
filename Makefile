# memoryd: set-up, checks and the demo. Needs Python >= 3.11 with pip; installs only below this folder,
# except for the model's weights, which go into the user's cache folder. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PROTO_BIN := .venv-proto/bin
PROTO_INSTALLED := .venv-proto/.installed

.PHONY: help setup weights demo test chaos chaos-cluster fuzz lint proto proto-check bench results clean
.NOTPARALLEL:

help:
	@echo "make setup        a virtual environment in .venv with everything, and the model's weights"
	@echo "make demo         tell it facts, stream a book past it, kill it, ask it (10 minutes or less)"
	@echo "make test         every test"
	@echo "make chaos        sessions while daemons and Redis fail at random; SECONDS_TO_RUN=60 SEED=1"
	@echo "make chaos-cluster   the same on a Redis Cluster of six nodes, whose primaries are killed"
	@echo "make fuzz         bytes and calls that nobody meant; CASES=10000 SEED=1"
	@echo "make lint         formatting, types, the direction of imports, and whether the stubs are current"
	@echo "make proto        regenerate the gRPC stubs"
	@echo "make bench        the benchmarks; their figures go to bench/results and docs/results"
	@echo "make results      what the default model remembers, measured on texts in DATA=FOLDER, and its page; goes on"
	@echo "make clean        remove what the targets above made in this folder"

setup: weights

# Makes the virtual environment $(1). Debian splits ensurepip off; there the interpreter's own pip fills it.
define environment
test -x $(1)/bin/pip || $(PYTHON) -m venv $(1) 2>/dev/null || { \
  $(PYTHON) -m venv --clear --without-pip $(1) && \
  $(PYTHON) -m pip --python $(1)/bin/python install --quiet pip; }
endef

# A stamp, so that a second run costs nothing and a changed pin installs again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "memoryd needs Python 3.11 or newer, and '$(PYTHON)' is not one."; \
	  echo "Install one, or name it: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing Python packages into .venv: a download of about 0.5 GB with PyTorch's CPU build."
	@echo "(PyPI's PyTorch for x86-64 Linux brings CUDA, several GB; docs/operations.md tells how to get the CPU build.)"
	@$(call environment,.venv)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	  -c constraints.txt -e '.[daemon,dev]'
	@touch $@

# The weights lie outside this folder, so no stamp here can vouch for them; pulling checks what it finds.
weights: $(INSTALLED)
	@$(BIN)/memoryd model pull

demo: weights
	@$(BIN)/python examples/demo.py

# A test that failed is run once more, by itself, and named: daemons and servers die on purpose here,
# on machines that others share. What fails twice fails the run.
test: weights
	@$(BIN)/python -m pytest -q || { test $$? -eq 1 && echo "Once more, what failed:" && \
	  $(BIN)/python -m pytest -q -rA --last-failed --last-failed-no-failures none && \
	  echo "FLAKY: the tests just listed failed before they passed. Mend them."; }

# The seed is printed first; without SEED one is drawn.
SECONDS_TO_RUN ?= 60
chaos: $(INSTALLED)
	@PYTHONPATH=tests $(BIN)/python -m chaos --seconds $(SECONDS_TO_RUN) $(if $(SEED),--seed $(SEED))

chaos-cluster: $(INSTALLED)
	@PYTHONPATH=tests $(BIN)/python -m chaos.cluster --seconds $(SECONDS_TO_RUN) $(if $(SEED),--seed $(SEED))

CASES ?= 10000
fuzz: $(INSTALLED)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

lint: $(INSTALLED) proto-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd examples && ../$(BIN)/mypy --strict *.py
	cd bench && ../$(BIN)/mypy --strict *.py
	$(BIN)/lint-imports

$(PROTO_INSTALLED): proto/requirements.txt
	@$(call environment,.venv-proto)
	$(PROTO_BIN)/python -m pip install --disable-pip-version-check --quiet -r proto/requirements.txt
	@touch $@

proto: $(PROTO_INSTALLED)
	$(PROTO_BIN)/python proto/generate.py

proto-check: $(PROTO_INSTALLED)
	$(PROTO_BIN)/python proto/generate.py --check

bench: weights
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/ingest.py
	$(BIN)/python bench/speed_table.py

# Hours. What is in docs/results/memory.jsonl is not measured again; without DATA only the page is written.
# MODELS="--model NAME=FOLDER ..." adds the models that the plan compares with.
results: weights
	@$(BIN)/python bench/results.py $(if $(DATA),--data $(DATA)) $(MODELS)

clean:
	rm -rf .venv .venv-proto build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "The weights stay in the cache folder that \`memoryd model info\` names."
