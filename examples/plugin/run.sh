#!/bin/sh
# Usage: run.sh [FOLDER]
set -eu
. "$(dirname "$0")/../begin.sh"

# Of trusted code alone: nothing is loaded that is not named.
export SLTOOL_PLUGINS="$here/digits.py"
run sltool list datasets
run cp "$here/study.yaml" .
run sltool prepare
run sltool partition --skew 0.5
run sltool client-encode
run sltool ship
run sltool server-train
run sltool evaluate --metrics accuracy top2
