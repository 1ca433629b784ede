# Everything sets itself up: `make study` on a fresh clone creates .venv, installs the pinned versions and runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
BIN := .venv/bin
INSTALLED := .venv/installed
SHELL := bash
STUDY ?= quick
# those that keep little of what takes long: a second time in `make bench`
ONCE ?= 06-validate-on-real-lenses 09-from-one-telescope-to-another 11-fit-real-lenses 12-detectability 13-subhalos-in-a-sample
TWO := -n 2 --dist loadfile --no-loadscope-reorder --durations=20  # two processes; one file stays in one
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# One thread a process and as many processes as cores: two threads of torch stall whenever anything else runs.
export OMP_NUM_THREADS = 1
# Where this is set, every process compiles PyTorch anew: ten seconds and more for each of some hundred.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install study test lab bench reports docs notebooks lint clean help

help:
	@echo "make install  set up .venv, which every other target does by itself"
	@echo "make study    run params/$(STUDY).yml and write reports/$(STUDY)/index.html (STUDY=name for another)"
	@echo "make test     all tests but the slow ones, and the notebooks from top to bottom, most of them twice"
	@echo "make test-slurm  a study on a real SLURM, where slurmd is installed"
	@echo "make lab      open the notebooks in JupyterLab"
	@echo "make bench    types, the slow tests and every notebook twice, then speed measured side by side with the alternatives"
	@echo "make reports  render the reports of finished studies again"
	@echo "make docs     build the site of documents, notebooks and reference reports: site/index.html"
	@echo "make notebooks  run the notebooks with their defaults and keep the outputs that the tests compare"
	@echo "make lint     check style"
	@echo "make typecheck  check types"
	@echo "make compat   all tests on another Python (PYTHON=/path/to/python3.13) or with the newest packages (NEWEST=1)"
	@echo "make clean    remove .venv and caches (runs/ and reports/ stay)"

install: $(INSTALLED)

study: $(INSTALLED)
	$(BIN)/lensstudy run params/$(STUDY).yml

test: $(INSTALLED)  # notebooks wait for their kernels half of the time, so they are validated beside the tests
	@$(MAKE) --no-print-directory --jobs 2 test-package test-notebooks

test-package: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO)

test-notebooks: $(INSTALLED)
	LENSSTUDY_BATCH=1 LENSSTUDY_HOME="$$(mktemp -d)" $(BIN)/python -m pytest -p no:cacheprovider -p tests.twice \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval-sanitize.cfg notebooks $(if $(strip $(ONCE)),--once $(ONCE))

test-slurm: $(INSTALLED)
	$(BIN)/python -m pytest -p no:cacheprovider --durations=0 tests/slurm_acceptance.py

lab: $(INSTALLED)  # lands on the list of notebooks: Markdown opens as a page, not as source
	$(BIN)/jupyter lab notebooks --LabApp.app_settings_dir='$(CURDIR)/workflow/jupyterlab' --LabApp.default_url=/lab/tree/README.md

bench: $(INSTALLED)
	$(MAKE) --no-print-directory typecheck
	$(MAKE) --no-print-directory test-notebooks ONCE=
	$(BIN)/python -m pytest -m slow --durations=0
	$(BIN)/python -m pytest tests/test_faults.py --hypothesis-profile=many
	$(BIN)/python -m tests.benchmarks

reports: $(INSTALLED)
	$(BIN)/lensstudy report

# The site is built without PyTorch and the package, in an environment of its own.
SITE_TOOLS := build/docs
docs: $(SITE_TOOLS)/installed
	rm -rf build/site
	$(SITE_TOOLS)/bin/sphinx-build --quiet --fail-on-warning -d build/doctrees --fresh-env -c docs . build/site
	rm -rf site && mv build/site site
	@echo "Open site/index.html, or give site/ to any static host."

$(SITE_TOOLS)/installed: pyproject.toml constraints.txt
	@echo "Installing Sphinx and what it needs into $(SITE_TOOLS), once: 250 MB on the disk."
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make docs needs Python 3.11; say make docs PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(SITE_TOOLS)
	$(SITE_TOOLS)/bin/pip install --quiet --constraint constraints.txt $$($(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

notebooks: $(INSTALLED)
	$(BIN)/python tests/refresh_notebooks.py

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf .venv .pytest_cache .ruff_cache

# uv installs in a quarter of pip's time, and takes PyTorch for this machine's GPU or, without one, for its processor: pip on
# Linux takes the one for CUDA. Where a wheel is at hand both take that. pip does it where uv cannot be had, or cannot reach
# what it needs; of what it prints, the large downloads are shown. A module is compiled when it is first imported: pip would
# compile all 20,000 one after the other.
UV := $(or $(shell command -v uv),build/uv/bin/uv)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
WITH_UV := $(UV) pip install --python $(BIN)/python $(if $(UV_FIND_LINKS),,--torch-backend auto)
WITH_PIP := $(BIN)/pip install --no-compile
PINNED := --constraint constraints.txt --editable '.[test]'
SHOWN := awk 'BEGIN {"grep -c == constraints.txt" | getline total} /\.(whl|gz) \(/ {n++} /\.(whl|gz) \(.* MB\)/ {print "  " n " of " total, $$0} \
	/^Installing/ {print "  unpacking ..."} {fflush()}'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("lensstudy needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; say make PYTHON=/path/to/python3.11" % v)'
	@echo "Installing the versions of constraints.txt into .venv, once: 0.6 GB to download, 2.5 GB on the disk, 1 to 5 minutes."
	$(PYTHON) -m venv .venv
	@test -z "$(UV)" || test -x "$(UV)" || $(BIN)/pip install --quiet --target build/uv uv==0.13.9 || true
	@set -o pipefail; began=$$(date +%s); { test -n "$(UV)" && $(WITH_UV) $(PINNED); } || \
		{ echo "Without uv, then, by pip. On Linux it takes PyTorch for NVIDIA GPUs, 2.5 GB more to download."; \
		$(WITH_PIP) $(PINNED) | $(SHOWN); } && \
		echo "Installed in $$(($$(date +%s) - began)) s; .venv takes $$(du -sh .venv | cut -f 1)."
	@touch $@

.PHONY: typecheck compat test-package test-notebooks test-slurm

typecheck: $(INSTALLED)
	$(BIN)/python -m mypy

# All tests in an environment of their own: with another PYTHON, or with NEWEST=1 without the pins.
COMPAT := build/compat$(if $(NEWEST),-newest)
compat:
	$(PYTHON) -m venv --clear $(COMPAT)
	$(COMPAT)/bin/pip install --quiet $(if $(NEWEST),,--constraint constraints.txt) --editable '.[test]'
	$(if $(NEWEST),PYTEST_ADDOPTS="$(addprefix --deselect tests/test_project.py::test_,what_is_installed_is_what_is_pinned the_pins_are_all_that_is_needed)") \
		$(MAKE) test BIN=$(COMPAT)/bin INSTALLED=
