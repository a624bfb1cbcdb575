# `make book` and `make test` need nothing but Python 3.11 to 3.13 and a network for the first set-up.

SHELL := /bin/sh
BIN := .venv/bin
PAGE := _build/html/index.html

# The first Python on the PATH that fits and can make virtual environments.
FITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	if $$p -c "$(FITS)" >/dev/null 2>&1; then echo $$p; break; fi; done)

# Compared numbers are computed in one thread, so let processes not fight for the cores.
export OMP_NUM_THREADS ?= 1

.NOTPARALLEL:
.PHONY: help book test environment data run check html lint unit notebooks pages serve wheel \
	lowest newest lock portable bench clean

# What `make test` does, each however the ones before it ended.
CHECKS := data lint check unit notebooks html pages

help:
	@echo "make book             set up, execute what is stale, build the pages, say what to open"
	@echo "make test             set up, run every check, list those that failed ($(CHECKS))"
	@echo "make run [CHAPTER=01] execute the stale chapters, or one chapter in any case"
	@echo "make check            check the stored notebooks without executing them"
	@echo "make html             build and check the pages from the stored notebooks"
	@echo "make wheel            build the library's wheel into dist/, such as for an upload to Colab"
	@echo "make lowest, newest   the unit tests with the lowest versions allowed, and the newest"
	@echo "make portable [DRAWS=10] [ONLY=name]  the tests and chapters as other processors round"
	@echo "make lock             write requirements.lock anew from requirements.txt"
	@echo "make serve            serve the built pages on http://localhost:8000 (full search)"
	@echo "make bench [ONLY=name] measure against other tools; writes tests/benchmarks/RESULTS.md"
	@echo "make clean            remove what was built (not .venv, not the data)"

book: environment data
	$(BIN)/python scripts/notebooks.py run
	@$(MAKE) --no-print-directory html
	@echo "The book is built. Open $(CURDIR)/$(PAGE)"
	@echo "(or \`make serve\`, where search also shows excerpts)"

test: environment
	@failed=; for check in $(CHECKS); do \
	echo "== make $$check"; \
	$(MAKE) --no-print-directory $$check || failed="$$failed $$check"; done; \
	if [ -n "$$failed" ]; then echo "make test: failed:$$failed"; exit 1; fi; \
	echo "make test: passed: $(CHECKS)"

environment:
	@if [ -z "$(PYTHON)" ]; then \
	echo "No Python 3.11, 3.12 or 3.13 with the venv module was found on the PATH."; \
	echo "Install one (Debian and Ubuntu: apt-get install python3 python3-venv),"; \
	echo "or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; fi
	@$(PYTHON) scripts/environment.py

data: environment
	@$(BIN)/semid data fetch ml-100k
	@$(BIN)/semid data fetch ml-1m || echo "Going on without ml-1m; what needs it says so."

run: environment
	$(BIN)/python scripts/notebooks.py run $(if $(CHAPTER),$(CHAPTER) --force)

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python scripts/copies.py check

check: environment
	$(BIN)/python scripts/notebooks.py check

unit: environment
	$(BIN)/python -m pytest tests --ignore=tests/book/test_browser.py -n 2 --dist loadfile -q --durations=25

notebooks: environment
	$(BIN)/python -m pytest --nbval notebooks -n 2 --dist loadfile -q

html: environment
	$(BIN)/python scripts/pages.py

pages: html
	$(BIN)/python -m pytest tests/book/test_browser.py -q

serve: html
	$(BIN)/python -m http.server --directory _build/html 8000

wheel: environment
	@$(BIN)/python -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation \
		-w dist .
	@ls -l dist/*.whl

# The lowest torch comes as a build for GPUs from the index: TORCH=2.13.0 takes another.
lowest newest lock:
	$(PYTHON) scripts/versions.py $@

portable: environment
	$(BIN)/python scripts/portable.py $(if $(DRAWS),--draws $(DRAWS)) $(if $(ONLY),--only $(ONLY))

# Both sides of every pair on the same number of threads: first on one, then on two.
THREADS ?= 1 2
bench: environment
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-build-isolation \
		-c requirements.txt -e ".[bench]"
	@for threads in $(THREADS); do \
	OMP_NUM_THREADS=$$threads $(BIN)/python -m pytest tests/benchmarks/bench_*.py \
		-k "$(ONLY)" -s -q --benchmark-quiet || exit 1; done

clean:
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
