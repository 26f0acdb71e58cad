# fsskit: `make demo` and `make test` are the two commands to know; the others are listed by `make`.
PYTHON ?= python3
VENV   := .venv/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help env demo test lab export clean-notebooks readme train hooks

help: ## list the commands
	@echo "make TARGET [PYTHON=python3.11] [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## make .venv (plain pip, development packages, the project editable); nothing when it is fresh
	@$(PYTHON) tools/env.py dev

demo: env ## segment real photos with the shipped encoder; pictures and a table in demo_output/
	@$(VENV)/python tools/demo.py $(ARGS)

test: env ## everything that CI runs; ARGS='--only export', ARGS=--keep-going, ARGS=--list
	@$(VENV)/python tools/check.py $(ARGS)

lab: env ## open JupyterLab on the notebooks
	@cd nbs && ../$(VENV)/jupyter lab $(ARGS)

export: env ## notebooks -> fsskit/ and README.md
	@$(VENV)/nbdev_export
	@$(VENV)/python tools/build_readme.py

clean-notebooks: env ## take execution counts and editor metadata out of the notebooks; outputs stay
	@$(VENV)/nbdev_clean

readme: env ## nbs/index.ipynb -> README.md
	@$(VENV)/python tools/build_readme.py

train: env ## train the embedded encoder on a folder of photos: make train ARGS='--photos DIR --teacher FILE --out DIR' (long)
	@MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
	$(VENV)/fsskit train-encoder $(ARGS)

hooks: env ## check notebooks and exports at every commit (pre-commit)
	@$(VENV)/pre-commit install
