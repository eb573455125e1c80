#!/bin/sh
# The main job on scikit-learn's bundled 442 patients: three sites together against the smallest one.
set -eu

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

run sltool prepare cholesterol --seed 0
run sltool partition --ratios 7:2:1
for site in A B C; do
    run sltool client-encode --site $site
    run sltool ship --site $site
done
run sltool server-train --run all
run sltool server-train --sites C --run C
run sltool evaluate --run all --metrics rmsle smape msle
run sltool evaluate --run C --metrics rmsle smape msle
run sltool compare all C
