# Sourced by each run.sh: goes to the folder that is named, or else to one that is deleted at the end.
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    cd "$1"
else
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    cd "$temporary"
fi

# Prints a command, then runs it.
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}
