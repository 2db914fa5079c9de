"""Rasters of any size: equal to the whole image, in little memory, on the map, and going on where they stopped."""

import contextlib
import itertools
import os

import numpy as np
import pytest
import rasterio
import torch
from conftest import wait_until, write_raster
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

import inference.raster as raster_module
import inference.translate as translate_module
from generator import Generator
from inference.raster import Parts, taps, translate_raster
from inference.trained import Trained
from inference.translate import Translator
from pairs.geometry import Geometry, resize
from pairs.images import read_picture
from predict import Job, Predict, predict
from utils import DataError, UserError

PLACE = dict(crs="EPSG:32632", transform=from_origin(500000, 5300000, 0.2, 0.2))


@pytest.fixture
def gen(monkeypatch):
    """A network that takes multiples of 64, and tiles whatever is larger than 128 × 128."""
    torch.manual_seed(0)
    monkeypatch.setattr(translate_module, "PIXELS", 128 * 128)
    return Generator(3, 3, 4, crop_size=64).eval()


def write(path, array, **told):
    """(H, W, C) as a GeoTIFF."""
    return write_raster(path, array.transpose(2, 0, 1), **PLACE, **told)


def noise(height, width, n=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, n), dtype, endpoint=True)


def translated(gen, source, tile=0, **options):
    """As predict.py makes out.tif beside it."""
    output = source.with_name("out.tif")
    opts = Predict(source.parent, source, output, **options)
    assert predict(Translator(gen, scale="native", tile=tile), [Job((source,), output)], opts) == []


