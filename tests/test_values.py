"""Channels, ranges, class indices, several inputs and masks: from files to what the networks see, and back."""

import io
import pickle
import re
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import RGB, Runs, begin, fresh_state, pair_of, paired, save, settings, trained_by, write_sides
from PIL import Image

import predict
from check import check
from config import Config
from dataset import PairedImages, load_data
from generator import Generator
from inference.trained import Trained
from inference.translate import Translator, tell_clipped, translate
from pairs.checks import Seen, range_words
from pairs.find import find_pairs
from pairs.geometry import Geometry
from pairs.images import read_header, read_picture, write_picture
from pairs.picture import Picture, of_pillow, picture_of, to_array
from pairs.reading import read_pair
from pairs.values import Values, composite, values_of
from runtime.checkpoint import load_tensors
from runtime.grids import rgb
from train import step_for, train
from utils import DataError, UserError

SIZE = 48


def smooth(seed, channels=3, low=0, high=255, dtype=np.uint8):
    coarse = np.random.default_rng(seed).uniform(low, high, (4, 4, channels)).astype(np.float32)
    image = cv2.resize(coarse, (SIZE, SIZE)).reshape(SIZE, SIZE, channels)
    return image.astype(dtype) if channels > 1 else image[..., 0].astype(dtype)


