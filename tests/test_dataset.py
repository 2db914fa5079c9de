import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import RGB, coordinates, make_data, pair_of, paired, settings, write_pair, write_sides
from PIL import Image

import check as check_module
from check import check
from config import Config
from dataset import load_data
from pairs import jitter, loading
from pairs.checks import check_headers
from pairs.geometry import resize
from pairs.jitter import Jitter
from pairs.loading import EpochSampler, loaders
from pairs.reading import read_pair, read_pictures
from pairs.values import Values
from runtime.distributed import Ranks
from utils import DataError, UserError


@pytest.fixture
def located(tmp_path):
    """A pair of which both halves carry their own coordinates."""
    return [pair_of(write_pair(tmp_path / "pair.png", left=coordinates(64), right=coordinates(64)))]


JITTER = replace(Config(), load_size=80, crop_size=64, cache="none")


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_crop_and_mirror_are_shared_by_input_and_target(located, direction):
    data = paired(located * 2, replace(JITTER, direction=direction), train=True)
    corners, mirrored = set(), 0
    for epoch in range(60):
        x, y = data[epoch, epoch % 2]  # of the second pair too
        assert torch.equal(x, y)
        mirrored += bool(x[0, 0, 0] > x[0, 0, -1])
        corners.add((x[0].min().item(), x[1].min().item()))
    assert 15 < mirrored < 45  # about half
    assert len(corners) > 30  # crops move along both axes
    assert len({c for c, _ in corners}) > 8 and len({r for _, r in corners}) > 8
    data = paired(located, replace(JITTER, flip="none"), train=True)  # as for edges
    assert not any(data[epoch, 0][0][0, 0, 0] > data[epoch, 0][0][0, 0, -1] for epoch in range(20))


@pytest.mark.parametrize(("size", "channels", "symmetries"), [
    ((64, 64), 3, {"same", "h", "v", "hv", "t", "ht", "vt", "hvt"}), ((64, 48), 3, {"same", "h", "v", "hv"}),
    ((64, 64), 66, {"same", "h", "v", "hv", "t", "ht", "vt", "hvt"})])
def test_all_symmetries_are_shared_by_the_pair_and_its_mask(size, channels, symmetries):
    here = coordinates(80)[..., :2]
    located = np.tile(here, 33)[..., :channels]
    mask = here.sum(axis=2, keepdims=True).astype(np.uint8)
    pair = np.concatenate([located, located, mask], axis=2)
    jitter = Jitter(replace(JITTER, crop_size=size[0], crop_width=size[1], flip="all"))
    met = set()
    for epoch in range(120):
        made = jitter(pair, Values(channels), Values(channels), epoch, 0).astype(int)
        assert made.shape == (*size, 2 * channels + 1)
        assert np.array_equal(made[..., :channels], made[..., channels:-1])
        assert np.array_equal(made[..., -1], made[..., :2].sum(axis=2) % 256)
        x, y = made[..., 0], made[..., 1]
        turned = x[0, 0] == x[0, -1]
        across, down = (y, x) if turned else (x, y)
        seen = {"h": across[0, 0] > across[0, -1], "v": down[0, 0] > down[-1, 0], "t": turned}
        met.add("".join(letter for letter in seen if seen[letter]) or "same")
    assert met == symmetries


@pytest.mark.parametrize(("installed", "told"), [
    ({"albumentations": "2.0.8"}, ""), ({"albumentations": "2.1.0.post1"}, ""),
    ({"albumentations": "2.0.7"}, "here is albumentations 2.0.7"), ({"albumentations": "3.0"}, "albumentations 3.0"),
    ({"albumentationsx": "2.0.11"}, "here is albumentationsx 2.0.11"), ({}, "here is none"),
    ({"albumentations": "2.0.8", "albumentationsx": "2.0.8"}, "pip uninstall albumentationsx, then pip")])
