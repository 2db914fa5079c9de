#!/bin/sh
# The demo's façades, labels → photo: 2,000 pairs that the project draws, 256×256, until nothing more is learnt.
#
#     sh results/demo.sh                                                  100 epochs; cut it as often as you like, it goes on
#     OUT=runs/trial EPOCHS=1 PAIRS=8 NGF=4 SIZE=64 sh results/demo.sh    in a minute, to see that it works
#
# Afterwards runs/results_demo holds the network, the curves, the grids and the scores, and results/logs its row.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
epochs=${EPOCHS:-100} pairs=${PAIRS:-2000} ngf=${NGF:-32} size=${SIZE:-256}
data=data/demo_$pairs run=${OUT:+$OUT/}runs/results_demo

[ -d "$data" ] || "$python" -c "
from pathlib import Path
from pairs import demo
demo.draw(Path('$data'), $pairs)"
sh results/train.sh "$run" --data-root "$data" --direction AtoB --n-epochs "$epochs" \
    --ngf "$ngf" --ndf "$ngf" --crop-size "$size" --load-size $((size * 143 / 128)) --ema 0.999
sh results/score.sh "$run" "$data" val
