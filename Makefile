# fsskit: `make demo` and `make test` are the two commands to know; the others are listed by `make`.
PYTHON ?= python3
VENV   := .venv/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help env demo test lab export clean-notebooks readme mutants release grade selftest style site screenshots train hooks

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
	@$(VENV)/python tools/strip_widgets.py

readme: env ## nbs/index.ipynb -> README.md
	@$(VENV)/python tools/build_readme.py

mutants: env ## wrong versions of the code, which tests must notice (minutes); ARGS='correlation --jobs 2', ARGS=--list
	@$(VENV)/python tools/mutants.py $(ARGS)

release: env ## problem sets for students, without solutions, into assignments/release/; ARGS='--set ps1 --out DIR'
	@$(VENV)/python assignments/course.py release $(ARGS)

grade: env ## mark a folder of submissions: ARGS='ps1 FOLDER --out DIR --secret FILE'
	@$(VENV)/python assignments/course.py grade $(ARGS)

selftest: env ## prove the grader: right, wrong, empty and hostile submissions, exact marks (minutes); ARGS='--set ps1 --quick'
	@$(VENV)/python assignments/course.py selftest $(ARGS)

style: env ## how long, how wordy, how illustrated each notebook is: benchmarks/results/style.md; ARGS=--strict
	@$(VENV)/python tools/style_table.py $(ARGS)

site: env ## the documentation site, offline, into _docs/; ARGS=--live makes the live pages first
	@$(VENV)/python tools/build_site.py $(ARGS)

screenshots: env ## each widget as Chromium shows it, into nbs/images/
	@$(VENV)/python tools/screenshots.py $(ARGS)

# Training: every weight file of weights/ from nothing, in the order in which they need each other. Hours on a CPU. Interrupt it
# and say `make train` again with the same words: finished parts are kept, the others go on at their last checkpoint.
#   PHOTOS   folders of photos, for the encoder          TEACHER  mobilenetv2_100 under the names of timm, .safetensors
#   DATA     photos with masks: coco:DIR folder:DIR ...  OUT      folder for checkpoints, logs, weights and model cards
#   BACKDROPS  (optional) photos without masks: folders of them; objects are pasted onto these too
#   EXCLUDE  list of photos that no training may see     NOTE, TEACHER_NOTE  licences and origins, for the cards
#   ENCODER_ARGS, SAM_ARGS, SAM_CLOSE_ARGS, SAM2_ARGS, SAM2_LARGE_ARGS, ADAPTER_ARGS, FS_DINO_ARGS, FSSAM_ARGS   more, see
#                          `fsskit train-encoder --help`, `fsskit distill --help`, `fsskit train --help` and so on
OUT             ?= data/cache/train
EXCLUDE         ?= data/splits/heldout_photos.txt
SAM_CLOSE_ARGS  ?= --close .35 --steps 2000 --lr 4e-4
SAM2_LARGE_ARGS ?= --steps 600 --batch 4 --lr 3e-4
FS_DINO_ARGS    ?= --variant matched
FSSAM_ARGS      ?= --lr 2e-4
TRAINED         := encoder/embedded_vit sam_wide/sam_tiny sam/sam_tiny sam2_small/sam2_tiny sam2/sam2_tiny adapter/adapter_embedded \
                   fs_dino/head fssam/head

# the C library keeps its memory: half the time of a step on two cores
FAST   = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
RESUME = $(if $(wildcard $(@D)/checkpoint.pt),--resume $(@D)/checkpoint.pt)
COMMON = --out $(@D) --exclude $(EXCLUDE) $(if $(NOTE),--data-note '$(NOTE)') $(RESUME)
SHOWN  = $(patsubst %,--photos %,$(PHOTOS)) $(COMMON)
SETS   = $(patsubst %,--data %,$(DATA)) $(COMMON)
CUT    = $(SETS) $(patsubst %,--backdrops %,$(BACKDROPS))
# weights and card into weights/, under the name $1
SHIP   = cp $@ weights/$1.safetensors && sed 's/`$(@F)`/`$1.safetensors`/' $(@:.safetensors=.md) > weights/$1.md

train: env ## make all embedded weights: make train PHOTOS='DIR ...' TEACHER=FILE DATA='coco:DIR ...' (hours)
	@$(if $(and $(PHOTOS),$(TEACHER),$(DATA)),,$(error make train needs PHOTOS='DIR ...' TEACHER=FILE DATA='coco:DIR ...'))
	@$(MAKE) --no-print-directory $(TRAINED:%=$(OUT)/%.safetensors)

$(OUT)/encoder/embedded_vit.safetensors:
	@$(FAST) $(VENV)/fsskit train-encoder $(SHOWN) --teacher $(TEACHER) \
	$(if $(TEACHER_NOTE),--teacher-note '$(TEACHER_NOTE)') $(ENCODER_ARGS)
	@$(call SHIP,embedded_vit)

$(OUT)/sam_wide/sam_tiny.safetensors: | $(OUT)/encoder/embedded_vit.safetensors
	@$(FAST) $(VENV)/fsskit train-sam $(CUT) $(SAM_ARGS)

$(OUT)/sam/sam_tiny.safetensors: | $(OUT)/sam_wide/sam_tiny.safetensors
	@$(FAST) $(VENV)/fsskit train-sam $(CUT) --init $(firstword $|) $(SAM_CLOSE_ARGS)
	@$(call SHIP,sam_tiny)

$(OUT)/sam2_small/sam2_tiny.safetensors: | $(OUT)/encoder/embedded_vit.safetensors
	@$(FAST) $(VENV)/fsskit train-sam2 $(CUT) $(SAM2_ARGS)

$(OUT)/sam2/sam2_tiny.safetensors: | $(OUT)/sam2_small/sam2_tiny.safetensors
	@$(FAST) $(VENV)/fsskit train-sam2 $(CUT) --init $(firstword $|) --size 256 $(SAM2_LARGE_ARGS)
	@$(call SHIP,sam2_tiny)

$(OUT)/adapter/adapter_embedded.safetensors: | $(OUT)/sam/sam_tiny.safetensors
	@$(FAST) $(VENV)/fsskit distill $(SHOWN) $(ADAPTER_ARGS)
	@$(call SHIP,adapter_embedded)

$(OUT)/fs_dino/head.safetensors: | $(OUT)/adapter/adapter_embedded.safetensors
	@$(FAST) $(VENV)/fsskit train fs_dino $(SETS) $(FS_DINO_ARGS)
	@$(call SHIP,fs_dino_embedded)

$(OUT)/fssam/head.safetensors: | $(OUT)/sam2/sam2_tiny.safetensors
	@$(FAST) $(VENV)/fsskit train fssam $(SETS) $(FSSAM_ARGS)
	@$(call SHIP,fssam_embedded_sam2_tiny)

hooks: env ## check notebooks and exports at every commit (pre-commit)
	@$(VENV)/pre-commit install
