"""TIFFs are read as tifffile and other libraries wrote them, or refused in a sentence that is true; and the other way.

Each test holds against a decoder that was once trusted with what it does not know: bands out of order, bands taken for
transparency, numbers turned round or cut off.
"""

import io
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import save, settings
from PIL import Image

from dataset import PairedImages, load_data
from pairs import tiff
from pairs.find import Pair
from pairs.images import read_header, read_picture, read_place, write_picture
from pairs.jitter import Jitter
from pairs.picture import TURNED, Picture, picture_of, to_array
from pairs.values import Values
from train import train
from utils import DataError, UserError

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")  # pytest resets our own filter
KINDS = [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64]
BANDS = [1, 2, 3, 4, 5, 13]
SHAPE = 17, 24  # height, width


def numbers(kind, bands, shape=SHAPE, seed=0):
    """Of the whole range of the type, its ends included."""
    rng = np.random.default_rng(seed)
    if np.dtype(kind).kind == "f":
        array = rng.uniform(-3000, 3000, (*shape, bands)).astype(kind)
    else:
        ends = np.iinfo(kind)
        array = rng.integers(ends.min, ends.max, (*shape, bands), kind, endpoint=True)
        array[0, :2] = [[ends.min] * bands, [ends.max] * bands]
    return array


def tag(number, value):
    return (number, 2, 0, value, True) if isinstance(value, str) else (number, 3, 1, value, True)


def written(array, planar="contig", **options):
    """The bytes of what tifffile makes of (H, W, C)."""
    if array.shape[2] == 1:
        array, planar = array[..., 0], None
    elif planar == "separate":
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    options = {"photometric": "rgb" if planar and array.ndim == 3 and 3 in (array.shape[0], array.shape[-1])
               else "minisblack", **options}
    file = io.BytesIO()
    tifffile.imwrite(file, array, planarconfig=planar, metadata=None, **options)
    return file.getvalue()


def outcome(file, wanted):
    """"right", "wrong" or the sentence of the refusal."""
    try:
        picture = read_picture(file)
    except DataError as error:
        return str(error)
    same = picture.array.shape == wanted.shape and np.array_equal(picture.array, wanted.astype(picture.array.dtype))
    plain = picture.alpha is None and picture.valid is None
    return "right" if same and plain and picture.kind in ("uint8", "uint16", "float32") else "wrong"


