#!/usr/bin/env bash
# Runs the tests in the same .venv, with the development extras.
#   bash launch/test.sh [pytest arguments]           e.g. -k judge, or -m slow for the long checks
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "dev"
ruff check .
ruff format --check .
mypy --num-workers 2
# a file's fixtures compile once; the longest files come first (tests/conftest.py)
if [ $# -eq 0 ]; then set -- -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder; fi
exec python -m pytest -q --durations=40 "$@"
