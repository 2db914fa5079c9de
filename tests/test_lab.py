"""Colourisation: photos to L and ab and back, with scikit-image as the judge, and a network that colours them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import call, paired, save, settings, translated
from PIL import Image
from skimage import color

import evaluate
from config import Config
from dataset import load_data
from generator import Generator
from inference.raster import translate_raster
from inference.trained import Trained
from inference.translate import Translator
from pairs.find import find_pairs
from pairs.geometry import Geometry
from pairs.images import read_picture, write_picture
from pairs.lab import rgb_of
from pairs.picture import Picture, picture_of
from pairs.values import Values, values_of
from train import train
from utils import DataError, UserError

L, AB = Values(1, lab="L"), Values(2, lab="ab")
LAB = Config(space="lab")
TRAINED = Trained(1, 2, Geometry("stretch", 64, 64), space="lab")


def chw(array):
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def hwc(tensor):
    return tensor.numpy().transpose(1, 2, 0)


def photo(height, width, dtype=np.uint8, seed=0):
    """Every colour that there is, also those at the ends."""
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)
    array[:2] = (array[:2] > array[:2].mean()) * np.iinfo(dtype).max
    return array


def lightness(array):
    """(H, W), from 0 to 100, of uint8 or uint16."""
    return color.rgb2lab(array / np.iinfo(array.dtype).max)[..., 0]


@pytest.fixture
def gen():
    """Of 64 pixels; makes strong colours of L."""
    torch.manual_seed(0)
    gen = Generator(1, 2, 4, crop_size=64).eval()
    with torch.no_grad():
        gen.output[1].weight.mul_(60)
    return gen


@pytest.fixture
def translator(gen):
    return Translator(gen, TRAINED, precision="fp32", dropout=False)


def test_colours_that_no_screen_shows_become_paler_and_not_lighter_or_darker():
    generator = torch.Generator().manual_seed(0)
    wild = torch.rand(2, 3, 60, 60, generator=generator)
    wild = wild * torch.tensor([100, 220, 220])[:, None, None] - torch.tensor([0, 110, 110])[:, None, None]
    rgb = rgb_of(wild)
    assert rgb.min() >= 0 and rgb.max() <= 1
    for image, wanted in zip(rgb, wild, strict=True):
        found = color.rgb2lab(hwc(image))
        assert np.abs(found[..., 0] - hwc(wanted)[..., 0]).max() < 0.01
        a, b = (lab[..., 1] + 1j * lab[..., 2] for lab in (found, hwc(wanted)))
        strong = np.abs(a) > 5
        assert np.abs(np.angle(a / b))[strong].max() < 0.01  # the hue stays too
        assert np.abs(a).mean() > 0.3 * np.abs(b).mean()  # and as much colour as there can be


@pytest.mark.parametrize(("dtype", "off"), [(np.uint8, 0), (np.uint16, 4)])
def test_x_and_y_are_scaled_as_in_the_authors_release_and_give_the_photo_back_in_its_depth(dtype, off):
    rgb = photo(24, 30, dtype)
    lab = color.rgb2lab(rgb / np.iinfo(dtype).max)
    x, y = (values.to_network(chw(values.array([picture_of(rgb)]))) for values in (L, AB))
    np.testing.assert_allclose(hwc(x), lab[..., :1] / 50 - 1, atol=1e-4)
    np.testing.assert_allclose(hwc(y), lab[..., 1:] / 110, atol=1e-4)
    back = AB.picture(AB.shown(x, y), deep=dtype == np.uint16).array
    assert back.dtype == dtype and np.abs(back.astype(int) - rgb).max() <= off


@pytest.mark.parametrize(("arrays", "told"), [
    *(([np.zeros((8, 8, channels), floats)], "cannot be taken apart into L and ab")
      for floats in (np.float32, np.float64) for channels in (1, 3)),
    ([np.zeros((8, 8, 4), np.uint8)], "one photo, gray or colour"),
    ([photo(8, 8)] * 2, "are several inputs, of which none can hold .* Lab")])
def test_numbers_of_unknown_range_bands_and_several_inputs_are_refused(arrays, told):
    with pytest.raises(DataError, match=told):
        L.array(list(map(picture_of, arrays)))


def test_lab_sets_the_channels_survives_a_file_and_says_what_its_numbers_are():
    assert (LAB.in_channels, LAB.out_channels) == (1, 2)
    assert Config(**LAB.plain()) == LAB
    with pytest.raises(ValueError, match="best_by must be another where out_channels is not 3, as with space lab"):
        Config(space="lab", best_by="facades")
    assert values_of(LAB.plain()) == (L, AB) and "L of Lab" in str(L) and "a and b of Lab" in str(AB)


def save_photos(folder, *names, size=(60, 40)):
    for seed, name in enumerate(names):
        save(folder / name, Image.fromarray(photo(5, 6, seed=seed)).resize(size, Image.Resampling.BICUBIC))


def test_photos_of_any_folder_are_input_and_target_both(tmp_path):
    save_photos(tmp_path, "train/a.png", "train/dogs/b.png", "val/c.jpg")
    splits = find_pairs(tmp_path, photos=True).splits
    assert [pair.name for pair in splits["train"]] == ["train/a", "train/dogs/b"]
    assert len(splits["val"]) == 1 and all(pair.alone for pairs in splits.values() for pair in pairs)
    save_photos(tmp_path / "one", *(f"{i}.png" for i in range(10)))
    splits = find_pairs(tmp_path / "one", photos=True).splits  # are divided
    assert len(splits["train"]) + len(splits["val"]) == 10 and len(splits["val"]) > 0


def test_names_that_tell_of_pairs_are_pairs_with_lab_too(tmp_path):
    save_photos(tmp_path, "train/1_AB.png", "train/2_AB.png")
    assert all(pair.side_by_side for pair in find_pairs(tmp_path, photos=True).splits["train"])
    save_photos(tmp_path / "ends", "train/1_A.png", "train/1_B.png", "val/2_A.png", "val/2_B.png")
    (pair,) = find_pairs(tmp_path / "ends", photos=True).splits["train"]
    assert (pair.inputs[0].stem, pair.target.stem) == ("1_A", "1_B")


def test_of_a_pair_the_inputs_light_and_the_targets_colours_are_learnt(tmp_path):
    save_photos(tmp_path, "train/A/1.png", "train/B/1.png", "val/A/2.png", "val/B/2.png", size=(64, 64))
    (pair,) = find_pairs(tmp_path, photos=True).splits["train"]
    x, y = paired([pair], Config(space="lab", crop_size=64, load_size=64), train=False)[0]
    of_a, of_b = (color.rgb2lab(np.asarray(Image.open(path))) for path in (pair.inputs[0], pair.target))
    np.testing.assert_allclose(hwc(x), of_a[..., :1] / 50 - 1, atol=1e-4)
    np.testing.assert_allclose(hwc(y), of_b[..., 1:] / 110, atol=1e-4)
    assert np.abs(of_a - of_b).mean() > 5


def test_files_twice_as_wide_as_high_are_told_and_floats_are_refused(tmp_path, capsys):
    save_photos(tmp_path, "train/1.png", "train/2.png", "val/3.png", size=(64, 32))
    cfg = settings(tmp_path, tmp_path / "run", space="lab")
    load_data(cfg)
    assert "all photos are twice as wide as high" in capsys.readouterr().out
    for path in tmp_path.glob("train/*.png"):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((32, 48, 3), np.float32))
    with pytest.raises(UserError, match="Lab takes photos of 8 or 16 bits"):
        load_data(cfg)


@pytest.mark.parametrize("size", [(64, 64), (200, 131), (40, 333)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_output_is_as_light_as_the_input_at_any_size(translator, size, dtype):
    array = photo(*size, dtype)
    made = translator.picture(array)
    level = 100 / np.iinfo(dtype).max
    assert made.dtype == dtype and made.shape == array.shape
    assert np.abs(lightness(made) - lightness(array)).max() < level
    assert np.ptp(made, axis=2).mean() > np.iinfo(dtype).max / 20  # and it has colours


def test_gray_alpha_and_colour_come_in_and_pillow_too(translator):
    rgb = photo(50, 70)
    gray = rgb[..., 0]
    made = translator.picture(gray)
    assert made.shape == rgb.shape and np.abs(lightness(made) - lightness(np.dstack([gray] * 3))).max() < 100 / 255
    alpha = np.full(gray.shape, 255, np.uint8)
    alpha[:9] = 7
    assert (translator.picture(np.dstack([rgb, alpha]))[..., 3] == alpha).all()
    assert translator.picture(Image.fromarray(np.dstack([gray, alpha]), "LA")).mode == "RGBA"
    opaque, half = (translator.picture(np.dstack([rgb, np.full(gray.shape, n, np.uint8)])) for n in (255, 128))
    light = [color.rgb2lab(picture[..., :3])[..., 0] for picture in (opaque, half)]
    assert np.abs(light[0] - light[1]).max() < 1  # white behind it is for whoever shows it
    assert translator.picture(Image.fromarray(gray)).mode == "RGB"


def test_rows_of_a_large_raster_are_equal_to_the_whole(gen, tmp_path):
    source = tmp_path / "in.tif"
    write_picture(source, Picture(photo(300, 140, np.uint16)))
    translator = Translator(gen, TRAINED, tile=128, scale="native", dropout=False)
    translate_raster(translator, source, tmp_path / "out.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "out.tif").array,
                                  translator.numbers([read_picture(source)]))


@pytest.mark.slow
def test_pictures_of_a_run_on_colour_photos_are_compared_and_scored_beside_gray_ones(tmp_path):
    """The rest of the way is that of every kind of data, in test_kinds.py."""
    save_photos(tmp_path / "data", *(f"{split}/{i}.png" for split in ("train", "val") for i in range(3)))
    cfg = settings(tmp_path / "data", tmp_path / "run", space="lab", n_epochs=1, best_by="psnr")
    train(cfg)
    with pytest.raises(UserError, match="space lab, which cannot become rgb"):
        train(replace(cfg, resume=True, space="rgb"))
    checkpoint, picture = tmp_path / "run" / "gen.pth.tar", tmp_path / "data/val/0.png"
    assert translated(checkpoint, picture, tmp_path / "0.png", "--compare")[0] == 0
    assert Image.open(tmp_path / "0.png").size == (120, 40)
    status, told, _ = call(evaluate, "--checkpoint", checkpoint, "--device", "cpu", "--data-root", tmp_path / "data",
                           "--baseline", "identity", "--num-workers", 0)
    assert status == 0 and "psnr" in told and "identity" in told
