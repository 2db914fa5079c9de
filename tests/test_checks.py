"""What check.py and a start say of class indices and ranges, of files that other libraries wrote."""

import re
from functools import partial

import cv2
import numpy as np
import pytest
from conftest import settings, write_raster
from PIL import Image

from check import check
from dataset import load_data
from pairs.checks import check_headers
from pairs.find import find_pairs
from pairs.identity import Pair
from pairs.reading import read_pair
from pairs.values import values_of
from utils import UserError

SIZE = 48


def blocks(seed, values):
    """(SIZE, SIZE) in blocks of 8×8, each of one of the values."""
    return np.kron(np.random.default_rng(seed).choice(values, (6, 6)), np.ones((8, 8), int))


def smooth(seed, low, high):
    coarse = np.random.default_rng(seed).uniform(low, high, (5, 5)).astype(np.float32)
    return cv2.resize(coarse, (SIZE, SIZE))


def png(path, array):
    Image.fromarray(array.astype(np.uint8)).save(path.with_suffix(".png"))


def colour_photo(path, i):
    png(path, np.dstack([smooth(9 * i + band, 0, 255) for band in range(3)]))


def png_of_4_bits(path, array):
    path = write_raster(path.with_suffix(".png"), array.astype(np.uint8)[None], driver="PNG", nbits=4)
    assert path.read_bytes()[24] == 4  # libpng's depth


def tiff(path, array, nodata=None):
    write_raster(path.with_suffix(".tif"), array[None], nodata=nodata)


@pytest.fixture
def told(tmp_path, capsys):
    """What check.py and a start both say of pairs of which one side is made by write(path, i), the other of photos."""

    def tell(side, write, masks=None, **changes):
        makers = {side: write, "B" if side == "A" else "A": colour_photo, **({"M": masks} if masks else {})}
        for folder, n in ((tmp_path / "data/train", 4), (tmp_path / "data/val", 2)):
            for name, make in makers.items():
                (folder / name).mkdir(parents=True)
                for i in range(n):
                    make(folder / name / f"{i}", i)
        if side == "B" and "range_b" not in changes:
            changes["out_channels"] = 1
        cfg = settings(tmp_path / "data", tmp_path / "run", **changes)
        said = []
        for look in (check, load_data):
            try:
                look(cfg)
                said.append(capsys.readouterr().out)
            except UserError as error:
                said.append(f"refused: {error}")
        assert ("refused" in said[0]) == ("refused" in said[1])
        return said

    tell.root = tmp_path / "data"
    return tell


def test_a_png_of_4_bits_holds_its_indices(told):
    for said in told("A", lambda path, i: png_of_4_bits(path, blocks(i, np.arange(13))), n_labels=13):
        assert "refused" not in said and "class indices" not in said
    pair = find_pairs(told.root).splits["train"][0]
    x, y = values_of(settings(told.root, told.root, n_labels=13).plain())
    assert (read_pair(pair, x, y)[0][..., 0] == blocks(0, np.arange(13))).all()
    x, y = values_of(settings(told.root, told.root, in_channels=1).plain())
    assert (read_pair(pair, x, y)[0][..., 0] == blocks(0, np.arange(13)) * 17).all()  # a picture


def test_check_tells_the_classes_that_occur_and_the_share_of_none(told):
    checked, started = told("A", lambda path, i: png(path, np.where(np.arange(SIZE) < 12, 255, blocks(i, [0, 2, 3]))),
                            n_labels=5)
    assert "side A: of the classes 0 to 4, 3 occur (0, 2, 3); 25.0% of the pixels are of none, with 255" in checked
    assert "of the classes" not in started


@pytest.mark.parametrize("n", [1, 3])
def test_sides_that_hold_the_same_are_asked_about(tmp_path, capsys, n):
    for i in range(3):
        for side in "AB":
            (tmp_path / side).mkdir(exist_ok=True)
            png(tmp_path / side / f"{i}", smooth(i + 9 * (side == "B" and i >= n), 0, 255))
    check(settings(tmp_path, tmp_path))
    assert ("A and B hold the same in each of 3 pairs: is that meant?" in capsys.readouterr().out) == (n == 3)


