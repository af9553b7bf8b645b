PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs dist clean

demo: .venv/installed
	@rm -rf runs/demo
	$(BIN)/pyro-vae train vae --out runs/demo
	$(BIN)/pyro-vae figures runs/demo
	$(BIN)/pyro-vae evaluate runs/demo

test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) types

types: .venv/tested
	$(BIN)/pyright --pythonpath $(BIN)/python

dist: .venv/tested
	@rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

docs: .venv/documented
	$(BIN)/python -m sphinx -W --keep-going -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[datasets]"
	@touch $@

.venv/tested: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

.venv/documented: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info docs/_build