def classes(seed, n=5):
    """A palette PNG's indices in blocks, 255 in one corner."""
    blocks = np.random.default_rng(seed).integers(0, n, (6, 6)).astype(np.uint8)
    indices = np.kron(blocks, np.ones((SIZE // 6, SIZE // 6), np.uint8))
    indices[:8, :8] = 255
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.flatten().tolist())
    image.putpalette([channel for i in range(256) for channel in (255 - i, i * 37 % 256, 90)])
    return image


SETS = {  # the sides by folder and ending, the settings, and what an output looks like (see test_kinds.py)
    "four channels": ({"A.npy": lambda i: smooth(i, 4), "B.png": smooth}, dict(in_channels=4), {}),
    "two inputs": ({"A1.png": smooth, "A2.npy": lambda i: smooth(i, 2, 0, 1, np.float32),
                    "B.png": lambda i: smooth(i, 1)}, dict(in_channels=5, out_channels=1, range_a=(0, 1)),
                   dict(channels=1)),
    "float with a range": ({"A.png": smooth, "B.npy": lambda i: smooth(i, 1, 500, 4000, np.float32)},
                           dict(out_channels=1, range_b=(500, 4000)),
                           dict(ending=".npy", numbers="float32", channels=1)),
    "class indices": ({"A.png": classes, "B.png": smooth}, dict(n_labels=5), {}),
    "masks": ({"A.png": smooth, "B.png": lambda i: smooth(i + 50),
               "M.png": lambda i: (smooth(i, 1) > 100).astype(np.uint8)}, {}, {}),
}


@pytest.fixture
def made(tmp_path):
    """Makes the data set of that name and the configuration of a run on it."""

    def make(name, **changes):
        sides, wanted, _ = SETS[name]
        data = write_sides(tmp_path / "data", sides)
        return settings(data, tmp_path / "run", **{**wanted, "n_epochs": 1, **changes})

    return make


def call(command, *words):
    return begin(command, *words, "--device", "cpu")


def test_towards_several_inputs_the_network_takes_the_one_image_of_b(made, tmp_path):
    cfg = made("two inputs", direction="BtoA", in_channels=1, out_channels=5)
    with pytest.raises(UserError, match="side A is the target, and its range is for some of .*A1.* and .*A2.* alone"):
        train(cfg)  # an output would have the range of A2 in the channels of A1
    for path in cfg.data_root.rglob("A2/*.npy"):
        save(path, smooth(int(path.stem), 2))
    cfg = replace(cfg, range_a=None)
    train(cfg)
    words = ["--checkpoint", cfg.out_dir / "gen.pth.tar", "--input", cfg.data_root / "val" / "B"]
    assert not call(predict, *words, "--output", tmp_path / "out", "--ending", ".npy")
    assert np.load(tmp_path / "out" / "0.npy").shape == (SIZE, SIZE, 5)


@pytest.mark.parametrize(("name", "by", "change"), [
    ("float with a range", dict(best_by="val_l1"), dict(range_b=(3000.0, 4000.0))),
    ("masks", dict(best_by="val_l1"), {}),
    ("masks", dict(best_by="demo", label_side="B"), dict(best_by="facades"))])
def test_scores_of_other_numbers_are_not_compared(made, name, by, change):
    """best.pth.tar would stay that of an epoch before the change for good."""
    cfg = made(name, **by)
    train(cfg)
    best = load_tensors(cfg.out_dir / "best.pth.tar")
    best["scores"] |= {"val_l1": 0.0, "val_label_accuracy": 1.0}  # which no epoch reaches
    torch.save(best, cfg.out_dir / "best.pth.tar")
    same = {} if "label_side" in by else {"label_side": "A"}  # of the input
    train(replace(cfg, resume=True, n_epochs=2, **same))
    assert load_tensors(cfg.out_dir / "best.pth.tar")["epoch"] == 1
    if not change:
        masks = [cfg.data_root / f"val/M/{i}.png" for i in (0, 1)]
        for path, other in zip(masks, [path.read_bytes() for path in masks[::-1]], strict=True):  # exchanged
            path.write_bytes(other)
    train(replace(cfg, resume=True, n_epochs=3, **change))
    assert load_tensors(cfg.out_dir / "best.pth.tar")["epoch"] == 3


def test_a_resumed_run_s_classes_are_told_by_their_own_flag(made):
    cfg = made("class indices")
    train(cfg)
    with pytest.raises(UserError, match="n_labels 5, which cannot become 4: leave it as it was"):
        train(replace(cfg, resume=True, n_epochs=2, n_labels=4))
    with pytest.raises(UserError, match="spectral_norm False, which cannot become True"):
        train(replace(cfg, resume=True, n_epochs=2, spectral_norm=True))
    with pytest.raises(UserError, match=r"bands_b \[\], which cannot become \[1\]: leave it"):
        train(replace(cfg, resume=True, n_epochs=2, bands_b=(1,)))


@pytest.mark.parametrize("channels", [2, 4])
def test_an_input_among_several_loses_no_channel_for_transparency(tmp_path, channels):
    """As .npy, and as an array for a trained network."""
    data = write_sides(tmp_path, {"A1.npy": lambda i: smooth(i, channels), "A2.npy": lambda i: smooth(i, 2),
                                  "B.png": lambda i: smooth(i, 1)})
    gen = trained_by(settings(data, tmp_path / "run", in_channels=channels + 2, out_channels=1, n_epochs=1))
    assert translate(gen, [smooth(0, channels), smooth(0, 2)]).shape == (SIZE, SIZE)


def test_the_range_of_several_inputs_is_for_the_same_ones_in_each_pair(tmp_path):
    """Where most depth maps have 8 bits, as writers choose for small numbers, the photos stay as they are."""
    data = write_sides(tmp_path, {"A1.png": lambda i: np.full((SIZE, SIZE), 255, np.uint8),
                                  "A2.png": lambda i: smooth(i, 1, 0, 255, np.uint16 if i == 2 else np.uint8),
                                  "B.png": smooth})
    cfg = settings(data, tmp_path / "run", in_channels=2, range_a=(0, 1000), n_epochs=1)
    train_data, _, survey = load_data(cfg)
    assert survey.record["ranged_inputs"] == (2,)
    for i in range(len(train_data)):
        x, _ = train_data[i]
        assert (x[0] == 1).all() and x[1].max() < -0.4
    assert trained_by(cfg).trained.ranged_inputs == (2,)
    with pytest.raises(UserError, match="color_jitter changes one picture, and side A holds 2: --color-jitter 0"):
        load_data(replace(cfg, color_jitter=0.5, in_channels=3))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("depth", [8, 16])
def test_hidden_colours_of_sprites_reach_no_visible_pixel(tmp_path, train, depth):
    """A white disc on a hidden black ground had dark fringes."""
    disc = np.zeros((90, 130, 4), np.uint8 if depth == 8 else np.uint16)
    cv2.circle(disc, (60, 40), 30, [2**depth - 1] * 4, -1)
    for side in "AB":
        write_picture(tmp_path / f"{side}.png", Picture(disc[..., :3], disc[..., 3]))
    cfg = replace(Config(), in_channels=4, out_channels=4, crop_size=64, load_size=72)
    pair = pair_of(tmp_path / "A.png", tmp_path / "B.png")
    for side in paired([pair], cfg, train=train)[0]:
        colour, alpha = side[:3], side[3]
        assert 0 < (alpha > -1).float().mean() < 1 and -1 < alpha[alpha > -1].min() < 1
        assert colour[:, alpha > -0.99].min() > 0.99
    translator = Translator(Generator(4, 3, ngf=4, crop_size=64).eval(), scale="crop")
    x = translator.take([read_picture(tmp_path / "A.png")]).x.float()
    shown = x[3] > 0.01 * x.max()
    assert x[:3, shown].min() > 0.99 * x.max()


def test_numbers_too_large_for_float32_are_told(tmp_path, capsys):
    data = write_sides(tmp_path, {"A.npy": lambda i: smooth(i, 1, 0, 100).astype(np.int32) + 2 * 10**9,
                                  "B.png": smooth})
    load_data(settings(data, tmp_path / "run", in_channels=1, range_a=(2e9, 2e9 + 100)))
    assert "side A: numbers such as 2000000100 are read to the nearest 128 (float32)" in capsys.readouterr().out


def test_one_side_of_other_channels_hides_nothing_of_the_other(made, capsys):
    assert check(made("four channels", in_channels=3)) == 2
    told = capsys.readouterr().out
    assert "has 4 channels, not the 3" in told and "side A: channels 4" in told
    assert re.search(r"side B: channels 3, uint8, \d+ to \d+;", told)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float32, np.float64])
