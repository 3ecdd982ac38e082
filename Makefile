# Shorthand for work in .venv (README.md and CONTRIBUTING.md say how to make it); CI is `.ci/run`.
.PHONY: check format test

check:
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright --pythonpath .venv/bin/python

format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

test: check
	.venv/bin/pytest
