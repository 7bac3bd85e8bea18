#!/usr/bin/env bash
# From nothing to a policy that learnt: makes .venv, installs, trains on the phantom world on this machine's CPU.
#   bash launch/quickstart.sh [key=value ...]        e.g. training.steps=20 run.name=first
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" ""
"${reflex[@]}" train configs/phantom.yaml run.name=quickstart evidence.every=10 "$@"
