# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install test test-lowest test-python reliability lint docs docs-test docs-pictures docs-architecture families demo demo-seeds bench bench-audit bench-speed bench-methods bench-choices bench-unseen bench-sweep bench-comparisons bench-data bench-scale fuzz clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ceag needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[demo,test,lint]'
	touch $@

# Two processes with one thread each are nearly twice as fast as one with two.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site is written into site/; anything it warns of ends it.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file .mkdocs.yml

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/digits/demo.sh

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[demo,test]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile

# Another version of Python, in an environment of its own: make test-python PYTHON=python3.13
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
test-python:
	test -x .venv-$(VERSION)/bin/python || $(PYTHON) -m venv .venv-$(VERSION)
	.venv-$(VERSION)/bin/python -m pip install --quiet --editable '.[demo,test]'
	OMP_NUM_THREADS=1 .venv-$(VERSION)/bin/python -m pytest -n 2 --dist loadfile

# Longer checks; their results are in docs/.

# Kills, disturbs and repeats commands, hundreds of times; needs 8 GB of memory for 100,000,000 images.
reliability: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --thorough tests/test_interruption.py tests/test_determinism.py tests/test_counts.py

families: install
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest tests/test_families.py --every-family

# What the pages say to do, done: two minutes.
docs-test: install
	$(BIN)/python -m pytest tests/test_docs.py tests/test_recipes.py --follow-docs

docs-pictures: install docs-architecture
	rm -rf demo/tutorial && $(BIN)/python docs/.site/blocks.py demo/tutorial/digits --update
	OMP_NUM_THREADS=1 $(BIN)/python docs/.site/pictures.py demo/tutorial/digits

docs-architecture: install
	$(BIN)/python docs/.site/architecture.py

demo-seeds: install
	test -e demo/labels.csv || $(BIN)/python recipes/digits/write_digits.py demo
	cd demo && OMP_NUM_THREADS=1 ../$(BIN)/ceag sweep ../recipes/digits/seeds.yaml --jobs 2

# About half an hour on two idle cores.
bench: install
	$(BIN)/python recipes/benchmarks/steps.py
	$(BIN)/python recipes/benchmarks/steps.py --variants compute --models resnet vit
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 recipes/benchmarks/steps.py --variants ranks
	$(BIN)/python recipes/benchmarks/pruning.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/audit.py speed
	$(BIN)/python recipes/benchmarks/predictions.py

bench-audit: install
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/audit.py
	$(BIN)/python recipes/benchmarks/predictions.py
	$(BIN)/python recipes/benchmarks/shifts.py

# Needs twenty minutes, and two packages that nothing else does.
bench-speed: install
	$(BIN)/python -m pip install --quiet openvino torch-pruning
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/speed.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/channels.py

bench-methods: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/benchmarks/methods.sh demo/methods

bench-choices: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/benchmarks/methods.sh demo/methods \
		choices-hidden choices-race choices-small-groups choices-dropout

# Settings are chosen by the tuning-* recipes, and unseen-* is run once they are.
bench-unseen: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/benchmarks/methods.sh demo/methods \
		tuning-classes tuning-hidden tuning-race unseen-classes unseen-hidden unseen-race

# How far a model can be pruned, by which criterion and with which fine-tuning.
bench-sweep: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/benchmarks/methods.sh demo/methods sweep-cifar100

# A quarter of an hour.
bench-comparisons: install
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/comparisons.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/regressions.py

# A quarter of an hour, and two gigabytes of disk for a while.
bench-data: install
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/data.py

# About a quarter of an hour on idle cores, and 12 GB of memory.
bench-scale: install
	OMP_NUM_THREADS=2 $(BIN)/python recipes/benchmarks/scale.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/exemplars.py
	OMP_NUM_THREADS=1 $(BIN)/python recipes/benchmarks/exemplars.py --images 50000 --models 30

# Every reader of files for ten minutes each; needs a package that nothing else does.
FUZZ_SECONDS ?= 600
fuzz: install
	$(BIN)/python -m pip install --quiet atheris
	mkdir -p build/fuzz
	for reader in csv recipe safetensors metadata packed predictions; do \
		OMP_NUM_THREADS=1 $(BIN)/python recipes/fuzz/readers.py $$reader build/fuzz/$$reader \
			-max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ -print_final_stats=1 || exit 1; \
	done

clean:
	rm -rf demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
