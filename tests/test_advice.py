"""What a run says of itself: who wins, and that it overfits."""

import itertools
import math
import re
import statistics
import time

import numpy as np
import pytest
from conftest import row

from config import RECIPES, Config, recipe
from runtime.advice import PATIENCE, SMOOTH, overfits, verdict, without_effect


def test_a_winner_is_named_once_and_only_after_several_epochs():
    d_wins, even = dict(d_real=0.01, d_fake=0.01, g_gan=6.0), {}
    history, said = [], []
    for epoch, losses in enumerate([even] * 3 + [d_wins] * (PATIENCE + 3), 1):
        history.append(row(epoch, **losses))
        if sentence := verdict(history):
            said.append((epoch, sentence))
    assert len(said) == 1 and said[0][0] == 3 + PATIENCE and "D has won" in said[0][1]
    assert "G has won" in verdict([row(d_real=1.5, d_fake=2.0, g_gan=0.1)] * PATIENCE)
    assert not verdict([row(d_real=math.log(2), d_fake=math.log(2), g_gan=math.log(2))] * PATIENCE)
    assert not verdict([row(**d_wins)] * (PATIENCE - 1))


def test_settings_that_the_others_leave_without_effect_are_told():
    assert not any(without_effect(recipe(name)) for name in RECIPES)
    assert without_effect(Config(n_blocks=3, resize="none", load_size=300)).endswith(
        "n_blocks with generator unet, load_size with resize none")
    cfg = Config(generator="global", dropout=0.1, n_blocks=3, n_labels=5, range_a=(0, 1), range_b=(0, 1))
    assert without_effect(cfg).endswith(": dropout with generator global, range_a with n_labels 5")


def rows(val, train):
    return [row(i, val_l1=v, g_l1=t) for i, (v, t) in enumerate(zip(val, train, strict=True), 1)]


def sentences(val, train):
    """What is said of the history of these L1s for the first time, and in which epoch."""
    history = rows(val, train)
    said = ((n, overfits(history[:n])) for n in range(1, len(history) + 1))
    return dict(itertools.islice(((epoch, sentence) for epoch, sentence in said if sentence), 1))


def by_definition(history):
    """The epochs since which and in which the run overfits, computed from the whole history anew: O(n² log n)."""
    val, train = ([row[name] for row in history] for name in ("val_l1", "g_l1"))
    best = (math.inf, 0.0, 0)
    for n in range(SMOOTH, len(history) + 1):
        now = (*(statistics.fmean(sorted(values[n - SMOOTH : n])[2:-2]) for values in (val, train)), n)
        wander = statistics.median(abs(b - a) for a, b in itertools.pairwise(val[:n]))
        risen = now[0] - best[0] > max(3 * wander, 0.02 * best[0]) and now[1] < best[1]
        if risen and n - best[2] >= SMOOTH:
            return history[best[2] - SMOOTH // 2 - 1]["epoch"], n
        best = min(best, now)
    return None


@pytest.mark.filterwarnings("error")
def test_overfitting_is_found_epoch_by_epoch_as_it_is_from_the_whole_history():
    """Random walks, some with single bad epochs; many rise in the end.

    Beside some, training does not fall: it diverges. A warning of what merely wanders teaches people not to read it.
    """
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 120))
        walks = 0.5 + rng.choice([-0.001, 0.0, 0.001]) * np.arange(n) + rng.normal(0, rng.choice([0.001, 0.01]), (2, n))
        walks[0] += 0.002 * np.maximum(0, np.arange(n) - rng.integers(0, 60))
        walks[0] += 0.1 * (rng.random(n) < rng.choice([0, 0.1]))
        walks[1] += rng.choice([-0.002, -0.002, 0.001]) * np.arange(n)
        val, train = walks.tolist()
        said = [(int(re.search(r"about epoch (\d+)", text)[1]), epoch) for epoch, text in sentences(val, train).items()]
        wanted = by_definition(rows(val, train))
        assert said == ([wanted] if wanted else [])
        found += len(said)
    assert 20 < found < 90
    val = [math.nan, *np.linspace(0.5, 0.3, 30), *np.linspace(0.3, 0.5, 40)]  # one validation that was not finite
    assert sentences(val, np.linspace(0.5, 0.2, 71).tolist())
    assert not sentences([math.nan] * 71, val)


def test_an_epoch_after_thousands_costs_little():
    """It took 4.3 seconds at epoch 5,000."""
    history = rows(*np.random.default_rng(0).uniform(0.3, 0.4, (2, 5000)).tolist())
    start = time.process_time()
    for n in range(4950, 5000):
        overfits(history[:n])
    assert (time.process_time() - start) / 50 < 0.02
