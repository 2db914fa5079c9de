"""What a mask leaves out never matters: not for what is trained on, not for what is scored, at any size."""

import csv
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import pair_of, paired, save, settings, trained_by, write_raster, write_sides
from PIL import Image

from config import Config
from evaluate import Evaluate, evaluate, load_pairs, predictions
from inference.metrics import Checkerboard
from pairs.images import read_picture
from pairs.reading import read_pair
from pairs.values import Values, mask_weight
from utils import DataError, UserError

HEIGHT, WIDTH = 90, 130


def target(depth, seed=0):
    """A colour image of 8 or 16 bits."""
    coarse = np.random.default_rng(seed).integers(0, 2**depth, (9, 13, 3)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT)).astype(f"uint{depth}")


def holes():
    """A mask, black in a disc, in single pixels, and along an edge; gray in a stripe."""
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    cv2.circle(mask, (60, 40), 17, 0, -1)
    mask[np.random.default_rng(0).random(mask.shape) < 0.03] = 0
    mask[:, -7:] = 0
    mask[20:30, 90:110] = 90
    return mask


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)
    return path


@pytest.fixture
def item(tmp_path):
    """x and y with its mask, as the settings show the pair of a target and a mask."""

    def read(b, mask=None, train=True, enlarge=1, **changes):
        a = cv2.resize(target(8, seed=1), [int(enlarge * side) for side in b.shape[1::-1]])
        if changes.get("direction") == "BtoA":
            a, b = b, a
        a = write(tmp_path / "A" / "0.png", a)
        b = write(tmp_path / "B" / "0.png", b)
        m = None if mask is None else write(tmp_path / "M" / "0.png", mask)
        cfg = replace(Config(), **{"crop_size": 64, "load_size": 72, **changes})
        return torch.cat(paired([pair_of(a, b, m)], cfg, train=train)[0])

    return read


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("generator", ["unet", "release"])
@pytest.mark.parametrize("label_side", ["none", "B", "both"])
def test_what_fills_a_hole_changes_nothing_to_the_bit(item, label_side, generator, depth, train):
    mask = holes()
    hole = (mask == 0)[..., None]
    black, noise = np.zeros_like(target(depth)), target(depth, seed=9)[::-1]
    for geometry in (dict(resize="stretch"), dict(resize="stretch", load_size=200, crop_size=192),
                     dict(resize="stretch", load_size=80, crop_width=256), dict(resize="aspect"), dict(resize="none")):
        words = dict(train=train, label_side=label_side, generator=generator, **geometry)
        one, other = (item(np.where(hole, fill, target(depth)), mask, **words) for fill in (black, noise))
        assert torch.equal(one, other)
        counts = one[6] > -1
        assert counts.any() and not counts.all() and one[3:6, counts].std() > 0.1


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("fine", [1, 2])
def test_what_fills_a_hole_changes_nothing_where_the_target_is_enlarged(item, direction, depth, fine):
    hole = (holes() == 0)[..., None]
    mask = np.kron(holes(), np.ones((fine, fine), np.uint8))  # of the size of either side
    words = dict(enlarge=2, direction=direction, resize="none", train=False)
    one, other = (item(np.where(hole, fill, target(depth)), mask, **words)
                  for fill in (np.zeros_like(target(depth)), target(depth, seed=9)[::-1]))
    assert torch.equal(one, other)
    plain = item(target(depth), **words)
    white = cv2.erode(np.kron(holes(), np.ones((2, 2), np.uint8)), np.ones((7, 7))) == 255
    assert white.any() and (one[:6] - plain)[:, white].abs().max() < 0.01


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_mask_hides_nothing_of_an_input_that_is_enlarged(item, direction):
    words = dict(enlarge=0.5, direction=direction, resize="none", train=False)
    assert torch.equal(item(target(8), holes(), **words)[:3], item(target(8), **words)[:3])


