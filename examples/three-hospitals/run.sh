#!/bin/sh
# Usage: run.sh [FOLDER]. The folders below it are five machines, and `cp` is the post.
set -eu
. "$(dirname "$0")/../begin.sh"

run python "$here/make_tables.py" .
mkdir -p coordinator server A B C

# The coordinator has no data. The privacy layer is drawn here, once for everybody.
cp "$here/study.yaml" coordinator/
run sltool study new table --study coordinator
run sltool study kit --study coordinator --to study-kit.zip

# Each hospital joins, and sends its public key back.
for site in A B C; do
    run sltool join study-kit.zip --site $site --study $site
    run cp $site/$site.pub coordinator/
    run sltool study add coordinator/$site.pub --study coordinator
done

# The server gets the version that names the three sites.
run sltool study kit --study coordinator --to study-kit.zip
run sltool join study-kit.zip --study server

for site in A B C; do
    case $site in C) names="--column texture=texture_mean" ;; *) names= ;; esac
    # shellcheck disable=SC2086 # Two words, or none.
    run sltool prepare --source $site.csv $names --study $site
    run sltool partition --site $site --study $site
    run sltool client-encode --site $site --study $site
    run sltool ship --site $site --study $site --to server/server/inbox
done

run sltool server-train --wait-for A B C --study server
run sltool evaluate --metrics accuracy auroc --by site --study server
run sltool status --study server