def test_training_starts_with_the_package_that_its_jitter_was_proven_with(monkeypatch, installed, told):
    """AlbumentationsX fills the same folder, with other draws from the same seed."""
    def version(name):
        if name not in installed:
            raise jitter.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(jitter.metadata, "version", version)
    if not told:
        Jitter(Config())
        return
    with pytest.raises(UserError, match=told):
        Jitter(Config())


@pytest.mark.long
def test_no_two_draws_of_the_jitter_are_one():
    """Row, column, mirror and brightness: uniform, and unlike one another, the next pair's, epoch's and seed's."""
    pixels, n = np.dstack([coordinates(32), np.full((32, 32, 3), 128, np.uint8)]), 2500  # small: thousands are drawn

    def drawn(seed, first=0, epoch=1):
        data = paired([pair_of(pixels[..., :3], pixels[..., 3])] * (n + 1), JITTER)
        data.cache = dict.fromkeys(range(n + 1), pixels)
        data.jitter = Jitter(replace(JITTER, crop_size=16, seed=seed, color_jitter=0.5, label_side="A", n_layers=0))
        draws = []
        for index in range(first, first + n):
            left, right = data.pixels([(epoch, index)])[0][0, 0, [0, -1]].tolist()
            draws.append([left[1] // 8, min(left[0], right[0]) // 8, left[0] > right[0], left[3]])
        return np.array(draws, float).T

    draws = drawn(0)
    for places in draws[:2]:  # 17 of them
        counts = np.bincount(places.astype(int), minlength=17)
        assert len(counts) == 17 and ((counts - n / 17) ** 2).sum() / (n / 17) < 45  # chi-square: one in 10,000
    assert abs(draws[2].mean() - 0.5) < 0.04
    assert np.abs(np.quantile(draws[3], [0.1, 0.5, 0.9]) - [77, 128, 179]).max() < 6  # 128 * (0.5 to 1.5)
    others = [draws, drawn(1), drawn(0, epoch=2), drawn(0, first=1)]
    correlations = np.corrcoef(np.concatenate(others)) - np.eye(16)
    assert np.abs(correlations).max() < 0.1  # five standard deviations
    for other in others[1:]:
        assert (draws == other).all(axis=0).mean() < 0.01


def test_an_odd_width_and_unequal_sizes_are_refused_by_name(tmp_path):
    Image.new("RGB", (9, 4)).save(tmp_path / "odd.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 8)).save(tmp_path / "b.png")
    for read in (lambda pair: read_pair(pair, RGB, RGB), lambda pair: check_headers([pair])):
        with pytest.raises(DataError, match="odd.png is 9×4: an odd width"):
            read(pair_of(tmp_path / "odd.png"))
        with pytest.raises(DataError, match="a.png is 8×4, but .*b.png is 4×8: .* cut both to the same place$"):
            read(pair_of(tmp_path / "a.png", tmp_path / "b.png"))


@pytest.mark.parametrize(("label_side", "blurred"), [("none", "AB"), ("A", "B"), ("B", "A"), ("both", "")])
def test_label_maps_keep_their_colours_where_asked(tmp_path, label_side, blurred):
    labels = np.zeros((50, 50, 3), np.uint8)
    labels[:, 25:] = 255
    pair = pair_of(write_pair(tmp_path / "a.png", left=labels, right=labels))
    for train in (True, False):
        x, y = paired([pair], replace(JITTER, label_side=label_side), train)[0]
        for side, image in (("A", x), ("B", y)):
            assert (len(image.unique()) > 2) == (side in blurred)


def test_color_jitter_changes_the_photo_side_only(tmp_path):
    pairs = [pair_of(write_pair(tmp_path / "a.png", width=128, height=64))]
    for side, changed in (("none", 0), ("B", 0), ("A", 1)):
        for channels in (3, 1):
            cfg = replace(JITTER, color_jitter=0.5, label_side=side, in_channels=channels, out_channels=channels)
            jittered, plain = (paired(pairs, c, train=True)[0] for c in (cfg, replace(cfg, color_jitter=0.0)))
            assert not torch.equal(jittered[changed], plain[changed])
            assert torch.equal(jittered[1 - changed], plain[1 - changed])


@pytest.mark.parametrize("layout", ["side by side", "A and B"])
def test_16_bit_colour_reaches_the_network_with_all_its_bits(tmp_path, layout):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1) * 16 + np.zeros(3, np.uint16)
    pair = pair_of(tmp_path / "1.png", None if layout == "side by side" else tmp_path / "2.png")
    for path in pair.files:
        cv2.imwrite(str(path), np.hstack([values, values]) if pair.side_by_side else values)
    for y in paired([pair], replace(JITTER, load_size=64, flip="none"), train=True)[0]:
        assert len(y.unique()) == 64 * 64
        np.testing.assert_allclose(y[0].numpy(), values[..., 0] / 32767.5 - 1, atol=1e-6)


def test_each_epoch_has_every_pair_once_in_an_order_of_its_own():
    sampler, orders = EpochSampler(10, seed=0), []
    for epoch in (1, 2, 1):
        sampler.epoch = epoch
        orders.append([index for _, index in sampler])
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] == orders[2] != orders[1]
    sampler.start = 4
    assert [index for _, index in sampler] == orders[0][4:] and len(sampler) == 6
    sampler.start = 12  # where three processes have filled an epoch up
    assert [*sampler] == [] and len(sampler) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_data_is_refused_at_the_start(data, split):
    cfg = replace(Config(), data_root=data)
    with pytest.raises(ValueError, match="batch_size 7 .* 6 training pairs"):
        load_data(replace(cfg, batch_size=7))
    (data / split / "zero.png").write_bytes(b"")
    with pytest.raises(DataError, match="zero.png"):
        load_data(cfg)


def test_n_val_takes_pairs_evenly_and_zero_takes_all(tmp_path):
    make_data(tmp_path, 1, 10)
    chosen = load_data(replace(Config(), data_root=tmp_path, n_val=5))[1]
    assert [pair.files[0].stem for pair in chosen.pairs] == ["0", "2", "4", "6", "8"]
    assert len(load_data(replace(Config(), data_root=tmp_path, n_val=0))[1]) == 10


def test_check_reports_everything_that_is_wrong_and_draws_a_preview(tmp_path, capsys):
    for i in range(4):
        for side in "AB":
            write_pair(tmp_path / "mine" / "train" / side / f"{i}.png", 20, 10)
    (tmp_path / "mine" / "train" / "A" / "orphan.png").write_bytes(b"x")
    (tmp_path / "mine" / "train" / "B" / "2.png").write_bytes(b"broken")
    cfg = replace(Config(), data_root=tmp_path / "mine", direction="BtoA")
    assert check(cfg) == 2
    shown = capsys.readouterr().out
    assert "20×10 A and B" in shown and "orphan.png" in shown
    assert "2.png is no image of" in shown and "problems: 2" in shown
    assert Image.open("preview_mine.png").width == 2 * 256 + 3 * 4


def test_check_tells_of_what_it_cannot_use_in_the_order_of_the_names(tmp_path, capsys, monkeypatch):
    for i in range(8):
        write_pair(tmp_path / "mine" / ("train" if i else "val") / f"{i}.png", 96, 48, seed=i)
    read_pair = check_module.read_pair

    def damaged(pair, *sides):
        if (i := int(Path(pair.name).name)) in (1, 3, 6):
            time.sleep(0.1 * (7 - i))  # threads come to these in another order
            raise DataError(f"{i}.png is damaged")
        return read_pair(pair, *sides)

    monkeypatch.setattr(check_module, "read_pair", damaged)
    assert check(replace(Config(), data_root=tmp_path / "mine")) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith("damaged")]
    assert told == sorted(told) and len(told) == 3