@pytest.mark.long
def test_every_type_band_count_and_layout_is_read_as_it_was_written():
    layouts = itertools.product(KINDS, BANDS, ("contig", "separate"), ({}, dict(tile=(16, 16)), dict(rowsperstrip=5)),
                                (None, "deflate", "lzw", "zstd"))
    results = {}
    for n, (kind, bands, planar, place, compression) in enumerate(layouts):
        order = "<>"[n // 4 % 2]
        array = numbers(kind, bands, seed=n % 7)
        file = written(array, planar, compression=compression, byteorder=order, **place)
        results[np.dtype(kind).name, bands, planar, str(place), compression, order] = outcome(file, array)
    assert len(results) == len(KINDS) * len(BANDS) * 2 * 3 * 4
    assert {key: result for key, result in results.items() if result != "right"} == {}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_orientation_is_applied_once_to_pixels_and_to_the_size(tmp_path, bands, orientation):
    for kind in (np.uint8, np.uint16, np.float32):
        array = numbers(kind, bands)
        upright = TURNED.get(orientation, np.asarray)(array)
        (tmp_path / "a.tif").write_bytes(written(array, extratags=[tag(274, orientation)]))
        picture = read_picture(tmp_path / "a.tif")
        np.testing.assert_array_equal(picture.array, upright)
        assert picture.size == read_header(tmp_path / "a.tif").size == upright.shape[1::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_where_0_is_white_the_numbers_are_turned_round_or_refused(kind):
    """As Pillow and OpenCV do with 8 bits, and not with 16."""
    array = numbers(kind, 1)
    file = written(array, photometric="miniswhite")
    if np.dtype(kind).kind == "u":
        turned = np.iinfo(kind).max - array
        assert outcome(file, turned) == "right"
        np.testing.assert_array_equal(read_picture(file).indices, array[..., 0])  # classes are no brightness
    else:
        assert "colours are not read: PhotometricInterpretation 0" in outcome(file, array)
    if kind == np.uint8:
        with Image.open(io.BytesIO(file)) as image:
            np.testing.assert_array_equal(np.asarray(image), turned[..., 0])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("white_is_0", [False, True])
def test_few_bits_go_from_black_to_white_and_stay_indices(bits, white_is_0):
    """Packed by hand: the whole range counts, as in a PNG, but classes keep their numbers."""
    raw = np.random.default_rng(0).integers(0, 2**bits, (16, 24), np.uint8)
    packed = np.packbits(np.unpackbits(raw[..., None], axis=2)[..., 8 - bits :].reshape(16, -1), axis=1).tobytes()
    tags = {256: 24, 257: 16, 258: bits, 259: 1, 262: 0 if white_is_0 else 1, 273: 8, 277: 1, 278: 16, 279: len(packed)}
    file = (b"II*\0" + (8 + len(packed)).to_bytes(4, "little") + packed + len(tags).to_bytes(2, "little")
            + b"".join(number.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
                       for number, value in tags.items()) + bytes(4))
    picture = read_picture(file)
    np.testing.assert_array_equal(picture.indices, raw)
    with Image.open(io.BytesIO(file)) as image:
        np.testing.assert_array_equal(picture.array[..., 0], np.asarray(image.convert("L")))


def test_a_palette_gives_colours_and_for_classes_its_indices(tmp_path):
    indices = np.random.default_rng(0).integers(0, 5, SHAPE, np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    palette = Image.fromarray(indices).convert("P")
    palette.putdata(indices.flatten().tolist())
    palette.putpalette(colours.flatten().tolist())
    palette.save(tmp_path / "pillow.tif")
    tifffile.imwrite(tmp_path / "tifffile.tif", indices, photometric="palette", metadata=None,
                     colormap=colours.T.astype(np.uint16) * 257)
    for name in ("pillow", "tifffile"):
        picture = read_picture(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(to_array(picture, 3), colours[indices])
        np.testing.assert_array_equal(Values(5, n_labels=5).array([picture])[..., 0], indices)


@pytest.mark.parametrize("kind", [np.int16, np.uint32, np.int32])
def test_class_indices_of_any_whole_type_stay_what_they_are(kind):
    array = np.array([[0, 4, 2**15 - 1 if kind == np.int16 else 2**24 - 1]], kind)[..., None]
    picture = read_picture(written(array))
    assert picture.indices.tolist() == array[..., 0].tolist() == picture.array[..., 0].tolist()
    assert Values(5, n_labels=5).array([picture])[..., 0].tolist() == [[0, 4, 255]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colours_become_rgb_as_pillow_has_them_and_a_jpeg_inside_keeps_its_own(tmp_path, mode):
    rgb = Image.fromarray(np.kron(numbers(np.uint8, 3, (3, 4)), np.ones((8, 8, 1), np.uint8)))
    rgb.convert(mode).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        wanted = np.asarray(image.convert("RGB")).astype(int)
    assert abs(read_picture(tmp_path / "a.tif").array - wanted).max() <= 2
    file = written(np.full((32, 32, 3), [200, 100, 50], np.uint8), compression="jpeg")
    assert abs(read_picture(file).array.astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize(("array", "options", "said"), [
    (numbers(np.uint16, 4), dict(photometric="separated"), "colours that GDAL does not turn into RGB"),
    (numbers(np.uint8, 3), dict(photometric="cielab"), "PhotometricInterpretation 8 of 3 bands"),
    (numbers(np.float32, 1).astype(np.complex64), {}, "64 bits, SampleFormat 6"),
    (numbers(np.uint8, 65), {}, "65 bands, of which at most 64 are read"),
    (numbers(np.uint8, 3), dict(photometric="miniswhite"), "PhotometricInterpretation 0 of 3 bands")])
def test_what_is_not_read_is_refused_in_a_sentence(tmp_path, array, options, said):
    (tmp_path / "odd.tif").write_bytes(written(array, **options))
    with pytest.raises(DataError, match=f"odd.tif cannot be read: a TIFF .*{said}"):
        read_picture(tmp_path / "odd.tif")


def test_what_comes_out_is_compared_with_the_header(monkeypatch):
    """A decoder that gives one band of three, other numbers or another size is found out."""
    array = numbers(np.uint8, 3)
    file, header = written(array), tiff.read_header(io.BytesIO(written(array)))
    for change in (dict(bands=4), dict(bands=1), dict(dtype=np.dtype("u2")), dict(width=23), dict(height=18)):
        monkeypatch.setattr(tiff, "read_header", lambda _, change=change: replace(header, **change))
        with pytest.raises(DataError, match="the image cannot be read: its header says .* but GDAL decodes"):
            read_picture(file)


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_a_band_is_a_band_and_both_ways_out_are_told(tmp_path, bands):
    for kind, extra in itertools.product((np.uint8, np.uint16), ("unspecified", "unassalpha", "assocalpha")):
        array = numbers(kind, bands)
        count = bands - 3 if bands > 3 else bands - 1
        (tmp_path / "a.tif").write_bytes(written(array, photometric="rgb" if bands > 3 else "minisblack",
                                                 extrasamples=[extra] * count))
        picture = read_picture(tmp_path / "a.tif")
        np.testing.assert_array_equal(picture.array, array)
        for channels in (1, 3):
            told = (f"a.tif has {bands} channels, not the {channels} of the network: write files of the {channels} "
                    f"that you want, or train with --in-channels {bands} or --out-channels {bands}, which takes all")
            with pytest.raises(DataError, match=told):
                Values(channels).array([picture])
            assert Values(channels).alpha([picture]) is None
        assert Values(bands).array([picture]).shape == (*SHAPE, bands)


@pytest.mark.parametrize("kind", KINDS[:5] + KINDS[6:])
def test_the_number_for_no_data_and_nan_mark_pixels_without_a_value(kind):
    array = numbers(kind, 3)
    nodata = {"u": "7", "i": "-9999", "f": "-3.4028234663852886e+38"}[np.dtype(kind).kind]
    array[array == 7] = 8
    array[4, 5] = kind(nodata)
    array[4, 6, :2] = kind(nodata)  # a pure colour has values
    array[6:8, :3] = kind(nodata)
    missing = np.zeros(SHAPE, bool)
    missing[4, 5] = missing[6:8, :3] = True
    if np.dtype(kind).kind == "f":
        array[9, 9, 2], missing[9, 9] = np.nan, True
    file = written(array, extratags=[tag(42113, nodata)])
    picture = read_picture(file)
    np.testing.assert_array_equal(~picture.valid, missing)
    np.testing.assert_array_equal(picture.array[~missing], array[~missing].astype(picture.array.dtype))
    assert (picture.array[missing] == 0).all()
    plain = read_picture(written(np.where(np.isnan(array), 0, array).astype(kind)))
    assert plain.valid is None


def test_gdals_own_mask_inside_the_file_counts_too(tmp_path):
    import rasterio

    array, mask = numbers(np.uint8, 3), numbers(np.uint8, 1)[..., 0] > 99
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
            tmp_path / "a.tif", "w", driver="GTiff", width=24, height=17, count=3, dtype="uint8") as file:
        file.write(array.transpose(2, 0, 1))
        file.write_mask(mask)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").valid, mask)
    assert read_header(tmp_path / "a.tif").nodata and not read_header(tmp_path / "a.tif").frames


def test_overviews_are_no_pages_and_the_first_page_is_taken(tmp_path):
    import rasterio
    from rasterio.enums import Resampling

    array = numbers(np.uint8, 1, (64, 48))
    (tmp_path / "a.tif").write_bytes(written(array))
    assert not read_header(tmp_path / "a.tif").frames
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.build_overviews([2, 4], Resampling.average)
    assert not read_header(tmp_path / "a.tif").frames
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").array, array)
    tifffile.imwrite(tmp_path / "b.tif", np.stack([array[..., 0], 255 - array[..., 0]]), photometric="minisblack")
    assert read_header(tmp_path / "b.tif").frames
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif").array, array)


def test_big_tiffs_and_bytes_are_read_like_paths(tmp_path):
    array = numbers(np.uint16, 13)
    file = written(array, bigtiff=True, extratags=[tag(274, 6), tag(42113, "65536")])
    (tmp_path / "a.png").write_bytes(file)  # the content counts, not the name
    for source in (file, tmp_path / "a.png"):
        np.testing.assert_array_equal(read_picture(source).array, np.rot90(array, -1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13, 64])
def test_what_is_written_is_read_alike_by_others_and_by_ourselves(tmp_path, kind, bands):
    array = numbers(kind, bands)
    write_picture(tmp_path / "a.tif", picture_of(array))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif").reshape(array.shape), array)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").array, array)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert not {1, 2} & set(file.pages[0].extrasamples)  # no band is transparency
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]  # nothing beside it


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_marked_as_such_in_a_tiff(tmp_path, kind, channels):
    array, alpha = numbers(kind, channels), numbers(kind, 1, seed=1)[..., 0]
    write_picture(tmp_path / "a.tif", Picture(array, alpha))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].extrasamples == (2,)  # not premultiplied
        np.testing.assert_array_equal(file.asarray()[..., :3], np.broadcast_to(array, (*SHAPE, 3)))
        np.testing.assert_array_equal(file.asarray()[..., 3], alpha)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are text")
def test_names_that_are_no_utf_8_are_read(tmp_path):
    """GDAL takes UTF-8 alone."""
    path = tmp_path / os.fsdecode(b"a\xff.tif")
    path.write_bytes(written(numbers(np.uint8, 3)))
    np.testing.assert_array_equal(read_picture(path).array, numbers(np.uint8, 3))
    assert read_place(path).crs is None


def test_sizes_beyond_the_limit_are_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(written(numbers(np.uint8, 1, (300, 400))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    monkeypatch.setattr(tiff, "opened", lambda *_: pytest.fail("decoded"))
    for read in (read_picture, read_header):
        with pytest.raises(DataError, match="a.tif is too large: more than 100,000 pixels"):
            read(tmp_path / "a.tif")


def test_damaged_tiffs_are_read_or_refused_by_name(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.tif"
    wholes = [written(numbers(np.float32, 3), compression="deflate"), written(numbers(np.uint8, 5), "separate"),
              written(numbers(np.uint16, 1), bigtiff=True, tile=(16, 16))]
    for n in range(300):
        whole = wholes[n % 3]
        content = bytearray(whole[: rng.integers(8, len(whole))] if n % 4 == 0 else whole)
        for _ in range(1 + n % 4):
            content[rng.integers(min(len(content), 400))] = rng.integers(256)
        path.write_bytes(bytes(content))
        for act in (read_header, read_picture):
            try:
                act(path)
            except DataError as error:
                assert "a.tif" in str(error)


def test_without_rasterio_a_sentence_names_it_and_other_files_need_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    (tmp_path / "a.tif").write_bytes(written(numbers(np.uint8, 3)))
    read_picture(save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)))
    assert read_header(tmp_path / "a.tif").size == (24, 17)
    with pytest.raises(UserError, match="TIFF files need rasterio.*pip install"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.long
def test_threads_and_forked_processes_read_the_same_and_print_and_leave_nothing(tmp_path):
    """libtiff warns of unknown tags, rasterio of files without a place on earth."""
    for i in range(4):
        file = written(numbers(np.float32, 13, seed=i), compression="zstd",
                       extratags=[tag(65000, 7), tag(42113, "-9999"), tag(33550, "odd")])
        (tmp_path / f"{i}.tif").write_bytes(file)
    code = ("from pathlib import Path; from pairs.images import read_picture, write_picture; import logging, os\n"
            "from concurrent.futures import ThreadPoolExecutor; from multiprocessing import get_context\n"
            "logging.basicConfig()\n"
            "def work(i): write_picture(Path('out', f'{i}.tif'), read_picture(Path(f'{i % 4}.tif')))\n"
            "work(0)\n"
            "list(ThreadPoolExecutor(8).map(work, range(64)))\n"
            "process = get_context('fork').Process(target=work, args=(65,)); process.start(); process.join()\n"
            "assert process.exitcode == 0\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tif", "1.tif", "2.tif", "3.tif", "out"]
    made = {int(path.stem): tifffile.imread(path) for path in (tmp_path / "out").iterdir()}
    assert len(made) == 65
    for i, array in made.items():
        np.testing.assert_array_equal(array, numbers(np.float32, 13, seed=i % 4))


def tiles(root, nodata, fill, shift=0.0):
    """Pairs of 13 bands and a height, with a corner of A and a spot of B that hold no value but `fill`."""
    for split, n in (("train", 3), ("val", 1)):
        for side, bands in (("A", 13), ("B", 1)):
            (root / split / side).mkdir(parents=True)
            for i in range(n):
                array = numbers(np.float32, bands, (48, 48), seed=i + bands) + np.float32(shift)
                array[:9, :9] = fill if side == "A" else array[:9, :9]
                array[20:30, 31] = fill if side == "B" else array[20:30, 31]
                file = written(array, extratags=[tag(42113, nodata)])
                (root / split / side / f"{i}.tif").write_bytes(file)
    return settings(root, root.with_name(f"{root.name} run"), in_channels=13, out_channels=1, range_a=(-3000, 3000),
                    range_b=(-3000, 3000), n_epochs=1)


def test_pixels_without_a_value_never_matter_in_training_and_validation(tmp_path):
    weights, scores = [], []
    for name, nodata, fill, shift in (("a", "-9999", -9999, 0), ("b", "1234.5", 1234.5, 0), ("nan", "nan", np.nan, 0),
                                      ("other", "nan", np.nan, 1)):
        cfg = tiles(tmp_path / name, nodata, fill, shift)
        train(cfg)
        weights.append(torch.cat([value.flatten() for value in torch.load(
            cfg.out_dir / "gen.pth.tar", weights_only=True)["state_dict"].values()]))
        scores.append((cfg.out_dir / "log.csv").read_text().splitlines()[1].split(",")[:6])
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
    assert scores[0] == scores[1] == scores[2]
    assert not torch.equal(weights[2], weights[3])
    y = load_data(replace(cfg, cache="none"))[1][0][1]
    assert y.shape[0] == 2 and (y[1] == -1).any() and (y[1] == 1).any()


def test_masks_in_files_and_pixels_without_a_value_are_ignored_together(tmp_path):
    cfg = tiles(tmp_path / "a", "-9999", -9999)
    mask = np.full((48, 48), 255, np.uint8)
    mask[40:] = 0
    for split, n in (("train", 3), ("val", 1)):
        for i in range(n):
            save(cfg.data_root / split / "M" / f"{i}.png", mask)
    data = load_data(replace(cfg, resize="none", cache="none"))[1]
    missing = mask == 0
    missing[:9, :9] = missing[20:30, 31] = True
    np.testing.assert_array_equal(data[0][1][1] == -1, missing)


def test_a_pair_that_needs_a_mask_where_no_other_does_is_told_by_name(tmp_path):
    array = numbers(np.uint8, 3, (64, 64))
    array[:9] = 9
    for side in "AB":
        (tmp_path / f"{side}.tif").write_bytes(written(array, extratags=[tag(42113, "9")] if side == "B" else []))
    pair = Pair((tmp_path / "A.tif",), tmp_path / "B.tif")
    cfg = settings(tmp_path, tmp_path / "run")
    with pytest.raises(DataError, match="A.tif and .*B.tif hold pixels without a value .*: masks in a folder M"):
        PairedImages([pair], jitter=Jitter(cfg))[0]
    assert PairedImages([pair], jitter=Jitter(cfg), masked=True)[0][1].shape[0] == 4
    plain = Pair((tmp_path / "A.tif",), tmp_path / "A.tif")
    pixels, _ = PairedImages([pair, plain]).pixels([(0, 0), (0, 1)])  # of validation: as each needs it
    assert pixels.shape[-1] == 7 and (pixels[1, ..., 6] == 255).all() and (pixels[0, ..., 6] == 0).any()
