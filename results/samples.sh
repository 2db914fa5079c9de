#!/bin/sh
# Aerial → map and edges → shoes at 128×128 with ngf 32, on the pairs that are in data/maps and data/edges2shoes.
#
#     sh results/samples.sh                                          40 epochs each; it goes on where it was cut
#     OUT=runs/trial EPOCHS=2 NGF=4 SIZE=64 sh results/samples.sh    to see that it works
#     RUNS=edges2shoes sh results/samples.sh                         one of the two
#
# Every EVERY epochs G and its moving average are scored on validation (curve.csv, curve.png), at the end the average beside
# the mean of the training targets, a blur.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
size=${SIZE:-128} ngf=${NGF:-32} every=${EVERY:-5}

for recipe in ${RUNS:-maps edges2shoes}; do
    data=${DATA:-data}/$recipe run=${OUT:+$OUT/}runs/results_$recipe$size
    "$python" results/keep.py "$run" "$every" &
    keeper=$!
    sh results/train.sh "$run" "$recipe" --direction AtoB --n-epochs "${EPOCHS:-40}" --ema 0.999 --data-root "$data" \
        --ngf "$ngf" --ndf "$ngf" --crop-size "$size" --load-size $(((size * 143 + 127) / 128))
    kill $keeper
    wait $keeper || [ $? -eq 143 ]
    "$python" results/curve.py "$run" "$data"
    sh results/score.sh "$run" "$data" val --baseline mean
done