@pytest.mark.parametrize("black", [0, 1, 3])
def test_check_tells_where_no_pixel_counts(tmp_path, capsys, black):
    photo = partial(np.full, (48, 96, 3), dtype=np.uint8)
    write_sides(tmp_path / "mine", {"A.png": photo, "B.png": photo, "M.png": lambda i: np.full(
        (48, 96), 255 * (i >= black), np.uint8)}, n=3)
    assert check(replace(Config(), data_root=tmp_path / "mine")) == (2 if black == 3 else 0)
    shown = capsys.readouterr().out
    assert f"problems: {black // 3}" in shown
    assert (f"train: no pixel counts in {black} of 3 pairs, such as" in shown) == (black > 0)
    assert ("problem: train: no pixel counts in 3 of 3" in shown) == (black == 3)


@pytest.mark.parametrize(("sizes", "told"), [
    *(([size] * 4, "have the shape of a single photo") for size in ((160, 120), (150, 100), (192, 108), (80, 60))),
    *(([size] * 4, "are not wider than high") for size in ((60, 80), (48, 48))),
    ([(96, 48)] * 2 + [(72, 96)] * 6 + [(96, 48)] * 2, "are not wider than high"),
    *(([size] * 4, "") for size in ((96, 48), (144, 48), (150, 64)))])  # halves in portrait are pairs too
