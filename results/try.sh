#!/bin/sh
# docs/try, the page that the README links to: it trains on façades that the project draws, and exports the network.
#
#     rm -r docs/try && sh results/try.sh                                10 epochs of 2,000 façades, 4 hours on a busy CPU core
#     OUT=runs/trial EPOCHS=1 PAIRS=8 NGF=4 SIZE=64 sh results/try.sh    in a minute, to see that it works
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
epochs=${EPOCHS:-10} pairs=${PAIRS:-2000} ngf=${NGF:-16} size=${SIZE:-256}
data=data/demo_$pairs run=${OUT:+$OUT/}runs/try

[ -d "$data" ] || "$python" -c "
from pathlib import Path
from pairs import demo
demo.draw(Path('$data'), $pairs)"
sh results/train.sh "$run" --data-root "$data" --n-epochs "$epochs" \
    --ngf "$ngf" --ndf $((ngf * 2)) --crop-size "$size" --load-size $((size * 143 / 128)) --ema 0.999
"$python" export.py --checkpoint "$run/gen.pth.tar" --page "${OUT:+$OUT/}docs/try" --cdn