def test_new_colours_of_the_target_leave_holes_black(item):
    y = item(target(8), holes(), label_side="A", color_jitter=0.5)[3:]
    plain = item(target(8), holes(), label_side="A")[3:]
    assert (y[3] == plain[3]).all() and not torch.equal(y[:3], plain[:3])
    assert (y[:3, y[3] == -1] == -1).all() and (y[3] == -1).any()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_pixel_is_the_mean_of_what_the_mask_shows_and_counts_by_its_share(item, depth):
    """By hand, at half the size."""
    mask, b = np.pad(holes(), ((0, 6), (0, 62))), np.pad(target(depth), ((0, 6), (0, 62), (0, 0)))  # 96 × 192
    weight = mask.reshape(48, 2, 96, 2).astype(float)
    blocks = b[..., ::-1].reshape(48, 2, 96, 2, 3).astype(float)  # from OpenCV's BGR
    share = weight.mean((1, 3))
    mean = (blocks * weight[..., None]).sum((1, 3)) / np.maximum(weight.sum((1, 3)), 1)[..., None]
    y = item(b, mask, train=False, crop_size=48, crop_width=96, load_size=48)[3:]
    np.testing.assert_allclose((y[3] + 1) * 127.5, share, atol=0.51)
    seen = share > 1
    top = 2**depth - 1
    made = ((y[:3].permute(1, 2, 0) + 1) / 2 * top)[seen]
    np.testing.assert_allclose(made, mean[seen], atol=0.51 if depth == 8 else 2)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("generator", ["unet", "release"])
def test_a_white_mask_changes_no_pixel(item, generator, depth, train):
    for geometry in (dict(), dict(resize="aspect"), dict(resize="none"), dict(load_size=200, crop_size=192)):
        words = dict(train=train, generator=generator, **geometry)
        with_mask = item(target(depth), np.full((HEIGHT, WIDTH), 255, np.uint8), **words)
        assert torch.equal(with_mask[:6], item(target(depth), **words)) and (with_mask[6] == 1).all()


def numpy_file(path, array):
    return save(path.with_suffix(".npy"), array)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("paint", [255, 0])
def test_paint_on_a_transparent_layer_is_a_mask(tmp_path, mode, paint):
    """White paint counts on a layer where nothing else does, black paint hides on one where all else counts."""
    marked = holes() == 0
    layer = np.zeros((HEIGHT, WIDTH, len(mode)), np.uint8)
    layer[marked] = [paint] * (len(mode) - 1) + [255]
    Image.fromarray(layer).save(tmp_path / "mask.png")
    weight = mask_weight(read_picture(tmp_path / "mask.png"))[..., 0]
    assert np.array_equal(weight, np.where(marked == (paint == 255), 255, 0))


def test_a_layer_without_paint_is_no_mask(tmp_path):
    save(tmp_path / "mask.png", np.zeros((HEIGHT, WIDTH, 4), np.uint8))
    with pytest.raises(DataError, match=r"mask\.png is transparent everywhere.* white or black"):
        mask_weight(read_picture(tmp_path / "mask.png"))


def by_rasterio(path, array, driver="GTiff", **told):
    return write_raster(path.with_suffix({"GTiff": ".tif", "PNG": ".png"}[driver]), array[None], driver=driver, **told)


def with_palette(path, array, colours):
    image = Image.frombytes("P", array.shape[::-1], array.astype(np.uint8).tobytes())
    image.putpalette(colours)
    return save(path.with_suffix(".png"), image)


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # the first colours of PASCAL VOC's palette
WHITES = {
    **{f"{dtype} of 0 and {top}, {how.__name__}": lambda path, on, dtype=dtype, top=top, how=how: how(
        path, (on * top).astype(dtype))
       for dtype, tops in (("uint8", (1, 255)), ("uint16", (1, 255, 65535)), ("int32", (1, 255, 65535)),
                           ("float32", (1, 255)))
       for top in tops for how in (numpy_file, by_rasterio)},
    "bool": lambda path, on: numpy_file(path, on),
    **{f"PNG of {bits} bits": lambda path, on, bits=bits: by_rasterio(path, on.astype(np.uint8), "PNG", nbits=bits)
       for bits in (1, 2, 4)},
    **{f"PNG of 16 bits, {top}": lambda path, on, top=top: write(path.with_suffix(".png"), (on * top).astype(np.uint16))
       for top in (1, 255, 65535)},
    "VOC's palette, 1": lambda path, on: with_palette(path, on, VOC),
    "VOC's palette, 3": lambda path, on: with_palette(path, on * 3, VOC),
    "a palette of 0 white and 1 black": lambda path, on: with_palette(path, ~on, [255] * 3 + [0] * 3),
    "a TIFF's palette": lambda path, on: by_rasterio(
        path, on.astype(np.uint8), palette={0: (0, 0, 0, 255), 1: (0, 90, 30, 255)}, photometric="PALETTE"),
    "a TIFF whose white is tagged as no data": lambda path, on: by_rasterio(path, on * np.uint8(255), nodata=255),
    "a TIFF whose black is tagged as no data": lambda path, on: by_rasterio(path, on * np.uint8(255), nodata=0),
}