@pytest.mark.parametrize("end", ["", "_AB"])
def test_photos_are_not_cut_in_halves_unless_their_names_say_so(tmp_path, capsys, sizes, told, end):
    for i, size in enumerate(sizes):
        write_pair(tmp_path / ("train" if i > 1 else "val") / f"{i}{end}.png", *size, seed=i)
    cfg = settings(tmp_path, None)
    if told and not end:
        with pytest.raises(UserError, match=f"{told}, such as .*: they do not look like two images side by side. Put "
                                            "the two sides into folders A and B.* let the names end in _AB"):
            load_data(cfg)
        assert check(cfg) == 2
        assert "problem: " in (shown := capsys.readouterr().out) and told in shown
    else:
        assert sum(map(len, load_data(cfg)[:2])) == len(sizes) and check(cfg) == 0
        assert "do not look like" not in capsys.readouterr().out


def test_a_few_plain_photos_among_pairs_are_named(tmp_path, capsys):
    for i in range(9):
        write_pair(tmp_path / "mine" / ("train" if i else "val") / f"{i}.png", 48 if i == 8 else 96, 48, seed=i)
    cfg = replace(Config(), data_root=tmp_path / "mine")
    load_data(cfg)
    assert check(cfg) == 0
    assert capsys.readouterr().out.count("1 of 8 files are not wider than high, such as ") == 2