def elevation(seed, outliers=(), dtype=np.float32):
    array = smooth(seed, 96, 145)
    for number, share in outliers:
        array.flat[: max(1, round(share * array.size))] = number
    return array.astype(dtype)


def proposed(said):
    return [float(number) for number in re.search(r"--range-b (\S+) (\S+)", said).groups()]


def test_two_sides_of_floats_get_both_flags_at_once(tmp_path):
    for side, factor in (("A", 10), ("B", 1)):
        (tmp_path / side).mkdir()
        for i in range(3):
            tiff(tmp_path / side / f"{i}", elevation(i) * np.float32(factor))
    flags = r"--range-a 9\d0 14\d0 --range-b 9\d 14\d"
    with pytest.raises(UserError, match=f"numbers of side A and B: {flags} would take in"):
        check(settings(tmp_path, tmp_path / "run", in_channels=1, out_channels=1))


def stripe(share, top=255, dtype=np.uint8):
    """A mask, white in its upper part."""
    return (np.arange(SIZE * SIZE) < share * SIZE * SIZE).reshape(SIZE, SIZE).astype(dtype) * dtype(top)


def test_a_class_that_a_tag_makes_void_is_told_with_the_way_out(told):
    def write(path, i):
        labels = blocks(i, [1, 2, 3, 4]).astype(np.uint8)
        labels[:12] = 0
        tiff(path, labels, nodata=0)

    checked, started = told("A", write, n_labels=5)
    for said in (checked, started):
        assert re.search(r"25\.0% of the pixels in \d pairs do not count: 25\.0% of side A hold no value .* If a tag's "
                         r"number is a value or a class, take the tag away: rio edit-info --unset-nodata FILE", said)
    assert "4 occur (1, 2, 3, 4); every pixel that holds a value is of one; 25.0% of all hold no value" in checked


def photo(path, i):
    png(path, smooth(i, 0, 255))


def reflectances(top, write=tiff):
    return lambda path, i: write(path, smooth(i, top / 20, top).astype(np.uint16))


def on_glass(path, i):
    """White lines on a ground that is transparent, and black behind it: over white, all is white."""
    Image.fromarray(np.dstack([blocks(i, [0, 255]).astype(np.uint8)] * 4)).save(path.with_suffix(".png"))


def saturated(path, i):
    array = elevation(i).astype(np.uint16) * 10
    array[0, 0] = 65535
    tiff(path, array)


def without(rows):
    """Heights without a value in these rows."""
    def write(path, i):
        array = elevation(i)
        array[rows] = np.nan
        tiff(path, array)

    return write


HARDLY = (r"refused: hardly any pixel counts, 0\.\d\d% of those in \d pairs, so that nothing is learnt: "
          r"\d+\.\d% are black in the masks")