@pytest.mark.parametrize("size", [(300, 210), (64, 700), (451, 64), (257, 130)])
@pytest.mark.parametrize("rows", [7, 64, 1000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.long
def test_rows_of_any_number_are_equal_to_the_whole_image(gen, tmp_path, monkeypatch, size, rows, dtype):
    monkeypatch.setattr(raster_module, "ROWS", rows)
    source = write(tmp_path / "in.tif", noise(*size, dtype=dtype))
    translator = Translator(gen, tile=128, scale="native", precision="fp32")
    translate_raster(translator, source, tmp_path / "out.tif")
    whole = translator.numbers([read_picture(source)])
    assert whole.dtype == dtype and np.ptp(whole) > 50
    np.testing.assert_array_equal(read_picture(tmp_path / "out.tif").array, whole)
    assert [path.name for path in tmp_path.iterdir() if "tif" not in path.suffix] == []  # no parts are left


@pytest.mark.parametrize("scale", [0.37, 1.6])
@pytest.mark.long
def test_at_another_scale_rows_of_any_number_agree_and_are_those_of_the_whole_but_for_rounding(
        gen, tmp_path, monkeypatch, scale):
    array = noise(40, 60).repeat(9, 0).repeat(9, 1)
    source = write(tmp_path / "in.tif", array)
    translator = Translator(gen, tile=64, scale=scale, precision="fp32", dropout=False)
    results = []
    for rows in (11, 1000):
        monkeypatch.setattr(raster_module, "ROWS", rows)
        translate_raster(translator, source, tmp_path / f"{rows}.tif")
        results.append(read_picture(tmp_path / f"{rows}.tif").array)
    np.testing.assert_array_equal(*results)
    whole = translator.numbers([read_picture(source)])
    assert np.abs(results[0].astype(int) - whole).max() <= 2 and np.ptp(whole) > 30


@pytest.mark.parametrize("how", ["linear", "bicubic", "nearest"])
@pytest.mark.parametrize(("old", "new"), [(100, 37), (37, 100), (64, 64), (300, 299), (5, 64), (90, 30)])
def test_the_weights_of_an_axis_are_those_of_resize(how, old, new):
    array = np.random.default_rng(1).random((old, 8, 3), np.float32)
    whole = resize(array, (8, new), how)
    rows = np.concatenate([taps(old, new, how).apply(array, 0, i, i + 1, 0) for i in range(new)])
    np.testing.assert_allclose(rows.clip(0, 1), whole, atol=1e-3)  # of 1: a quarter of a level of 8 bits


def interrupt(translator, n, once=lambda: True):
    """From now on, every n-th call of the network is, once that holds."""
    run, calls = translator._run, itertools.count(1)

    def interrupted(*args):
        if next(calls) % n == 0:
            wait_until(once, running=lambda: True)
            raise KeyboardInterrupt
        return run(*args)

    translator._run = interrupted


@pytest.mark.parametrize("stop", range(0, 10, 3))
def test_a_raster_goes_on_where_it_stopped_to_the_bit(gen, tmp_path, monkeypatch, stop):
    """Stopped after so many calls of the network, again and again, once by a power failure that cuts a part short."""
    monkeypatch.setattr(raster_module, "ROWS", 16)
    source = write(tmp_path / "in.tif", noise(330, 200))
    translator = Translator(gen, tile=128, scale="native", precision="fp32")
    translate_raster(translator, source, tmp_path / "whole.tif")
    interrupt(translator, stop + 12)
    cut = None
    while not (tmp_path / "out.tif").exists():
        with contextlib.suppress(KeyboardInterrupt):
            translate_raster(translator, source, tmp_path / "out.tif")
        if not cut and (parts := sorted((tmp_path / "out.tif.parts").glob("*.npz"))):
            cut = parts[-1]
            os.truncate(cut, cut.stat().st_size // 2)
    assert cut or stop > 3
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not (tmp_path / "out.tif.parts").exists()


def test_parts_of_another_job_do_not_count(gen, tmp_path, monkeypatch):
    monkeypatch.setattr(raster_module, "ROWS", 16)
    source, output = write(tmp_path / "in.tif", noise(330, 200)), tmp_path / "out.tif"
    stopped = Translator(gen, tile=128, scale="native", precision="fp32", seed=1)
    parts = tmp_path / "out.tif.parts"
    interrupt(stopped, 5, once=lambda: len([*parts.glob("*.npz")]) > 1)
    with pytest.raises(KeyboardInterrupt):
        translate_raster(stopped, source, output)
    assert not output.exists()
    other = Translator(gen, tile=128, scale="native", precision="fp32", seed=2)
    translate_raster(other, source, output)
    np.testing.assert_array_equal(read_picture(output).array, other.numbers([read_picture(source)]))


def test_a_folder_that_is_somebody_elses_is_left_alone(gen, tmp_path):
    (tmp_path / "out.tif.parts").mkdir()
    (tmp_path / "out.tif.parts" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="out.tif.parts is there already"):
        translate_raster(Translator(gen, tile=64), write(tmp_path / "in.tif", noise(200, 200)), tmp_path / "out.tif")
    assert (tmp_path / "out.tif.parts" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("seed", [0, 1])
def test_two_processes_never_translate_to_one_file(gen, tmp_path, monkeypatch, seed):
    """Nor does one with other settings take away what the other has done."""
    source, add = write(tmp_path / "in.tif", noise(200, 200)), Parts.add

    def begin(seed, output):
        translate_raster(Translator(gen, tile=64, scale="native", seed=seed), source, output)

    def second(self, part):
        with pytest.raises(UserError, match="another process is translating to .*out.tif: wait"):
            begin(seed, tmp_path / "out.tif")
        return add(self, part)

    begin(0, tmp_path / "alone.tif")
    monkeypatch.setattr(Parts, "add", second)
    begin(0, tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "alone.tif").read_bytes()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.long
def test_the_output_lies_where_the_input_lies(gen, tmp_path, large):
    """CRS, transform or control points, nodata, names of bands; holes stay holes, and no other pixel becomes one."""
    array = noise(200 if large else 60, 190)
    array[20:40, 30:70] = 7
    source = write(tmp_path / "in.tif", array, nodata=7)
    with rasterio.open(source, "r+") as image:
        image.descriptions = ("red", "green", "near infrared")
    translated(gen, source, tile=64 if large else 0)
    with rasterio.open(tmp_path / "out.tif") as image:
        assert image.crs == PLACE["crs"] and image.transform == PLACE["transform"] and image.nodata == 7
        assert image.descriptions == ("red", "green", "near infrared")
        holes = image.dataset_mask() == 0
    points = [GroundControlPoint(row, column, 11 + column, 48 - row) for row, column in ((0, 0), (0, 50), (50, 0))]
    for crs in (PLACE["crs"], rasterio.crs.CRS()):
        source = write_raster(tmp_path / "scan.tif", array.transpose(2, 0, 1), crs=crs, gcps=points)
        translated(gen, source, tile=64 if large else 0)
        with rasterio.open(tmp_path / "out.tif") as image:
            assert image.gcps[1] == (crs or None)
            assert [(p.row, p.x) for p in image.gcps[0]] == [(p.row, p.x) for p in points]
    one, x, y = np.eye(20)[:3].tolist()
    rpcs = rasterio.rpc.RPC(0, 100, 45, 0.1, one, y, 45, 45, 15, 0.1, one, x, 45, 45)
    translated(gen, write_raster(source, array.transpose(2, 0, 1), rpcs=rpcs), tile=64 if large else 0)
    with rasterio.open(tmp_path / "out.tif") as image:
        assert (image.rpcs.line_off, image.rpcs.samp_num_coeff) == (rpcs.line_off, rpcs.samp_num_coeff)
    expected = np.zeros_like(holes)
    expected[20:40, 30:70] = True
    np.testing.assert_array_equal(holes, expected)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("nodata", "kind"), [(-9999, "uint8"), (np.nan, "uint16"), (-np.finfo(float).max, "float32")])
def test_a_number_that_the_output_cannot_hold_becomes_a_mask(gen, tmp_path, monkeypatch, large, nodata, kind):
    """Also where only some of the parts have a hole."""
    monkeypatch.setattr(raster_module, "ROWS", 64)
    array = np.random.default_rng(0).random((200 if large else 60, 190, 3))
    array[20:40, 30:70] = nodata
    source = write(tmp_path / "in.tif", array, nodata=nodata)
    gen.trained = Trained(3, 3, Geometry("none"), "AtoB", range_a=(0, 1), kind=kind)
    translated(gen, source, tile=64 if large else 0)
    with rasterio.open(tmp_path / "out.tif") as image:
        assert image.nodata is None and image.dtypes[0] == kind
        holes = image.dataset_mask() == 0
    assert holes[20:40, 30:70].all() and holes.sum() == 20 * 40


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("limits", "told"), [((-1, 1), True), ((0, 200), False)])
def test_numbers_of_another_range_than_that_of_training_are_told(gen, tmp_path, capsys, large, limits, told):
    source = write(tmp_path / "in.tif", noise(200 if large else 60, 190))
    gen.trained = Trained(3, 3, Geometry("none"), "AtoB", range_a=limits)
    translated(gen, source, tile=64 if large else 0)
    assert ("in.tif: 99% of the values lie outside of -1 to 1" in capsys.readouterr().out) == told


@pytest.mark.parametrize("at_once", [128**2, 2048**2])
def test_the_command_keeps_reduced_copies_of_any_raster_and_tells_of_further_pages(gen, tmp_path, monkeypatch, capsys,
                                                                                   at_once):
    monkeypatch.setattr(translate_module, "PIXELS", at_once)
    source = tmp_path / "stack.tif"
    pages = [Image.fromarray(noise(600, 520))] * 2
    pages[0].save(source, save_all=True, append_images=pages[1:])
    translated(gen, source, overviews=True)
    with rasterio.open(tmp_path / "out.tif") as image:
        assert image.overviews(1) == [2] and (at_once > 128**2 or image.block_shapes[0] == (256, 256))
        assert np.abs(image.read(out_shape=(3, 300, 260)).astype(int).mean() - image.read().mean()) < 2
    out = capsys.readouterr().out
    assert "several pages" in out and "the first" in out and "stack.tif" in out


@pytest.mark.parametrize("fault", ["cut", "full"])
def test_a_damaged_input_or_a_full_disk_leaves_no_half_file(gen, tmp_path, monkeypatch, fault):
    source = write(tmp_path / "in.tif", noise(600, 520))
    if fault == "cut":
        os.truncate(source, 100_000)
    else:
        monkeypatch.setattr(Parts, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="in.tif is not translated to .*out.tif: .*(damaged|No space left)"):
        translate_raster(Translator(gen, tile=256, scale="native"), source, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()
    assert not torch.is_inference_mode_enabled()


def test_wide_images_have_smaller_tiles():
    widths = 6000, 10_000, 12_000, 20_000, 90_000
    assert [translate_module.tile_for(Generator(ngf=1), 9000, width) for width in widths] == [1024, 1024, 768, 512, 512]


def test_gray_becomes_colour_as_everywhere_and_bands_that_the_network_does_not_take_are_told(gen, tmp_path):
    gray, four = (write(tmp_path / f"{n}.tif", noise(300, 300, n)) for n in (1, 4))
    translator = Translator(gen, tile=64, scale="native")
    translate_raster(translator, gray, tmp_path / "out.tif")
    assert read_picture(tmp_path / "out.tif").channels == 3
    with pytest.raises(DataError, match="4.tif has 4 channels, not the 3"):
        translate_raster(translator, four, tmp_path / "out.tif")


def test_tiles_of_one_image_share_its_statistics(gen):
    """Left half black, right half noise: a flat tile's own statistics would blow up what is hardly there."""
    x = torch.full((1, 3, 256, 512), 128, dtype=torch.uint8)
    x[..., 256:] = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    options = dict(scale="native", precision="fp32", dropout=False, tile=128)
    whole = Translator(gen, **options | dict(tile=0))
    with torch.inference_mode():
        wanted = whole._run(None, x)
    errors = {norm: (Translator(gen, norm=norm, **options).tensor(x) - wanted).abs().mean()
              for norm in ("image", "tile")}
    assert errors["image"] < errors["tile"] / 2
    before = {name: value.clone() for name, value in gen.state_dict().items()}
    Translator(gen, **options).tensor(x)
    assert all(torch.equal(value, before[name]) for name, value in gen.state_dict().items())


def test_of_several_tiled_images_each_has_its_own_statistics(gen):
    x = torch.randint(0, 256, (2, 3, 256, 192), dtype=torch.uint8)
    x[1] //= 4
    translator = Translator(gen, scale="native", precision="fp32")
    together = translator.tensor(x)
    for image, alone in zip(x, together, strict=True):
        torch.testing.assert_close(translator.tensor(image[None])[0], alone, rtol=0, atol=0)