def test_files_of_several_pages_or_frames_are_named(tmp_path, capsys):
    for i, name in enumerate(("train/4.jpg", "train/5.tif", "train/6.png", "train/7.webp", "val/1.png")):
        write_pair(tmp_path / "mine" / name, seed=i)
    frames = [Image.new("RGB", (96, 48), colour) for colour in ("red", "blue")]
    for name in ("1.png", "2.webp", "3.tif"):
        frames[0].save(tmp_path / "mine" / "train" / name, save_all=True, append_images=frames[1:])
    for look in (load_data, check):
        look(replace(Config(), data_root=tmp_path / "mine"))
        assert "3 of 7 pairs hold files of several pages or frames" in capsys.readouterr().out


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(tmp_path):
    """Maps, 1200×600: a quarter of the pixels; the halves keep apart, and labels are never averaged."""
    path = write_pair(tmp_path / "a.jpg", 1200, 600)
    a, b = read_pair(pair_of(path), RGB, RGB, lambda size: (286, 286))
    assert a.shape == b.shape == (300, 300, 3)
    for enough in (None, lambda size: (301, 301), lambda size: (301, 100), lambda size: (100, 301)):
        assert read_pair(pair_of(path), RGB, RGB, enough)[0].shape == (600, 600, 3)
    for reduced, full in zip((a, b), read_pair(pair_of(path), RGB, RGB), strict=True):
        difference = np.abs(resize(reduced, (286, 286)).astype(int) - resize(full, (286, 286)))
        assert difference.mean() < 1 and np.percentile(difference, 99) <= 4
    cfg = replace(Config(), load_size=286)
    sizes = []
    for data in (paired([pair_of(path)], cfg, True), paired([pair_of(path)], cfg, False),
                 paired([pair_of(path)], replace(cfg, label_side="B"), True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dataset.read_pictures", lambda *a: sizes.append(a[1] and a[1]((9, 9))) or read_pictures(*a))
            data[1, 0]
    assert sizes == [(286, 286), None, None]  # what is scored, and label maps, are decoded whole


def test_fractions_neither_cut_a_column_nor_hide_different_sizes(tmp_path):
    odd = write_pair(tmp_path / "odd.jpg", 1206, 600)  # at 1/2, the middle column would belong to both halves
    assert read_pair(pair_of(odd), RGB, RGB, lambda size: (200, 200))[0].shape == (600, 603, 3)
    pair = pair_of(write_pair(tmp_path / "a.jpg", 600, 600), write_pair(tmp_path / "b.jpg", 1200, 600))
    with pytest.raises(DataError, match="a pair must be of one shape"):
        read_pair(pair, RGB, RGB, lambda size: (286, 286))


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_in_memory_are_the_pairs_on_disk_and_need_no_worker(data, workers):
    cfg = replace(JITTER, data_root=data, num_workers=workers, color_jitter=0.3)
    read, kept = (load_data(replace(cfg, cache=cache))[0] for cache in ("none", "ram"))
    for epoch in (1, 2):
        for i in range(len(read)):
            assert all(map(torch.equal, read[epoch, i], kept[epoch, i]))
    with loaders(kept, kept, cfg, Ranks()) as (batches, _):
        assert batches.loader is None
    for path in (data / "train").iterdir():
        path.unlink()
    assert kept[1, 0][0].shape == (3, 64, 64)


def test_auto_keeps_what_fits_into_memory_and_says_how_much(data, monkeypatch, capsys):
    """Training and validation together, in every process."""
    cfg = replace(JITTER, data_root=data, cache="auto")
    needed = 6 * 80**2 * 6 + 2 * 64**2 * 6
    for limit, world, kept in ((needed, 1, True), (needed - 1, 1, False), (2 * needed, 2, True), (needed, 2, False)):
        monkeypatch.setattr(loading, "AUTO_CACHE", limit)
        assert [each.cache is not None for each in load_data(cfg, world)[:2]] == [kept] * 2
        assert capsys.readouterr().out.count("reading the pairs once, into memory:") == kept
    assert load_data(replace(cfg, cache="ram"), 2)[0].cache is not None


def test_bytes_travel_and_become_what_the_items_are(data):
    cfg = replace(JITTER, data_root=data, batch_size=3, num_workers=0)
    pairs = load_data(cfg)[0]
    with loaders(pairs, pairs, cfg, Ranks()) as (batches, _):
        messages, moved = list(batches._messages()), list(batches)
    assert all(pixels.dtype == torch.uint8 for pixels, _ in messages)
    order = list(EpochSampler(len(pairs), cfg.seed))
    for k, (x, y) in enumerate(moved):
        for i in range(3):
            assert torch.equal(x[i], pairs[order[3 * k + i]][0]) and torch.equal(y[i], pairs[order[3 * k + i]][1])


def test_a_batch_may_mix_8_and_16_bits(tmp_path):
    Image.fromarray(np.full((64, 64), 51, np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.full((64, 64), 51 * 257, np.uint16)).save(tmp_path / "16.png")
    cfg = replace(JITTER, batch_size=2, num_workers=0)
    mixed = paired([pair_of(*(tmp_path / name,) * 2) for name in ("8.png", "16.png")], cfg)
    with loaders(mixed, mixed, cfg, Ranks()) as (batches, _):
        (x, y), = batches
    torch.testing.assert_close(x, torch.full((2, 3, 64, 64), 51 / 127.5 - 1), rtol=0, atol=1e-4)
