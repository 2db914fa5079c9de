#!/bin/sh
# results/train.sh RUN FLAGS: train.py with these flags, or where it was cut; nothing where it has come to their end.
set -eu
cd "$(dirname "$0")/.."
run=$1
shift
if [ "$(cat "$run/finished" 2>/dev/null)" = "$*" ]; then
    echo "$run has been trained to its end"
    exit
fi
[ -e "$run/checkpoint.pth.tar" ] && resume=--resume || resume=
"${PYTHON:-python}" train.py "$@" $resume --out-dir "$run"
echo "$*" > "$run/finished"
