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

# Training: every weight file of weights/ from nothing, in the order in which they need each other. Hours on a CPU. Interrupt it
# and say `make train` again with the same words: finished parts are kept, the others go on at their last checkpoint.
#   PHOTOS   folders of photos, for the encoder          TEACHER  mobilenetv2_100 under the names of timm, .safetensors
#   DATA     photos with masks: coco:DIR folder:DIR ...  OUT      folder for checkpoints, logs, weights and model cards
#   BACKDROPS  (optional) photos without masks: folders of them; objects are pasted onto these too
#   EXCLUDE  list of photos that no training may see     NOTE, TEACHER_NOTE  licences and origins, for the cards
#   ENCODER_ARGS, SAM_ARGS, SAM2_ARGS, SAM2_LARGE_ARGS   more options, see `fsskit train-encoder --help` and so on
OUT             ?= data/cache/train
EXCLUDE         ?= data/splits/heldout_photos.txt
SAM2_LARGE_ARGS ?= --steps 600 --batch 4 --lr 3e-4
TRAINED         := encoder/embedded_vit sam/sam_tiny sam2_small/sam2_tiny sam2/sam2_tiny

# the C library keeps its memory: half the time of a step on two cores
FAST   = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=500000000 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
RESUME = $(if $(wildcard $(@D)/checkpoint.pt),--resume $(@D)/checkpoint.pt)
COMMON = --out $(@D) --exclude $(EXCLUDE) $(if $(NOTE),--data-note '$(NOTE)') $(RESUME)
CUT    = $(patsubst %,--data %,$(DATA)) $(patsubst %,--backdrops %,$(BACKDROPS))

train: env ## make all embedded weights: make train PHOTOS='DIR ...' TEACHER=FILE DATA='coco:DIR ...' (hours)
	@$(if $(and $(PHOTOS),$(TEACHER),$(DATA)),,$(error make train needs PHOTOS='DIR ...' TEACHER=FILE DATA='coco:DIR ...'))
	@$(MAKE) --no-print-directory $(TRAINED:%=$(OUT)/%.safetensors)

$(OUT)/encoder/embedded_vit.safetensors:
	@$(FAST) $(VENV)/fsskit train-encoder $(patsubst %,--photos %,$(PHOTOS)) --teacher $(TEACHER) $(COMMON) \
	$(if $(TEACHER_NOTE),--teacher-note '$(TEACHER_NOTE)') $(ENCODER_ARGS)
	@cp $@ $(@:.safetensors=.md) weights/

$(OUT)/sam/sam_tiny.safetensors: | $(OUT)/encoder/embedded_vit.safetensors
	@$(FAST) $(VENV)/fsskit train-sam $(CUT) $(COMMON) $(SAM_ARGS)
	@cp $@ $(@:.safetensors=.md) weights/

$(OUT)/sam2_small/sam2_tiny.safetensors: | $(OUT)/encoder/embedded_vit.safetensors
	@$(FAST) $(VENV)/fsskit train-sam2 $(CUT) $(COMMON) $(SAM2_ARGS)

$(OUT)/sam2/sam2_tiny.safetensors: | $(OUT)/sam2_small/sam2_tiny.safetensors
	@$(FAST) $(VENV)/fsskit train-sam2 $(CUT) $(COMMON) --init $(firstword $|) --size 256 $(SAM2_LARGE_ARGS)
	@cp $@ $(@:.safetensors=.md) weights/

hooks: env ## check notebooks and exports at every commit (pre-commit)
	@$(VENV)/pre-commit install
