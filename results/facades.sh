#!/bin/sh
# Facades, labels → photo, at 128×128 with ngf 32: the paper's recipe, the same with a linear decay, and `better`.
#
#     sh results/facades.sh                                     three runs of 200 epochs; it goes on where it was cut
#     EPOCHS=2 NGF=4 SIZE=64 sh results/facades.sh              to see that it works
#     RUNS=better sh results/facades.sh                         one of the three
#
# Every epoch is scored on validation (log.csv, losses.png), the last one on test: results/logs gets a row for each.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
epochs=${EPOCHS:-200} ngf=${NGF:-32} size=${SIZE:-128} data=${DATA:-data/facades}

for name in ${RUNS:-paper decay better}; do
    run=${RUN:-runs/results_facades}_$name
    recipe=facades plan="--n-epochs $epochs"
    [ $name = better ] && recipe=better
    [ $name = decay ] && plan="--n-epochs $((epochs / 2)) --n-epochs-decay $((epochs - epochs / 2))"
    [ -e "$run/checkpoint.pth.tar" ] && resume=--resume || resume=
    "$python" train.py $recipe $resume --data-root "$data" --direction BtoA --out-dir "$run" $plan \
        --ngf "$ngf" --ndf "$ngf" --crop-size "$size" --load-size $((size * 143 / 128)) --best-by psnr
    sh results/score.sh "$run" "$data" test
done
