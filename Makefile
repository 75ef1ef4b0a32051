# Everything runs inside .venv, which `make` builds from constraints.txt; Python 3.11 or newer is all it needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-all check lint types speed torture docs wheel clean

demo: $(INSTALLED)
	$(BIN)/art-oat demo

# One process per core, each with one thread: small networks gain nothing from more, and the processes would collide.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: $(INSTALLED)
	$(PYTEST) -m 'not slow'

# With what takes more than half a second: examples, the README's code, studies, further networks. They come last, the
# longest first; with MINUTES=40, those that have not begun by then are skipped, and named.
test-all: $(INSTALLED)
	$(PYTEST) $(if $(MINUTES),--minutes $(MINUTES) -r s)

check: lint types test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Times, so with nothing else running; rows against the published code want OFFICIAL=DIR, a checkout of it.
speed: $(INSTALLED)
	$(BIN)/python -m benchmarks.speed --check $(if $(OFFICIAL),--official $(OFFICIAL))

# Kills, damaged files, a full disk, two processes in one folder; what it finds goes into docs/reliability.md.
torture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.torture

# The pages as a site, build/site/index.html, without network; a broken link fails.
docs: $(INSTALLED)
	rm -rf build/pages build/site
	mkdir -p build/pages
	cp -R README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs benchmarks examples build/pages
	$(BIN)/mkdocs build --strict

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is older. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist runs/demo runs/demo-widths .mypy_cache .pytest_cache .ruff_cache *.egg-info
