#!/bin/sh
# Usage: run.sh [FOLDER]. A comparison small enough to watch; paper.sh has those of the docs.
set -eu
. "$(dirname "$0")/../begin.sh"

run sltool reproduce cholesterol --arms multi single:C --seeds 2 --set training.epochs=10 \
    --out results --keep
# Nothing is computed twice: another arm joins what is there.
run sltool reproduce cholesterol --arms multi single:C friedewald --seeds 2 \
    --set training.epochs=10 --out results --keep
run head -n 4 results/results.csv
