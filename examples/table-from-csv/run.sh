#!/bin/sh
# Usage: run.sh [FOLDER]
set -eu
. "$(dirname "$0")/../begin.sh"

run python "$here/make_patients.py" patients.csv
run head -n 4 patients.csv
# The agreement is there before the data is read: columns, units, what a missing value means.
run cp "$here/study.yaml" .
run sltool prepare --source patients.csv
run sltool partition --by Klinik
run sltool client-encode
run sltool ship
run sltool server-train
run sltool evaluate --metrics accuracy auroc --by site --at sensitivity=0.9