@pytest.mark.parametrize(("side", "write", "changes", "wanted", "absent"), [
    pytest.param("A", lambda path, i: png(path, blocks(i, [0, 255])), dict(n_labels=2),
                 r"refused: side A: of the classes 0 to 1, 1 occur \(0\); \d\d\.\d% of the pixels are of none, with "
                 r"255. 255 belongs to no class: write 1 in its place", "", id="masks of 0 and 255 are no two classes"),
    pytest.param("A", lambda path, i: png(path, blocks(i, np.arange(13) * 17)), dict(n_labels=13),
                 "refused.*all are multiples of 17: divide them by it, and take --n-labels 13", "",
                 id="indices spread over 8 bits"),
    *(pytest.param("A", lambda path, i, dtype=dtype: tiff(path, blocks(i, np.arange(9)).astype(dtype)), changes, wanted,
                   "refused" if changes else "range_a", id=f"label TIFFs of {dtype}, {changes}")
      for dtype in ("int16", "int32", "uint32") for changes, wanted in (
          ({}, "refused: side A holds whole numbers, 0 to 8, that look like class indices: --n-labels 9 makes"),
          (dict(n_labels=9), ""))),
    pytest.param("A", lambda path, i: png(path, np.where(np.arange(SIZE) < 30, 255, blocks(i, [0, 1]))),
                 dict(n_labels=2), "62.5% of the pixels are of none, with 255: is that meant?", "",
                 id="more than half of no class"),
    pytest.param("A", lambda path, i: png(path, np.zeros((SIZE, SIZE), np.uint8)), {},
                 "nearly every number of side A is 0: is that meant?", "--range-a", id="one number"),
    pytest.param("A", on_glass, {}, "nearly every number of side A is 255: is that meant?", "", id="white on glass"),
    pytest.param("A", on_glass, dict(range_a=(0.0, 255.0)), "", "clipped|nearly every", id="a range before white"),
    *(pytest.param("B", lambda path, i, n=n: png(path, np.where(np.arange(SIZE) < 2, 255, blocks(i, range(n)))),
                   {}, "side B uses less than a tenth of its range", "side A uses", id=f"{n} indices near black")
      for n in (2, 19)),
    pytest.param("B", lambda path, i: png(path, blocks(i, [0, 255])), {}, "", "uses less", id="black and white"),
    pytest.param("B", lambda path, i: png(path, np.where(np.indices((SIZE, SIZE)).any(0), blocks(i, [0, 255]), 1)),
                 {}, "", "uses less|nearly every", id="black and white but for a pixel"),
    pytest.param("B", lambda path, i: tiff(path, blocks(i, [-1, -0.5, 1]).astype(np.float32)),
                 dict(range_b=(-1.0, 1.0), out_channels=1), "", "uses less|lies far", id="three levels are values"),
    pytest.param("A", lambda path, i: png(path, blocks(i, np.arange(151))), {},
                 r"side A looks like class indices, 0 to 1[45]\d in .*: --n-labels 1[45]\d or more makes each", "",
                 id="150 classes"),
    pytest.param("A", lambda path, i: png(path, smooth(i, 0, 150)), {}, "", "class indices", id="gray photos"),
    pytest.param("B", saturated, {}, r"side B uses less than a tenth of its range, 1% to 2%: .*, --range-b 9\d0 14\d0",
                 "", id="one saturated pixel of 16 bits does not hide that the range is hardly used"),
    pytest.param("B", reflectances(10_000), {}, r"side B uses less than half of its range, .*, --range-b \d+ \d+\n", "",
                 id="Sentinel-2's reflectances take 15 % of 16 bits"),
    pytest.param("B", reflectances(60_000), {}, "", "less than half", id="nearly all of 16 bits"),
    pytest.param("B", reflectances(100, png), {}, "", "less than half", id="dark photos of 8 bits are photos"),
    pytest.param("B", lambda path, i: tiff(path, elevation(i, [(170, 0.3)] if i == 1 else ())),
                 dict(range_b=(90.0, 150.0), out_channels=1),
                 r"side B: (7\.5|10\.0)% of the values lie outside of 90 to 150 and are clipped, most in "
                 r".*B/1\.tif, 30\.0%: --range-b \d\d 170 takes in nearly all", "", id="clipped"),  # of 4 or of 6 files
    pytest.param("B", lambda path, i: tiff(path, elevation(i)), dict(range_b=(90.0, 150.0), out_channels=1), "",
                 "clipped", id="not clipped"),
    pytest.param("B", without(np.s_[-12:]), dict(masks=lambda path, i: png(path, stripe(0.5)), range_b=(90.0, 150.0)),
                 r"50\.0% of the pixels in \d pairs do not count: 25\.0% of side B hold no value .*; 50\.0% are black "
                 "in the masks", "", id="masks and no data together"),
    pytest.param("A", photo, dict(masks=lambda path, i: png(path, stripe(0.995))), "", "do not count|refused",
                 id="little that does not count is not worth a word"),
    pytest.param("A", photo, dict(masks=lambda path, i: png(path, stripe(0.005))), HARDLY, "", id="hardly any counts"),
    pytest.param("A", photo, dict(masks=lambda path, i: tiff(path, stripe(1, 300, np.uint16))), HARDLY, "",
                 id="hardly any counts of 16 bits"),
    pytest.param("A", photo, dict(masks=lambda path, i: tiff(path, smooth(i, 50, 255).astype(np.uint16))),
                 r"\d of \d masks hold nothing beyond 255 .* such as .*M/\d\.tif: there 255 counts as", "",
                 id="masks that leave most of their type unused"),
    pytest.param("A", photo, dict(masks=lambda path, i: png(path, stripe(1, 51))),
                 "no mask is brighter than 20.00% of white: its pixels count by that share", "", id="without white"),
])
def test_what_is_odd_is_told_by_check_and_by_a_start(told, side, write, changes, wanted, absent):
    for said in told(side, write, **changes):
        assert not wanted or len(re.findall(wanted, said)) == 1, said
        assert not absent or not re.search(absent, said), said


