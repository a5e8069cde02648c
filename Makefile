# One thread per process: two spinning threads on a busy machine can cost ten times.
export OMP_NUM_THREADS ?= 1

.PHONY: test lint full

test:  ## what .ci/run tests: everything but `full`, minutes
	python -m pytest -n 2 -m "not full"

lint:  ## style, types and import order
	ruff check .
	ruff format --check .
	mypy
	lint-imports

full:  ## all tests, also `full` ones, then what no test holds, about an hour; writes benchmarks/full.md
	python -m pytest -n 2
	python benchmarks/full.py
