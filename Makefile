# make demo: trains on digits, evaluates, samples.   make test: every check.
# make docs: the pages as a site, in site/.
# All set up .venv first, and do no work twice.

# The first of these that runs and is a version that is supported.
CHECK := import sys; (3, 11) <= sys.version_info < (3, 14) and print(sys.executable)
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c '$(CHECK)' 2>/dev/null)))

BIN := .venv/bin
SEED ?= 0
LIKELIHOOD := outputs/digits_likelihood/seed_$(SEED)
SAMPLES := outputs/digits_samples/seed_$(SEED)
GUIDANCE := 1
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test docs format clean
.SECONDARY: # keep what rules make on the way

demo: $(LIKELIHOOD)/evaluation/likelihood/report.json $(SAMPLES)/evaluation/samples/report.json $(SAMPLES)/samples/grid.png
	@$(BIN)/python scripts/summary.py $(LIKELIHOOD) $(SAMPLES)

%/evaluation/likelihood/report.json: %/pretrained/model.safetensors
	$(BIN)/tarflow evaluate checkpoint=$* data=digits

%/evaluation/samples/report.json: %/pretrained/model.safetensors
	$(BIN)/tarflow evaluate checkpoint=$* data=digits metrics=samples guidance=$(GUIDANCE)

%/samples/grid.png: %/pretrained/model.safetensors
	$(BIN)/tarflow sample checkpoint=$* num_samples=100 guidance=$(GUIDANCE) columns=10 data=digits overwrite=true

# Training stops at a kill and goes on at the next make: the last step writes this file.
outputs/%/seed_$(SEED)/finished: .venv/installed
	$(BIN)/tarflow train experiment=$* seed=$(SEED)
	@touch $@

outputs/%/seed_$(SEED)/pretrained/model.safetensors: outputs/%/seed_$(SEED)/finished
	@test -f $@ && touch $@

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/pytest $(PARALLEL)

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error tarflow needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=...))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv outputs build dist