def with_outliers(*outliers, **options):
    return lambda path, i: tiff(path, elevation(i, outliers[::-1]), **options)


@pytest.mark.parametrize(("write", "masks", "outliers"), [
    *((with_outliers(*outliers), None, outliers) for outliers in (
        [(-9999, 0.02)], [(-3.4e38, 0.3)], [(1e20, 0)], [(-32768, 0.1), (1e6, 0)])),
    (without(np.s_[:5]), None, []), (with_outliers((-9999, 0.1), nodata=-9999), None, [(-9999, 0)]),
    (with_outliers((600, 0.05), (500, 0.25)),
     lambda path, i: png(path, np.arange(SIZE)[:, None] // 12 * np.ones((SIZE, SIZE)) > 0), [(500, 0), (600, 0)])])
def test_a_range_is_proposed_from_what_is_data(told, write, masks, outliers):
    """Not from what a tag or a mask hides, nor from numbers that many pixels share far outside, which are named."""
    for said in told("B", write, masks):
        low, high = proposed(said)
        assert 80 <= low <= 100 and 140 <= high <= 150
        for number, share in outliers:
            named = re.search(rf"{re.escape(f'{number:g}')}, in [\d.]+% of it, lies far outside .* nodata tag", said)
            assert bool(named) == (share > 0)
        assert said.count("lies far outside") == sum(share > 0 for _, share in outliers)


def with_palette(path, i, differ, suffix):
    image = Image.fromarray(blocks(i, np.arange(5)).astype(np.uint8))
    image.putpalette(bytes(range(differ * i, 15 + differ * i)))
    image.save(path.with_suffix(suffix))


def tiff_with_palette(path, i, differ):
    palette = {index: (20 * index, 9, 30 * differ * i, 255) for index in range(5)}
    write_raster(path.with_suffix(".tif"), blocks(i, np.arange(5)).astype(np.uint8)[None], palette,
                 photometric="PALETTE")


@pytest.mark.parametrize("write", [partial(with_palette, suffix=".png"), partial(with_palette, suffix=".bmp"),
                                   tiff_with_palette])
@pytest.mark.parametrize("differ", [False, True])
def test_palettes_that_differ_from_file_to_file_are_named_with_two_files(told, write, differ):
    for said in told("A", partial(write, differ=differ), n_labels=5):
        found = re.search(r"the palettes of side A differ from file to file: \d is \(.*\) in .*A/\d.(png|bmp|tif) and "
                          r"\(.*\) in .*A/\d.(png|bmp|tif)", said)
        assert bool(found) == ("the palettes of" in said) == differ


@pytest.mark.parametrize("widths", [(192, 192), (192, 128)])
def test_three_images_in_each_file_are_asked_about(tmp_path, capsys, widths):
    for i, width in enumerate(widths):
        Image.new("RGB", (width, 64), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    check_headers([Pair((path,), None) for path in sorted(tmp_path.iterdir())])
    assert ("if each is three images side by side" in capsys.readouterr().out) == (widths == (192, 192))