def test_a_range_maps_its_ends_to_minus_one_and_one_and_back_and_clips_what_lies_beyond(dtype):
    low, high = (50, 200) if dtype == np.uint8 else (500, 4000)
    numbers = np.array([[low, high, (low + high) // 2, 0, 255 if dtype == np.uint8 else 5000]], dtype)
    values = Values(1, (low, high), kind="uint8" if dtype == np.uint8 else "float32")
    x = values.to_network(torch.from_numpy(values.array([picture_of(numbers)])).permute(2, 0, 1)[None])
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, 1.0, 0.0, -1.0, 1.0]), atol=1e-2, rtol=0)
    back = values.picture(x[0]).numbers
    np.testing.assert_allclose(back, np.clip(numbers.astype(float), low, high), rtol=1e-6)
    assert back.dtype == values.kind


@pytest.mark.parametrize(("a", "range_a", "b", "range_b"), [
    (np.uint8, (0, 100), np.float32, (500, 4000)), (np.float32, (0, 1), np.uint8, None)])
def test_a_ranged_output_has_the_kind_of_the_targets_not_of_the_input(tmp_path, a, range_a, b, range_b):
    data = write_sides(tmp_path, {"A.npy": lambda i: smooth(i, 3, *range_a, a), "B.npy": lambda i: smooth(i, dtype=b)})
    gen = trained_by(settings(data, tmp_path / "run", range_a=range_a, range_b=range_b, n_epochs=1))
    for kind in (a, np.uint16 if a == np.uint8 else a):
        assert translate(gen, smooth(0, 3, *range_a, kind)).dtype == b


@pytest.mark.parametrize(("low", "high", "words"), [
    (-1024, 3071, "-1100 3100"), (500, 4000, "500 4000"), (0, 0.0123, "0 0.013"), (0, 0, "0 1"), (0.002, 0.997, "0 1"),
    (-0.998, 0.96, "-1 1"), (0.02, 0.97, "0 1"), (0.2, 0.74, "0.2 0.74"), (271.3, 304.2, "271 305"),
    (1e6 + 0.25, 1e6 + 0.75, "1000000.25 1000000.75"), (0, 0.95 * 255, "0 255"),
    *((0, share * white, f"0 {white}") for white in (255, 1023, 4095, 16383, 65535) for share in (1, 0.999)),
    (0, 256, "0 260"), (0, 1024, "0 1100"), (0, 4096, "0 4100"), (0, 16384, "0 17000"), (0, 65536, "0 66000")])
def test_a_proposed_range_is_rounded_outward_or_ends_where_so_many_bits_do(low, high, words):
    assert range_words(low, high) == words


def test_infinite_values_are_told_by_the_name_of_their_file(made):
    cfg = made("float with a range")
    for kind, value in ((np.float32, np.inf), (np.float64, 1e300)):
        np.save(cfg.data_root / "train" / "B" / "3.npy", np.full((SIZE, SIZE), value, kind))
        with pytest.raises(DataError, match="3.npy holds values that are not finite"):
            train(cfg)
        cfg = replace(cfg, out_dir=cfg.out_dir.with_name("another run"))


