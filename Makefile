# Everything here works on a fresh machine with Python 3.10-3.12: the environment is made first.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
STACK ?= upstream
# What is installed: demo, system (MVStylizer's processes, too), all or docs.
FOR ?= all
# cpu: PyTorch without CUDA, from TORCH_INDEX.
TORCH ?= default
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ENV = tools/env.py --stack $(STACK) --for $(FOR) --torch $(TORCH) --torch-index $(TORCH_INDEX)
RUN = $(shell $(PYTHON) $(ENV))
# Each test process uses one thread: two of them fill two cores, and sums do not depend on the host.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup python-path demo mvstylizer-system test test-slow lint format doctor docs check-docs \
	reproduce clean

help:
	@echo 'make demo         CST beside its baseline on scenes of digits: a table, a picture, curves'
	@echo 'make mvstylizer-system  cloud, two edges and a phone stylise a clip over TLS; a report'
	@echo 'make setup        create the environment      make python-path  print its interpreter'
	@echo 'make test         fast tests      make test-slow  the studies'
	@echo 'make lint         ruff, mypy      make format     let ruff rewrite'
	@echo 'make doctor       what is installed, what is wrong with it and how to repair it'
	@echo 'make docs         the documentation site, with its tutorials run      make check-docs  look at it'
	@echo 'make reproduce PLUGIN=<name>   run the claim experiments of a plugin'
	@echo 'with any of them: STACK=upstream|onedl   TORCH=cpu   FOR=demo|system|all|docs'

setup:
	@test -n "$(PYTHON)" || { echo 'no Python 3.10-3.12 found; set PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) $(ENV) > /dev/null

python-path: setup
	@echo $(RUN)

demo doctor: FOR = demo
demo: setup
	@$(RUN) projects/cst/demo.py $(ARGS)

mvstylizer-system: FOR = system
mvstylizer-system: setup
	@$(RUN) projects/mvstylizer/system_demo.py $(ARGS)

test: setup
	@$(ONE_THREAD) $(RUN) -m pytest -m 'not slow' -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup
	@$(ONE_THREAD) $(RUN) -m pytest -m slow --timeout=0 $(ARGS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: setup
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

doctor: setup
	@$(RUN) tools/doctor.py

docs: FOR = docs
docs: setup
	@OMP_NUM_THREADS=2 $(RUN) -m sphinx -W --keep-going -q -c docs -b html . build/docs $(ARGS)
	@echo 'build/docs/index.html'

check-docs: FOR = docs
check-docs: setup
	@$(RUN) docs/check_site.py $(ARGS)

reproduce: setup
	@$(RUN) projects/reproduce.py $(PLUGIN) $(ARGS)

clean:
	rm -rf build dist *.egg-info mmext/.mim .mypy_cache .ruff_cache .pytest_cache
