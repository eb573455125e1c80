#!/bin/sh
# Usage: run.sh [FOLDER]. The folder hospital is site B's machine, the folder server the server's.
set -eu
. "$(dirname "$0")/../begin.sh"

# A hospital types the same four commands every month, with the source as it is now.
month() {
    printf '\n# month %s\n' "$1"
    run python "$here/make_month.py" "$1" laboratory.csv
    run sltool prepare --source laboratory.csv --study hospital
    run sltool partition --site B --study hospital
    run sltool client-encode --site B --study hospital
    run sltool ship --site B --study hospital --to server/server/inbox
}

mkdir -p hospital server
cp "$here/study.yaml" hospital/
month 1
cp hospital/study.yaml hospital/privacy-layer.safetensors server/
run sltool server-train --run month-1 --study server

month 2
run sltool server-train --run month-2 --study server

# A patient takes part no longer: what the server has of P007 is deleted there.
run sltool withdraw --site B --patient P007 --study hospital
month 3
run sltool server-train --run month-3 --study server

for run in month-1 month-2 month-3; do
    run sltool evaluate --run $run --metrics mae --study server
done
run sltool log --site B --study hospital