@pytest.mark.parametrize("side", [16, 100])
def test_channels_that_come_first_are_told(tmp_path, side):
    """With a side of at most 64, each column would pass for a channel."""
    array = np.zeros((3, side, side), np.uint8)
    np.save(tmp_path / "a.npy", array)
    for source in (tmp_path / "a.npy", array):
        with pytest.raises(UserError, match=r"looks like \(C, H, W\), of which array.transpose\(1, 2, 0\)"):
            to_array(read_picture(source), 3)


@pytest.mark.parametrize(("kind", "deep", "alpha", "limits", "wanted"), [
    ("uint8", False, np.uint16(0x8001), None, 0x80), ("uint8", True, np.uint8(0x80), None, 0x8080),
    ("uint8", True, np.uint8(0x80), (-9, 300), 0x80), ("float32", False, np.uint8(0x80), None, None)])
def test_an_output_takes_its_input_s_transparency_in_its_own_numbers(kind, deep, alpha, limits, wanted):
    y, alpha = torch.tensor([-1.0, 1.0])[:, None].expand(3, 2, 1), np.full((2, 1), alpha)
    found = Values(3, limits, kind=kind).picture(y, deep, alpha)
    assert found.kind == ("uint16" if wanted == 0x8080 else kind) and (found.alpha is None) == (wanted is None)
    assert wanted is None or found.alpha.dtype == found.kind and (found.alpha == wanted).all()
    assert kind == "float32" or (found.array.ravel()[[0, -1]] == (0, np.iinfo(found.kind).max)).all()
    assert Values(2).picture(y[:2], alpha=alpha).alpha is None


def test_rgba_is_four_channels_where_four_are_asked_for(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "b.png"), cv2.cvtColor(pixels.astype(np.uint16) * 257, cv2.COLOR_RGBA2BGRA))
    assert (to_array(read_picture(tmp_path / "a.png"), 4) == pixels).all()
    sprite, bands = read_picture(tmp_path / "a.png"), picture_of(pixels)
    white = to_array(sprite, 3)
    assert (Values(2, bands=(3, 1)).array([sprite]) == white[..., [2, 0]]).all()
    assert [Values(4).is_sprite([each]) for each in (sprite, bands)] == [True, False]
    for channels, wanted in ((4, pixels[..., :3]), (3, white)):  # what check.py sees of it
        seen = Seen("A", Values(channels))
        seen.add([sprite])
        assert (seen.all_numbers() == wanted.ravel()).all()
    np.testing.assert_allclose(to_array(read_picture(tmp_path / "b.png"), 4) * 255, pixels, atol=1e-3)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (to_array(read_picture(tmp_path / "p.png"), 4) == (10, 200, 30, 0)).all()
    gray = to_array(of_pillow(Image.fromarray(pixels[..., :3])), 1)
    assert gray.dtype == np.uint8 and (gray[..., 0] == Image.fromarray(pixels[..., :3]).convert("L")).all()
    with pytest.raises(DataError, match="has 3 channels, not the 4"):
        to_array(of_pillow(Image.new("RGB", (4, 4))), 4)


