#!/bin/sh
# What a CPU does in a second: steps of training, pairs read, pictures translated; results/logs/cpu holds the tables.
#
#     sh results/cpu.sh                                                                      full size, some minutes
#     OUT=runs/trial SECONDS_EACH=1 SIZE=64 IMAGES=4 EPOCHS=1 ROUNDS=1 sh results/cpu.sh     to see that it works
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
logs=${OUT:+$OUT/}results/logs/cpu
mkdir -p "$logs"

step() { # a benchmark and its flags
    name=$1
    shift
    "$python" "benchmarks/$name.py" "$@" --device cpu --json "$logs/$name.json" > "$logs/$name.txt"
    cat "$logs/$name.txt"
}

step bench_train --batches 1 --crop-size "${SIZE:-256}" --seconds "${SECONDS_EACH:-25}"
step bench_data --n-pairs "${IMAGES:-400}" --epochs "${EPOCHS:-5}"
step bench_predict --n-images "${IMAGES:-64}" --rounds "${ROUNDS:-5}"
