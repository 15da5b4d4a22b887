# Everything a reader, runner or teacher does with this course. Needs Python 3.11+, make and git.
#   make book TORCH_INDEX=https://download.pytorch.org/whl/cpu   takes a CPU build of torch
#   make book PYTHON=python3.12                                  builds .venv with that Python

VENV ?= .venv
PY = $(VENV)/bin/python
export VENV PYTHON TORCH_INDEX TRUST TEACHER ASSIGNMENTS SANDBOX_IMAGE
# Whichever environment happens to be active, .venv is used.
unexport VIRTUAL_ENV

# Parallelism comes from processes: torch's spinning threads slow each other down on busy cores.
book test test-slow notebooks expected bench reproduce grid grade: export OMP_NUM_THREADS = 1
book test test-slow notebooks expected bench reproduce grid: export OMP_WAIT_POLICY = PASSIVE
# No progress bar where lessons run unwatched: its text differs from run to run.
test test-slow: export TQDM_DISABLE = 1

# Snakemake would downgrade packages of the course, so it lives apart.
CLUSTER = .venv-cluster

PYTEST = "$(PY)" -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help env book instructor test test-slow lab notebooks expected bench reproduce grid lock
.PHONY: release samples grade feedback grades student clean distclean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

env:  ## create .venv from requirements.lock (the other targets do this themselves)
	@sh book/_tools/env.sh

book: env  ## run the lessons that changed and build the site into _build/html
	@"$(PY)" book/_tools/build.py

instructor: env  ## build the teacher's kit into _build/instructor: plans, polls, slides, syllabi
	@"$(PY)" book/_tools/instructor.py

test: env  ## run all tests, the lessons and the book's build included
	$(PYTEST) --nbval --nbval-current-env --nbval-cell-timeout 300 tests $(wildcard lessons)

test-slow: env $(CLUSTER)/complete  ## run the slow checks: other thread counts and processors, MNIST
	$(PYTEST) -m slow tests

lab: env  ## open JupyterLab on the lessons
	"$(PY)" -m jupyterlab lessons

notebooks: env  ## run again the stored notebooks whose library or versions changed
	@"$(PY)" book/_tools/execute.py --refresh

expected: env  ## compute the lessons' expected values and tolerances anew (five seeds)
	@"$(PY)" book/_tools/expected.py

bench: env  ## time training steps: SA-VAE against finite differences, others against floors
	@"$(PY)" benchmarks/semi_amortized.py
	@"$(PY)" benchmarks/iterative.py
	@"$(PY)" benchmarks/device.py

reproduce: env  ## run a table's rows: EXPERIMENT=avi-saw TIER=full ROWS='p*' SEEDS=5 DEVICE=cuda TOGETHER=2
	@"$(PY)" -m avi.reproduce $(or $(EXPERIMENT),--list) --tier $(or $(TIER),smoke) \
		--rows "$(or $(ROWS),*)" --seeds $(or $(SEEDS),1) \
		--device $(or $(DEVICE),auto) --together $(or $(TOGETHER),1)

grid: PROFILE ?= local
grid: env $(CLUSTER)/complete  ## the same rows as jobs: PROFILE=local or slurm, or a folder of your own
	@"$(CLUSTER)/bin/snakemake" --snakefile reproduction/cluster/Snakefile \
		--workflow-profile $(or $(wildcard reproduction/cluster/$(PROFILE)),$(PROFILE)) \
		--config "python=$(abspath $(PY))" "experiment=$(EXPERIMENT)" "tier=$(or $(TIER),smoke)" \
		"rows=$(or $(ROWS),*)" "seeds=$(or $(SEEDS),1)"

$(CLUSTER)/complete: reproduction/cluster/requirements.lock
	"$(PY)" -m venv --clear $(CLUSTER)
	$(CLUSTER)/bin/python -m pip install --quiet --requirement $<
	touch $@

CLASSROOM = "$(PY)" -m avi_classroom

release: env  ## write an assignment's notebook for students: A=elbo
	@$(CLASSROOM) release "$(A)"

samples: env  ## write three made-up submissions to try the grading with: A=elbo
	@$(CLASSROOM) samples "$(A)"

grade: env  ## grade a folder of submissions: A=elbo SUBMISSIONS=folder (TRUST=yes: no sandbox)
	@$(CLASSROOM) grade "$(A)" "$(SUBMISSIONS)" $(if $(AGAIN),--again)

feedback: env  ## write each student's page of feedback: A=elbo
	@$(CLASSROOM) feedback "$(A)"

grades: env  ## write all grades into a table: CSV=grades.csv
	@$(CLASSROOM) grades "$(or $(CSV),grades.csv)"

student: env  ## export what is stored about a student: ID=s01 (DELETE=yes: and delete it)
	@$(CLASSROOM) student "$(ID)" $(if $(filter yes,$(DELETE)),--delete)

lock: env  ## choose new versions: requirements.lock and environment.yml from pyproject.toml
	@"$(PY)" book/_tools/lock.py

clean:  ## remove what was built and cached, but not .venv
	rm -rf _build .pytest_cache .ruff_cache .coverage htmlcov lib/*.egg-info
	find $(wildcard book lessons lib tests) \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf "$(VENV)" $(CLUSTER)