def test_what_a_format_cannot_hold_is_refused_before_anything_is_translated(made, tmp_path):
    for suffix, array in ((".png", np.zeros((4, 4, 5), np.uint8)), (".jpg", np.zeros((4, 4), np.float32)),
                          (".tif", np.zeros((4, 4, 65), np.float32)), (".jpg", np.zeros((4, 4, 4), np.uint8))):
        with pytest.raises(DataError, match="does not hold .* but .npy does"):
            write_picture(tmp_path / f"a{suffix}", Picture(np.atleast_3d(array)))
        write_picture(tmp_path / "a.npy", Picture(np.atleast_3d(array)))
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    cfg = made("float with a range")
    train(cfg)
    with pytest.raises(UserError, match="float32 of 1 channels, which .png files do not hold: --ending .tif"):
        call(predict, "--checkpoint", cfg.out_dir / "gen.pth.tar", "--input", cfg.data_root / "val" / "A", "--output",
             tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_indices_stay_indices_through_palette_resizing_jitter_and_a_deep_target(tmp_path):
    save(tmp_path / "A" / "0.png", classes(3))
    for name, target in (("B", smooth(0)), ("deep", smooth(0, dtype=np.uint16) * 200)):
        save(tmp_path / name / "0.npy", target)
    x, y = values_of(replace(Config(), n_labels=5).plain())
    cfg = replace(Config(), n_labels=5, load_size=72, crop_size=64)
    raw = np.asarray(classes(3))
    for target in ("B", "deep"):
        pair = pair_of(tmp_path / "A" / "0.png", tmp_path / target / "0.npy")
        whole = PairedImages([pair], "AtoB", x, y, Geometry("none"))
        one_hot = whole[0][0]
        assert one_hot.shape == (5, SIZE, SIZE) and set(one_hot.unique().tolist()) == {0.0, 1.0}
        np.testing.assert_array_equal(one_hot.argmax(0)[raw != 255], raw[raw != 255])
        assert (one_hot.sum(0)[torch.from_numpy(raw == 255)] == 0).all()  # void
        assert (one_hot.sum(0)[torch.from_numpy(raw != 255)] == 1).all()
        save(tmp_path / "A" / "1.png", np.asarray(classes(3)) // 64 * 4)  # 0 and 12: void beyond, nothing between
        edges = paired([pair_of(tmp_path / "A" / "1.png", pair.target)], replace(cfg, n_labels=13))
        for epoch in range(3):
            jittered = edges[epoch, 0][0]
            assert jittered.shape == (13, 64, 64) and set(jittered.unique().tolist()) == {0.0, 1.0}
            assert jittered.sum(0).min() == 1 and set(jittered.argmax(0).unique().tolist()) <= {0, 12}


@pytest.mark.parametrize(("array", "classes"), [
    (np.array([[0, 4, 5, 255, -1, 300]], np.int32), [0, 4]), (np.array([[1, 2, 200, 3]], np.uint8), [1, 2, 3])])
def test_indices_beyond_the_classes_are_void(array, classes):
    found = Values(5, n_labels=5).array([picture_of(array)])[0, :, 0]
    assert found[found != 255].tolist() == classes


@pytest.mark.parametrize("image", [smooth(0), smooth(0, 1, 0, 1, np.float32)])
def test_colours_and_floats_are_no_class_indices(image):
    with pytest.raises(DataError, match="holds no class indices"):
        Values(5, n_labels=5).array([picture_of(image)])


@pytest.mark.parametrize(("labels", "said"), [(0, "0 to 4 in what .*: --n-labels 5 or more makes each"), (5, ""),
                                              (3, "--n-labels 5 .* those from 3 on belong to no class")])
def test_class_indices_are_recognised_and_what_to_do_is_said(made, capsys, labels, said):
    cfg = made("class indices", n_labels=labels)
    for look in (load_data, check):
        look(cfg)
        shown = capsys.readouterr().out
        assert re.search(said, shown) if said else "--n-labels" not in shown


def test_a_range_is_for_the_inputs_of_the_most_bits(capsys):
    """Depth beside a photo: as PNG of 16 bits or as floats, the range is not for the photo; alike, it is for both."""
    photo, black = picture_of(smooth(0)), np.zeros((SIZE, SIZE), np.uint8)
    depth = smooth(1, 1, 500, 4000, np.float32)
    x = Values(4, (500, 4000))
    for numbers in (depth, depth.astype(np.uint16)):
        pictures = [photo, picture_of(numbers, "depth")]
        array = x.array(pictures)
        np.testing.assert_allclose(array[..., :3] * 255, photo.array, atol=1e-3)
        np.testing.assert_allclose(array[..., 3], (numbers - 500) / 3500, atol=1e-5)
        for order in (pictures, pictures[::-1]):  # nor do 8 bits count for what is proposed
            seen = Seen("A", x)
            seen.add(order)
            assert seen.kind == numbers.dtype and 480 <= seen.ends()[0] < seen.ends()[1] <= 4000
        tell_clipped(x, [photo, picture_of(numbers * 0, "nothing")])
        assert capsys.readouterr().out == ("nothing: 100% of the values lie outside of 500 to 4000, the range of "
                                           "training, and are clipped\n")
    assert Values(4, (0, 510)).array([photo, picture_of(black + 51)])[0, 0].tolist() == pytest.approx(
        [*photo.array[0, 0] / 510, 0.1])


@pytest.mark.parametrize("place", [3, 50])
def test_gray_and_colour_of_several_inputs_never_change_places(tmp_path, place):
    """Three channels and one stay four, whichever has them: a network would see masks for photos."""
    for i in range(60):
        for side, n in (("A1", 3), ("A2", 1), ("B", 3)):
            n = 4 - n if i == place and side != "B" else n
            save(tmp_path / "data" / side / f"{i:02d}.png", smooth(i, n).squeeze())
    cfg = settings(tmp_path / "data", tmp_path / "run", in_channels=4, n_epochs=1)
    problem = "A1.*have 1 . 3 channels, where those of training have 3 . 1|" \
              "side A have 3 . 1 channels in most pairs, but 1 . 3 in that of .*A1"
    with pytest.raises(UserError, match=problem):
        train(cfg)


def test_a_network_refuses_inputs_that_have_changed_places(made, tmp_path, capsys):
    cfg = made("two inputs")
    assert trained_by(cfg).trained.counts == "3 + 2"
    folder = cfg.data_root / "val"
    words = ["--checkpoint", cfg.out_dir / "gen.pth.tar", "--input", folder]
    assert not call(predict, *words, "--output", tmp_path / "sheets", "--ending", ".png", "--compare")
    assert Image.open(tmp_path / "sheets" / "0.png").size == (3 * SIZE, SIZE)  # the target too
    (folder / "A2").rename(folder / "other")
    (folder / "A2").symlink_to(folder / "other")
    assert not call(predict, *words, "--output", tmp_path / "linked", "--ending", ".png")
    (folder / "A2").unlink()
    (folder / "other").rename(folder / "A2")
    for old, new in (("A1", "t"), ("A2", "A1"), ("t", "A2")):
        (folder / old).rename(folder / new)
    assert call(predict, *words, "--output", tmp_path / "out", "--ending", ".png") == 1
    assert "have 2 + 3 channels, where those of training have 3 + 2" in capsys.readouterr().err


def test_several_inputs_are_stacked_in_the_order_of_their_numbers(tmp_path):
    for number, place in ((10, "A10"), (2, "a2"), (1, "A1")):
        for i in range(3):
            save(tmp_path / place / f"{i}.npy", np.full((4, 4), number, np.uint8))
    for i in range(3):
        save(tmp_path / "B" / f"{i}.png", np.full((4, 4), 99, np.uint8))
    pair = find_pairs(tmp_path).splits["train"][0]
    assert [path.parent.name for path in pair.inputs] == ["A1", "a2", "A10"]
    a, b = read_pair(pair, Values(3), Values(1))
    assert a[0, 0].tolist() == [1, 2, 10] and b[0, 0].tolist() == [99]
    trained = Trained(3, 1, Geometry(), "AtoB", inputs=3)
    job = predict.jobs_in_folder(tmp_path, tmp_path / "out", trained)[0]
    assert [path.parent.name for path in job.inputs] == ["A1", "a2", "A10"]
    assert job.output == tmp_path / "out" / "0.npy" and job.target == tmp_path / "B" / "0.png"
    with pytest.raises(DataError, match=r"A1.*a2.*A10.* have 1 \+ 1 \+ 1 channels together, not the 4"):
        read_pair(pair, Values(4), Values(1))
    stray = save(tmp_path / "train" / "A4" / "7.npy", np.zeros((4, 4), np.uint8))
    assert len(predict.jobs_in_folder(tmp_path, tmp_path / "out", trained)) == 3
    stray.unlink()
    with pytest.raises(UserError, match="takes 2 inputs together, from folders A1, A2, …, of which .* holds 3"):
        predict.jobs_in_folder(tmp_path, tmp_path / "out", replace(trained, inputs=2))
    (tmp_path / "a2" / "1.npy").unlink()
    assert sorted(path.parent.name for path in find_pairs(tmp_path).orphans["train"]) == ["A1", "A10", "B"]
    with pytest.raises(UserError, match="without a partner"):
        predict.jobs_in_folder(tmp_path, tmp_path / "out", trained)


@pytest.mark.parametrize("layout", ["{}/@", "{}_@", "{}@", "@/{}"])
def test_numbered_inputs_and_masks_are_found_in_every_layout(tmp_path, layout):
    for split in ("train", "val"):
        for side in ("A1", "A2", "B", "M"):
            save(tmp_path / layout.format(split).replace("@", side) / "1.png", smooth(len(split)))
    found = find_pairs(tmp_path)
    for split in ("train", "val"):
        pair, = found.splits[split]
        assert len(pair.inputs) == 2
        assert "B" in str(pair.target.relative_to(tmp_path)) and "M" in str(pair.mask.relative_to(tmp_path))
    if "/" in layout:
        jobs = predict.jobs_in_folder(tmp_path, tmp_path / "out", Trained(3, 1, Geometry(), "AtoB", inputs=2))
        assert {job.output for job in jobs} == {tmp_path / "out" / split / "1.png" for split in ("train", "val")}
    assert not found.notes and not found.orphans


def test_a_pair_without_its_mask_or_of_another_size_is_told(tmp_path):
    for side in "ABM":
        for i in range(3):
            save(tmp_path / side / f"{i}.png", smooth(i))
    save(tmp_path / "M" / "1.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="M/1.png is 8×8"):
        for pair in sum(find_pairs(tmp_path).splits.values(), []):
            read_pair(pair, RGB, RGB)
    (tmp_path / "M" / "1.png").unlink()
    assert len(find_pairs(tmp_path).orphans["train"]) == 2


@pytest.mark.parametrize("changes", [{}, dict(gan_loss="lsgan", lambda_fm=10.0)])
def test_ignored_pixels_reach_no_loss_and_no_gradient(small, changes):
    cfg = small(dropout=0.0, **changes)
    torch.manual_seed(0)
    x, y = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    mask = (torch.rand(2, 1, 64, 64) > 0.5).float()
    mask[:, :, :, :20] = 0.25
    masked = torch.cat([y, mask * 2 - 1], 1)
    state = fresh_state(cfg)
    y_fake = state.gen(x).detach().requires_grad_()
    losses = step_for(cfg, state, nullcontext, masked=True)(x, masked)
    torch.testing.assert_close(losses["g_l1"], (mask * (y_fake.detach() - y).abs()).mean())
    shown, target = composite(y_fake, masked)
    (shown - target).abs().sum().backward()
    assert (y_fake.grad[(mask == 0).expand_as(y_fake)] == 0).all()
    assert (y_fake.grad[(mask == 1).expand_as(y_fake)].abs() == 1).all()
    assert torch.equal(shown[(mask == 0).expand_as(y)], y[(mask == 0).expand_as(y)])


def test_grids_show_any_channels():
    four = torch.tensor([-0.7, 0.2, 0.3, 0.9])[:, None, None]
    assert torch.equal(rgb(four), four[:3])
    assert rgb(torch.tensor([-1.0, 0.5])[:, None, None]).flatten().tolist() == [-0.25] * 3
    one_hot = torch.eye(6).reshape(6, 1, 6)
    one_hot[:, :, 0] = 0  # void
    shown = rgb(one_hot)
    assert (shown[:, 0, 0] == -1).all() and len(torch.unique(shown, dim=2)[0, 0]) == 6
    for value in (0.2, 0.0):  # between -1 and 1: of a flow that stands still, everywhere
        assert torch.equal(rgb(torch.full((3, 1, 1), value)), torch.full((3, 1, 1), value))


def test_npy_files_that_are_damaged_or_made_to_harm_are_told_by_name(tmp_path):
    path, whole = tmp_path / "a.npy", io.BytesIO()
    np.save(whole, smooth(0))
    whole = whole.getvalue()
    pickled, huge, zipped = io.BytesIO(), whole.replace(b"(48, 48, 3)", b"(48,99999999)"), io.BytesIO()
    np.save(pickled, np.array([Runs(tmp_path / "canary")], object), allow_pickle=True)
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a.npy", whole)
    flat, text = io.BytesIO(), io.BytesIO()
    np.save(flat, np.zeros(9)), np.save(text, np.full((4, 4), "a"))
    harmful = pickle.dumps(Runs(tmp_path / "canary"))
    for content in (b"", b"text", harmful, whole[:60], whole[:-1], pickled.getvalue(), huge, zipped.getvalue(),
                    flat.getvalue(), text.getvalue(), whole.replace(b"|u1", b"|O8"),
                    whole.replace(b"(48, 48, 3)", b"(-8,-48, 3)")):
        path.write_bytes(content)
        for read in (read_picture, read_header):
            with pytest.raises(DataError, match="a.npy cannot be read"):
                read(path)
    assert not (tmp_path / "canary").exists()
