"""Pairs whose sides have two sizes of one shape: the smaller is enlarged, to the pixel, in training and afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from conftest import RGB, Values, geometry_of, write_raster
from PIL import Image
from rasterio.transform import from_origin

from config import Config
from dataset import PairedImages, load_data
from generator import Generator
from inference.raster import translate_raster
from inference.trained import Trained
from inference.translate import Translator
from pairs.checks import check_headers
from pairs.find import find_pairs
from pairs.geometry import Geometry, enlargement, has_shape_of, resized
from pairs.identity import Pair
from pairs.images import read_picture, read_place, write_picture
from pairs.jitter import Jitter
from pairs.picture import Picture, picture_of
from pairs.reading import read_pictures
from pairs.tiff import Place
from pairs.values import values_of


def places(width, height, scale=1):
    """(H, W, 3): red is where a pixel's centre lies across, green is down, both of an image of 96 pixels a side."""
    y, x = (np.mgrid[:height, :width] + 0.5) * scale
    return np.stack([x, y, np.full_like(x, 50)], axis=2)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, picture_of(array))
    return path


def small_and_large(kind):
    """A at 24×32 and B at 96×128, of one place."""
    small, large = places(24, 32, 4), places(96, 128)
    scale, dtype = {"png": (1, np.uint8), "npy": (3.7, np.float32), "tif": (100, np.uint16)}[kind]
    return (small * scale).astype(dtype), (large * scale).astype(dtype), scale


@pytest.mark.parametrize(("kind", "layout", "direction", "cache", "flip"), [
    ("png", "folders", "AtoB", "none", "mirror"), ("png", "folders", "BtoA", "ram", "all"),
    ("png", "patterns", "AtoB", "ram", "all"), ("npy", "folders", "AtoB", "none", "all"),
    ("tif", "folders", "BtoA", "none", "mirror"), ("npy", "patterns", "AtoB", "ram", "none")])
def test_both_sides_show_the_same_place_after_crop_and_turns(tmp_path, capsys, kind, layout, direction, cache, flip):
    small, large, scale = small_and_large(kind)
    where = ("{}/A/{}", "{}/B/{}") if layout == "folders" else ("low/{}/{}_lr", "high/{}/{}_hr")
    for split, n in (("train", 3), ("val", 1)):
        for i in range(n):
            for place, array in zip(where, (small, large), strict=True):
                write(tmp_path / f"{place.format(split, f'{split}{i}')}.{kind}", array + array.dtype.type(i))
    patterns = {} if layout == "folders" else {
        "files_a": (f"low/{{split}}/{{name}}_lr.{kind}",), "files_b": f"high/{{split}}/{{name}}_hr.{kind}"}
    limits = None if kind == "png" else (0, 255 * scale)
    cfg = replace(Config(), data_root=tmp_path, direction=direction, resize="none", crop_size=64, flip=flip,
                  cache=cache, range_a=limits, range_b=limits, **patterns)
    train, val, survey = load_data(cfg)
    assert "96×128 each side (A enlarged by 4)" in capsys.readouterr().out
    assert survey.record["enlarge"] == (4 if direction == "AtoB" else 1)
    for data in (train, val):
        for epoch in (1, 2):
            for index in range(len(data)):
                x, y = (((side[:3] + 1) * 127.5) for side in data[epoch, index])  # floats have a mask too
                inside = (y[0] > 2) & (y[0] < 94) & (y[1] > 2) & (y[1] < 126)  # a border has no neighbour beyond
                assert x.shape == y.shape and inside.float().mean() > 0.8
                assert (x - y).abs()[:, inside].max() < 1.1  # of 96 or 128 pixels; a small one has 4


def test_several_inputs_of_two_sizes_become_those_of_the_largest(tmp_path):
    small, large, _ = small_and_large("png")
    files = [write(tmp_path / side / "1.png", array)
             for side, array in (("A1", large), ("A2", small), ("B", large))]
    pair = Pair(tuple(files[:2]), files[2])
    cfg = replace(Config(), in_channels=6, resize="none", crop_size=64)
    x, y = PairedImages([pair], "AtoB", *values_of(cfg.plain()), geometry_of(cfg), jitter=Jitter(cfg))[1, 0]
    assert x.shape == (6, 64, 64) and torch.equal(x[:3], y)
    assert ((x[3:] - y) * 127.5).abs()[:, 4:-4, 4:-4].max() < 1.1
    headers = check_headers([pair])
    assert headers.enlargements() == "A2 enlarged by 4"
    assert headers.input_factor("AtoB") == headers.input_factor("BtoA") == 1


def test_classes_and_masks_are_enlarged_without_new_values(tmp_path):
    classes = np.random.default_rng(0).integers(0, 5, (16, 16), np.uint8)
    a, m = write(tmp_path / "a.png", classes), write(tmp_path / "m.png", (classes > 2).astype(np.uint8) * 255)
    b = write(tmp_path / "b.png", np.zeros((48, 48, 3), np.uint8))
    whole = np.kron(classes, np.ones((3, 3), np.uint8))
    data = PairedImages([Pair((a,), b, m)], "AtoB", Values(5, n_labels=5), RGB, Geometry("none"))
    x, y = data[0]
    assert np.array_equal(x.argmax(0).numpy(), whole) and np.array_equal(y[3].numpy() > 0, whole > 2)
    labels = PairedImages([Pair((a,), b)], "AtoB", Values(1), RGB, Geometry("none"), label_side="A")
    assert np.array_equal(((labels[0][0] + 1) * 127.5)[0].round().numpy(), whole)