@pytest.mark.parametrize("kind", WHITES)
def test_white_counts_whole_whatever_its_depth(tmp_path, kind):
    on = holes() > 0
    photo = write(tmp_path / "photo.png", target(8))
    for some in (on, np.ones_like(on), np.zeros_like(on)):
        mask = WHITES[kind](tmp_path / "M" / "0", some)
        weight = read_pair(pair_of(photo, photo, mask), Values(), Values())[2][..., 0]
        np.testing.assert_array_equal(weight, some * (255 if weight.dtype == np.uint8 else 1.0))


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 255), ("uint16", 65535), ("float32", 1),
                                            ("float64", 255)])
def test_gray_masks_weigh_by_the_range_that_they_use(tmp_path, dtype, top):
    ramp = np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)
    photo = write(tmp_path / "photo.png", target(8))
    for mask, wanted in ((save(tmp_path / "ramp.npy", ramp), ramp / top),
                         (write(tmp_path / "half.png", np.uint8(128) * (holes() > 0)), 128 / 255 * (holes() > 0))):
        weight = read_pair(pair_of(photo, photo, mask), Values(), Values())[2][..., 0]
        np.testing.assert_allclose(weight / (255 if weight.dtype == np.uint8 else 1), wanted, atol=1e-6)


@pytest.mark.parametrize("black", [1, 2])
def test_pairs_in_which_nothing_counts_have_no_part_in_any_mean(tmp_path, black, capsys):
    sides = {side: lambda i, first=first: cv2.resize(target(8, 2 * i + first), (48, 48))
             for first, side in enumerate(("A.png", "B.png"))}
    below = (np.arange(48) >= 20).repeat(48).reshape(48, 48)
    sides["M.png"] = lambda i: np.uint8(255 * (i < 102) * below)  # in training, and in two of val, the top is hidden
    data = write_sides(tmp_path / "data", sides, n=2, n_val=2 + black)
    cfg = settings(data, tmp_path / "run", n_epochs=1, best_by="psnr")
    gen = trained_by(cfg)
    row, = csv.DictReader((cfg.out_dir / "log.csv").open())
    opts = Evaluate(cfg.out_dir / "gen.pth.tar", data, num_workers=0, device="cpu")
    capsys.readouterr()
    found = evaluate(gen, *load_pairs(opts, gen), opts)
    said = capsys.readouterr().out
    assert f"or pixels hold no value): {black} of {2 + black} pairs" in said
    assert "not finite" not in said and [math.isnan(l1) for l1 in found["l1_of_each"]] == [False] * 2 + [True] * black
    scores = found["scores"]["output"]
    assert 1 < scores["psnr"]["mean"] < 60
    for name in ("l1", "psnr", "ssim"):
        assert float(row[f"val_{name}"]) == pytest.approx(scores[name]["mean"], rel=1e-3)
    board = Checkerboard()  # of blocks without a rim, of which there are none above row 16 of 32
    for _, y_fake, y in [*predictions(gen, load_pairs(opts, gen)[0], range(2), opts)]:
        board.update(y_fake[:, 16:], y[:3, 16:])
    assert scores["nyquist"] == pytest.approx(board.compute()["nyquist"])
    for path in (data / "val" / "M").iterdir():
        write(path, np.zeros((48, 48), np.uint8))
    with pytest.raises(UserError, match=f"none of the {2 + black} pairs can be scored"):
        evaluate(gen, *load_pairs(opts, gen), opts)
    cfg = replace(cfg, out_dir=tmp_path / "labels", label_side="B", best_by="facades")
    assert trained_by(cfg).trained.epoch == 1  # it ended with a traceback
    row, = csv.DictReader((cfg.out_dir / "log.csv").open())
    assert float(row["val_label_accuracy"]) == 0
