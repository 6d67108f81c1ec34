# Each target does its own set-up: bootstrap.py makes .venv from requirements/ when it is not there yet.
PYTHON ?= python3
RUN = $(PYTHON) bootstrap.py
COMPILE = $(RUN) python -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--extra all --group build --generate-hashes --no-annotate --custom-compile-command 'make lock'

.PHONY: run test torture check bench bare lock clean

run:  ## realise the tiny engine and print its store path
	@$(RUN)

test:  ## the tests; `make test ARGS='-m slow'` runs the long ones
	@$(RUN) test $(ARGS)

torture:  ## many drivers, one store, random kills, or power losses with ARGS='--power --minutes 60'; docs/torture.md
	@$(RUN) python tests/torture/torture.py $(ARGS)

check:  ## everything that reads the code without running it
	$(RUN) python -m ruff check .
	$(RUN) python -m ruff format --check .
	$(RUN) python -m mypy
	cd hermetic/llm/programs && ../../../.venv/bin/mypy --config-file ../../../pyproject.toml \
		--cache-dir ../../../.mypy_cache/programs --explicit-package-bases *.py
	.venv/bin/lint-imports --no-cache --no-logo

bench:  ## the figures of the project beside its peers': a table, and JSON under bench/results
	$(RUN) python -m bench $(ARGS)

bare:  ## the run command on a freshly debootstrapped Debian (root; takes minutes)
	tests/bare/try

lock:  ## resolve requirements/ anew, within pyproject.toml; `make lock ARGS=--upgrade` for newer versions
	$(COMPILE) $(ARGS) -o requirements/base.txt
	$(COMPILE) $(ARGS) --group dev --constraints requirements/base.txt -o requirements/dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