@pytest.mark.parametrize("how", ["linear", "bicubic"])
@pytest.mark.parametrize(("hidden", "kind"), [("valid", "uint8"), ("valid", "uint16"), ("valid", "float32"),
                                              ("alpha", "uint8"), ("alpha", "uint16")])
def test_what_is_hidden_or_missing_does_not_bleed_into_its_neighbours(how, hidden, kind):
    array = np.full((8, 8, 5 if hidden == "valid" else 3), 200).astype(kind)
    array[:, 4:] = 0
    seen = np.ones((8, 8), bool)
    seen[:, 4:] = False
    picture = Picture(array, valid=seen)
    if hidden == "alpha":
        picture = Picture(array, alpha=(seen * np.iinfo(kind).max).astype(kind))
    large = resized(picture, (24, 24), how)
    assert large.kind == kind and large.size == (24, 24)
    shown = large.valid if hidden == "valid" else large.alpha > 0
    assert shown.mean() >= 0.5 and np.abs(large.array[shown].astype(float) - 200).max() <= 1
    if hidden == "valid":
        assert (large.array[~shown] == 0).all() and shown.mean() == 0.5


@pytest.mark.parametrize(("size", "other", "wanted"), [
    ((64, 64), (256, 256), True), ((255, 170), (1023, 683), True), ((64, 64), (65, 64), False),
    ((256, 256), (64, 64), False), ((8, 4), (4, 8), False), ((100, 100), (400, 300), False)])
def test_one_shape_is_that_of_a_rounded_reduction(size, other, wanted):
    assert has_shape_of(size, other) == wanted
    # whole where rounding explains the rest
    assert [enlargement((255, 170), (1023, 683)), enlargement((64, 64), (160, 160))] == [4, 2.5]


def test_counts_tell_how_many_pairs_and_by_how_much(tmp_path):
    for i, size in enumerate([(32, 32), (16, 16), (8, 8)]):
        write(tmp_path / f"A/{i}.png", np.zeros((*size, 3), np.uint8))
        write(tmp_path / f"B/{i}.png", np.zeros((32, 32, 3), np.uint8))
    pairs = [pair for split in find_pairs(tmp_path).splits.values() for pair in split]
    assert check_headers(pairs).enlargements() == "A enlarged by 2 to 4 in 2"


def test_arrays_of_an_npz_have_two_sizes_too(tmp_path):
    small, large, _ = small_and_large("png")
    np.savez(tmp_path / "train.npz", sources=np.stack([small] * 3), targets=np.stack([large] * 3))
    assert check_headers(find_pairs(tmp_path).splits["train"]).enlargements() == "A enlarged by 4"


@pytest.fixture
def translator():
    torch.manual_seed(0)
    gen = Generator(ngf=4, crop_size=64)
    return Translator(gen, Trained(3, 3, Geometry("none"), "AtoB", enlarge=3.0), dropout=False, norm="running")


def test_a_translation_is_larger_by_the_factor_of_training(translator):
    array = np.random.default_rng(0).integers(0, 255, (40, 30, 4), np.uint8)
    made = translator.picture(Image.fromarray(array))
    assert made.size == (90, 120) and made.mode == "RGBA"
    large = resized(picture_of(array[..., :3]), (90, 120), "linear").array
    same = Translator(translator.exact, replace(translator.trained, enlarge=1.0), dropout=False, norm="running")
    assert np.array_equal(translator.picture(array[..., :3]), same.picture(large))


def test_a_large_raster_keeps_its_place_when_it_is_enlarged(translator, tmp_path):
    array = np.random.default_rng(0).integers(1, 255, (80, 70, 3), np.uint8)
    array[:16] = 0
    write_raster(tmp_path / "in.tif", array.transpose(2, 0, 1), nodata=0, crs="EPSG:32632",
                 transform=from_origin(500000, 5e6, 30, 30))
    translate_raster(translator, tmp_path / "in.tif", tmp_path / "out.tif")
    place = Place.of(rasterio.open(tmp_path / "out.tif"))
    assert place.transform[:6] == (10, 0, 500000, 0, -10, 5e6) == read_place(tmp_path / "in.tif").scaled(
        (70, 80), (210, 240)).transform[:6]
    made, whole = read_picture(tmp_path / "out.tif"), translator.numbers([read_picture(tmp_path / "in.tif")])
    assert made.size == (210, 240) and not made.valid[:48].any() and made.valid[48:].all()
    assert np.abs(made.array[60:].astype(int) - whole[60:]).mean() < 1  # holes blur into no row that far below


def test_inputs_of_two_formats_are_decoded_at_one_size(tmp_path):
    """Of a JPEG, an eighth of the size may be enough; a PNG beside it is read whole."""
    image = Image.new("RGB", (640, 640), "red")
    paths = [tmp_path / name for name in ("a1.jpg", "a2.png", "b.jpg")]
    for path in paths:
        image.save(path)
    pair = Pair(tuple(paths[:2]), paths[2], None)
    (first, second), (target,), _ = read_pictures(pair, lambda size: (72, 72))
    assert first.size == second.size == (640, 640) and target.size == (80, 80)
