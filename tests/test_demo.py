from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pairs import demo
from pairs.download import ensure_dataset
from pairs.find import find_pairs


def test_the_same_seed_draws_the_same_pairs(tmp_path):
    for name in ("a", "b"):
        demo.draw(tmp_path / name, n_train=2, n_val=1)
    demo.draw(tmp_path / "c", n_train=2, n_val=1, seed=1)

    def content(name):
        return [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))]

    assert content("a") == content("b") and len(set(content("a") + content("c"))) == 6


def test_a_data_set_of_side_by_side_pairs_is_drawn_when_it_is_absent(monkeypatch):
    monkeypatch.setattr(demo, "draw", partial(demo.draw, n_train=3, n_val=1))
    ensure_dataset(Path("data/demo"))
    splits = find_pairs(Path("data/demo")).splits
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 3, "val": 1}
    assert Image.open(splits["train"][0].files[0]).size == (512, 256)


def test_labels_are_flat_and_photos_are_not():
    classes, seen = np.array(list(demo.PALETTE.values())), set()
    for seed in range(8):
        labels, photo = demo.facade(np.random.default_rng(seed))
        assert labels.shape == photo.shape == (256, 256, 3) and labels.dtype == photo.dtype == np.uint8
        here = {tuple(colour) for colour in labels.reshape(-1, 3).tolist()}
        assert here <= {tuple(colour) for colour in classes.tolist()}
        seen |= here
        for colour in here:  # texture and shading in every class: no lookup table solves the task
            assert photo[(labels == colour).all(-1)].std(axis=0).max() > 4
        assert photo.min() < 40 and photo.max() > 215
    assert len(seen) == len(classes)
