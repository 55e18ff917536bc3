# make demo | test | lint | bench | soak | docs | page | wheel | sbom | audit | constraints | lock | clean | distclean
#
# PYTHON  the interpreter to build the environment with (3.11 or newer)
# VENV    where the environment is
# ARGS    passed on: make test ARGS='-k geometry -x', make demo ARGS=--real
# WORKERS how many run the tests beside each other; 0 for a debugger

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# One line for each package fetched or built, instead of pip's hundreds or of silence.
define SHOW
import sys; words = ("Downloading", "Using cached", "Processing", "Building", "Installing", "ERROR"); \
[print("  " + line.strip()[:96], flush=True) for line in sys.stdin if line.lstrip().startswith(words)]
endef

.PHONY: help demo test lint bench soak docs page wheel sbom audit constraints lock clean distclean

help:
	@sed -n '1,6s/^# \{0,1\}//p' Makefile

# ---- the environment: two stamps, so that nothing is installed twice --------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("beph-store needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo "creating the environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing beph-store[cpu] into $(VENV) (about 0.4 GB to fetch, the first time)"
	@set -o pipefail; $(PIP) install -c constraints.txt -e '.[cpu]' | $(BIN)/python -c '$(SHOW)'
	@touch $@

# Where requirements.lock is for this platform, every file is compared with its hash, and nothing else is installed.
$(VENV)/.dev: pyproject.toml constraints.txt requirements.lock .ci/lock.py | $(BIN)/python
	@echo "installing beph-store[dev] into $(VENV) (torch too: on Linux several GB, the first time)"
	@set -o pipefail; if $(BIN)/python .ci/lock.py fits; then echo "by requirements.lock, with hashes"; \
	  $(PIP) install --require-hashes --no-deps -r requirements.lock | $(BIN)/python -c '$(SHOW)' \
	  && $(PIP) install --no-deps --no-build-isolation -e . | $(BIN)/python -c '$(SHOW)' && $(PIP) check; \
	  else echo "by constraints.txt: requirements.lock is for another platform"; \
	  $(PIP) install -c constraints.txt -e '.[dev]' | $(BIN)/python -c '$(SHOW)'; fi
	@touch $(VENV)/.cpu $@

# ---- the words --------------------------------------------------------------------------------

demo: $(VENV)/.cpu
	@$(BIN)/beph-store demo $(ARGS)

test: $(VENV)/.dev
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/.dev
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

# Half an hour of faults, broken slides and crowds; counts go to benchmarks/results/reliability.json.
soak: $(VENV)/.dev
	@$(BIN)/python benchmarks/soak.py $(ARGS)

# The documentation as a site in build/site; a link that leads nowhere is an error.
docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --site-dir build/site

# The page of `beph-store serve`, from TypeScript: only to work on it, or to make a wheel.
PAGE := beph_store/serve/page

page:
	@command -v npm > /dev/null && node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a == 22 && b >= 12) || (a == 20 && b >= 19) ? 0 : 1)' \
	  || { echo "make page needs node 20.19 or newer with npm: https://nodejs.org, or your package manager"; exit 1; }
	@cd $(PAGE) && npm ci --no-audit --no-fund && npm run build

wheel: | $(BIN)/python
	@test -f beph_store/serve/assets/index.html || echo "note: the page is not built, so the wheel will serve only the API: make page first"
	@rm -rf build dist
	@$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

# What the wheel brings, within it and beside it, as CycloneDX with the hashes of files.
sbom: $(VENV)/.dev
	@mkdir -p dist && wheel=$$(ls dist/*.whl 2> /dev/null | tail -n 1); \
	  $(BIN)/python .ci/sbom.py --extra cpu --extra serve --extra train $${wheel:+--wheel "$$wheel"} -o dist/sbom.json

# Known vulnerabilities of what is pinned. Exit code 2 where the advisory data cannot be had: that is no audit.
audit:
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit \
	  && build/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit; }
	@$(PYTHON) .ci/audit.py build/audit/bin/pip-audit

constraints:
	@rm -rf build/freeze && $(PYTHON) -m venv build/freeze
	@set -o pipefail; build/freeze/bin/python -m pip --disable-pip-version-check install '.[dev]' | $(PYTHON) -c '$(SHOW)'
	@{ sed -n '/^#/p' constraints.txt; build/freeze/bin/python -m pip freeze \
	  | sed -n 's/^\([A-Za-z0-9._-]*==[^+ ]*\).*/\1/p' | sed '/^beph-store==/d'; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/freeze && git diff --stat constraints.txt
	@$(MAKE) --no-print-directory lock

# The same versions with the SHA-256 of each file, for this platform. setuptools before 82 still brings pkg_resources.
lock:
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet --upgrade pip
	@build/lock/bin/python -m pip install --quiet --dry-run --ignore-installed --report build/lock/report.json \
	  -c constraints.txt '.[dev]' 'setuptools>=77,<82'
	@build/lock/bin/python .ci/lock.py write build/lock/report.json > build/requirements.lock
	@mv build/requirements.lock requirements.lock && rm -rf build/lock && git diff --stat requirements.lock

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find beph_store cli kernels benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) demo $(PAGE)/node_modules beph_store/serve/assets
