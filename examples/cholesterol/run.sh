#!/bin/sh
# Usage: run.sh [FOLDER]
set -eu
. "$(dirname "$0")/../begin.sh"

run sltool prepare cholesterol --seed 0
run sltool partition --ratios 7:2:1
run sltool client-encode
run sltool ship
run sltool server-train
run sltool evaluate --metrics rmsle smape msle
# What the smallest hospital could do alone.
run sltool server-train --sites C --run C
run sltool evaluate --run C --metrics rmsle smape msle
run sltool compare default C
