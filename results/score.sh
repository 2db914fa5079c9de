#!/bin/sh
# results/score.sh RUN DATA SPLIT FLAGS: scores the run's generator, keeps its log, and prints the row of a table.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python} run=$1 data=$2 split=$3
shift 3
scores=$run/scores_$split
logs=${OUT:+$OUT/}results/logs/$(basename "$run")
rm -rf "$scores"
"$python" evaluate.py --checkpoint "$run/gen.pth.tar" --data-root "$data" --split "$split" --out-dir "$scores" "$@"
mkdir -p "$logs"
cp "$run/log.csv" "$scores/metrics.json" "$logs"
sed 's|: "/.*/|: "|' "$run/config.json" > "$logs/config.json" # folders without their places on this machine
"$python" results/row.py "$logs" | tee "$logs/row.md"
