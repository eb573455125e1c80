#!/bin/sh
# Usage: run.sh [FOLDER]
set -eu
. "$(dirname "$0")/../begin.sh"

run python "$here/make_cells.py" cells
# Says how it understood the folders, and writes it down in study.yaml.
run sltool prepare images --source cells
run sltool partition --ratios 2:1
run sltool client-encode
run sltool inspect outbox/B/B-test-00000.h5
run sltool ship
run sltool server-train --max-epochs 6
run sltool evaluate --metrics accuracy auroc --by site
