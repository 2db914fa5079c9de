#!/bin/sh
# Facades, labels → photo, at 128×128 with ngf 32: the paper's recipe, the same with a linear decay, and `better`.
#
#     sh results/facades.sh                                          three runs of 200 epochs; it goes on where it was cut
#     OUT=runs/trial EPOCHS=2 NGF=4 SIZE=64 sh results/facades.sh    to see that it works
#     RUNS=better sh results/facades.sh                              one of the three
#     SIZE=64 NGF=16 LAYERS=2 sh results/facades.sh                  small, with a field of 34×34: hours instead of days
#
# All three keep a moving average beside G, which changes no training. Every ten epochs both are scored on validation
# (curve.csv, curve.png), also by a network that reads labels in photos; the last average is scored on test.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
epochs=${EPOCHS:-200} every=${EVERY:-10} ngf=${NGF:-32} size=${SIZE:-128}
data=${DATA:-data/facades} palette=${PALETTE:-facades}
flags="--data-root $data --ngf $ngf --ndf $ngf --n-layers ${LAYERS:-3} --crop-size $size --load-size $(((size * 143 + 127) / 128))"

runs=${OUT:+$OUT/}runs/results_facades$size
reader=${runs}_reader
sh results/train.sh "$reader" facades --direction AtoB --label-side B --n-epochs $((epochs / 10 + 1)) $flags

for name in ${RUNS:-paper decay better}; do
    run=${runs}_$name
    recipe=facades plan="--n-epochs $epochs"
    [ $name = better ] && recipe=better
    [ $name = decay ] && plan="--n-epochs $((epochs / 2)) --n-epochs-decay $((epochs - epochs / 2))"
    "$python" results/keep.py "$run" "$every" &
    keeper=$!
    sh results/train.sh "$run" $recipe --direction BtoA $plan --ema 0.999 --best-by psnr $flags
    kill $keeper
    wait $keeper || [ $? -eq 143 ] # SIGTERM came before it could look, as there was nothing to train
    "$python" results/curve.py "$run" "$data" "$reader/gen.pth.tar" "$palette"
    sh results/score.sh "$run" "$data" test
done
