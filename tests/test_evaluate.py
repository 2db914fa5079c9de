import csv
import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from conftest import pair_of, save, write_pair, write_sides

import evaluate as evaluate_module
from config import Config
from dataset import PairedImages
from evaluate import Evaluate, baseline, load_pairs, load_reader, reading, table
from generator import Generator
from hd.networks import GlobalGenerator
from inference.load import load_generator, published_keys
from inference.metrics import Checkerboard, LabelScores, Perceptual, image_scores, needs, summary
from pairs.geometry import Geometry
from pairs.palettes import CITYSCAPES, FACADES, load_palette
from pairs.values import Values
from runtime.run import is_best
from train import train
from utils import DataError, UserError


def test_scores_are_scikit_image_s_of_the_images_in_0_to_1():
    """With SSIM's Gaussian window, which torchmetrics takes at the mirrored border too."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    torch.manual_seed(0)
    y = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=64, mode="bilinear")[0] * 2 - 1
    y_fake = (y + 0.2 * torch.randn_like(y)).clamp(-1, 1)
    a, b = ((image.numpy() + 1) / 2 for image in (y_fake, y))
    scores = image_scores(y_fake, y)
    wide = [np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect") for image in (a, b)]
    similarity = structural_similarity(*wide, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False)
    assert scores["ssim"] == pytest.approx(similarity, abs=1e-4)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1), abs=1e-3)
    assert scores["l1"] == pytest.approx(2 * np.abs(a - b).mean(), rel=1e-4)


@pytest.mark.parametrize("size", [1, 6, 10, 15, 175, 176])
def test_an_image_against_itself_is_perfect_or_too_small_for_a_metric_and_scored_by_the_others(size):
    """It would end a run with --best-by at the first validation. Of MS-SSIM, torchmetrics says 160 pixels."""
    y, board = torch.rand(3, size, 200) * 2 - 1, Checkerboard()
    board.update(y, y)
    scores = image_scores(y, y)
    assert scores["l1"] == 0 and math.isnan(board.compute()["nyquist"]) == (size < 16)
    for name, least in (("ssim", 10), ("ms_ssim", 175)):
        assert scores[name] == pytest.approx(1 if size > least else math.nan, nan_ok=True)
        assert (name in summary([scores])) == (size > least)


@pytest.mark.parametrize("resize", ["aspect", "none"])
def test_a_run_is_not_trained_to_the_end_without_a_best_epoch(small, resize):
    """MS-SSIM is nan on small images, of whichever size the crops are."""
    with pytest.raises(UserError, match="best_by must be another than ms_ssim, which needs more than 175 pixels"):
        train(small(resize=resize, best_by="ms_ssim"))


def paint(names, palette):
    """A label map of one row, one pixel a name."""
    pixels = torch.tensor([palette[name] for name in names], dtype=torch.float32)
    return (pixels / 127.5 - 1).T[:, None]


def test_label_scores_are_what_they_are_by_hand():
    """Over two images, of which the first is larger, and of each of which the last pixel is hidden, though right.

    The colours are nearly those of the palette, as JPEG would leave them.
    """
    target = paint(["road", "road", "road", "car", "car", "sky", "void unlabeled", "car"], CITYSCAPES)
    output = paint(["road", "road", "car", "car", "car", "void ground", "road", "car"], CITYSCAPES) + 0.02
    scores, hide = LabelScores(CITYSCAPES), torch.tensor([[False, False, False, False, True, False, False, True]])
    for part in (np.s_[..., :5], np.s_[..., 5:]):
        scores.update(output[part], target[part], hide[part])
    assert scores.compute() == pytest.approx({
        "pixel_accuracy": 3 / 5,
        "class_accuracy": (2 / 3 + 1 + 0) / 3,
        "class_iou": (2 / 3 + 1 / 2 + 0) / 3})  # road 2 of 3, car 1 of 2, sky 0 of 1


def test_the_mean_of_targets_is_of_what_their_masks_show(tmp_path):
    rng = np.random.default_rng(0)
    pairs = []
    for i in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, 32 * (i % 2) : 32 * (i % 2) + 32] = 255
        target = np.where(mask[..., None] > 0, 200, rng.integers(0, 255, (64, 64, 3))).astype(np.uint8)
        pairs.append(pair_of(*(save(tmp_path / side / f"{i}.png", image)
                               for side, image in (("A", target), ("B", target), ("M", mask)))))
    data = PairedImages(pairs, geometry=Geometry("stretch", 64, 64))
    assert baseline("mean", data)(data[0][0]).unique().tolist() == pytest.approx([200 / 127.5 - 1])
    assert torch.equal(baseline("identity", data)(data[0][0]), data[0][0])
    target = Values(3, (20.0, 60.0))
    several = [replace(pairs[0], inputs=pairs[0].inputs * 3)]
    for x, found in ((Values(3, (0.0, 80.0)), pairs), (Values(3, n_labels=3), pairs), (Values(1), pairs),
                     (Values(3, (20.0, 60.0 + 1e-9)), pairs), (target, several)):
        with pytest.raises(UserError, match="3 channels, 20 to 60 as -1 to 1; they are (?!3 channels, 20 to 60 as)"):
            baseline("identity", replace(data, pairs=found, x=x, y=target))


def test_label_scores_under_a_mask_are_those_of_what_it_shows(small, tmp_path, capsys, monkeypatch):
    """In training and in evaluate.py; the hidden three quarters would be black, as "sea" nearly is."""
    monkeypatch.chdir(tmp_path)
    colours = {"sea": (40, 40, 90), "roof": (255, 0, 0), "rock": (128, 128, 128)}
    (tmp_path / "palette.json").write_text(json.dumps(colours))
    rng, palette = np.random.default_rng(0), np.array([*colours.values()], np.uint8)
    root = write_sides(tmp_path / "masked", {
        "A.png": lambda i: rng.integers(0, 255, (64, 64, 3), np.uint8),
        "B.png": lambda i: palette[np.kron(rng.integers(1, 3, (4, 4)), np.ones((16, 16), int))],
        "M.png": lambda i: np.tile(np.uint8([0, 0, 0, 255]).repeat(16), (64, 1))}, n=2)
    cfg = small(data_root=root, label_side="B", best_by="palette.json", n_epochs=1, crop_size=64,
                load_size=64)
    train(cfg)
    opts = options(cfg, palette=cfg.best_by)
    gen = load_generator(opts.checkpoint)
    data, others = load_pairs(opts, gen)
    shown = LabelScores(colours)
    for _, y_fake, y in evaluate_module.predictions(gen, data, range(2), opts):
        shown.update(y_fake[..., 48:], y[:3, :, 48:])
    accuracy = shown.compute()["pixel_accuracy"]
    found = evaluate_module.evaluate(gen, data, others, opts)["scores"]["output"]
    assert 0 < found["pixel_accuracy"] == pytest.approx(accuracy)
    assert "no colour" not in capsys.readouterr().out
    evaluate_module.evaluate(gen, data, others, replace(opts, palette="demo"))
    assert "100% of the targets' pixels have no colour of demo" in capsys.readouterr().out
    with (cfg.out_dir / "log.csv").open() as file:
        assert float([*csv.DictReader(file)][-1]["val_label_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert (cfg.out_dir / "best.pth.tar").exists()
    monkeypatch.chdir("/")
    train(replace(cfg, resume=True, n_epochs=2, best_by=str(tmp_path / "palette.json")))
    assert "best_by" not in capsys.readouterr().out  # it has not changed


def test_the_palettes_have_the_classes_of_the_paper_and_void_is_a_class_of_that_name_only():
    assert sum(not name.startswith("void") for name in CITYSCAPES) == 19 and len(FACADES) == 12
    for palette in (CITYSCAPES, FACADES):
        assert len(set(palette.values())) == len(palette)
    assert LabelScores({"void": (0, 0, 0), "void x": (1, 1, 1), "voids": (9, 9, 9), "a": (90, 0, 0)}).void == 2


def test_a_palette_can_be_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"a": [0, 0, 0], "b": [255, 0, 0], "void": [9, 9, 9]}))
    assert load_palette(str(path))["b"] == (255, 0, 0)
    for text in ("[]", "{", "[" * 100_000, '{"a": [0, 0]}', '{"a": [0, 0, 0]}', '{"a": [0, 0, 0], "b": [0, 0, 300]}',
                 '{"a": [0, 0, 0], "b": [9, 0, 0], "c": [9, 0, 0]}'):  # one colour, two classes
        path.write_text(text)
        with pytest.raises(ValueError, match="mine.json"):
            load_palette(str(path))
    with pytest.raises(ValueError, match="palette facade is not cityscapes, .*facades.* or a JSON file"):  # misspelt
        load_palette("facade")


def options(cfg, **changes):
    return replace(Evaluate(cfg.out_dir / "gen.pth.tar", cfg.data_root, device="cpu", num_workers=0), **changes)


def scored(opts):
    return load_pairs(opts, load_generator(opts.checkpoint))[0]


@pytest.mark.parametrize(("net", "size"), [
    (Generator(ngf=4, crop_size=64), (64, 64)), (GlobalGenerator(ngf=4, n_downs=3, n_blocks=1), (48, 48))])
def test_a_published_file_is_scored_at_its_own_size_or_the_images(data, tmp_path, net, size):
    """Of the authors' U-Nets the depth tells the size; pix2pixHD's networks take any."""
    ours = published_keys(6) if isinstance(net, Generator) else {name: name for name in net.state_dict()}
    torch.save({theirs: net.state_dict()[name] for name, theirs in ours.items()}, tmp_path / "latest_net_G.pth")
    opts = Evaluate(tmp_path / "latest_net_G.pth", data, direction="AtoB", device="cpu", num_workers=0, baseline="mean")
    gen = load_generator(opts.checkpoint)
    pairs, train_pairs = load_pairs(opts, gen)
    assert pairs[0][0].shape[:0:-1] == size
    found = evaluate_module.evaluate(gen, pairs, train_pairs, opts)
    assert found["scores"].keys() == {"output", "mean"}


def test_plain_photos_are_not_cut_in_half_to_be_scored(run, data):
    for path in (data / "val").iterdir():
        write_pair(path, 48, 48)
    with pytest.raises(ValueError, match="not wider than high"):
        scored(options(run))


def test_label_maps_are_not_blended_before_they_are_scored(run, data):
    labels = np.zeros((100, 100, 3), np.uint8)
    labels[:, 33:] = (0, 48, 255)
    for i in range(2):
        write_pair(data / "val" / f"{i}.png", left=labels, right=labels)
    x, y = scored(options(run, palette="facades"))[0]
    assert len(y.flatten(1).unique(dim=1).T) == 2 < len(x.flatten(1).unique(dim=1).T)


@pytest.fixture
def call(run):
    """Runs the command on a finished run: its exit status, what it printed, and the folders of evaluations."""

    def score(*flags):
        status, *said = conftest.call(evaluate_module, "--checkpoint", run.out_dir / "gen.pth.tar", "--data-root",
                                      run.data_root, "--num-workers", 0, "--device", "cpu", *flags)
        return status, "".join(said), sorted(run.out_dir.glob("evaluation_*"))

    return score


def test_one_output_that_is_not_finite_costs_only_itself_and_is_named(call, data, monkeypatch):
    black, white = np.zeros((48, 48, 3), np.uint8), np.full((48, 48, 3), 255, np.uint8)
    write_pair(data / "val" / "bad.png", left=white, right=black)
    forward = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, x: forward(self, x) * (torch.nan if x.min() == 1 else 1))
    status, said, folders = call("--baseline", "identity", "--palette", "facades")
    assert status == 0 and "not finite (--precision fp32 may help): 1 of 3 pairs" in said and "bad.png" in said
    report = json.loads((folders[0] / "metrics.json").read_text())
    assert [value is None for value in report["l1_of_each"]] == [False, False, True]
    l1 = report["scores"]["output"]["l1"]
    assert l1["mean"] == pytest.approx(sum(report["l1_of_each"][:2]) / 2) and "psnr" in report["scores"]["output"]
    assert report["scores"]["identity"]["l1"]["mean"] < 1.5  # the pair is left out for all: its own distance is 2
    monkeypatch.setattr(Generator, "forward", lambda self, x: x * torch.nan)
    status, said, folders = call()
    assert status == 2 and "not finite (--precision fp32 may help): 3 of 3 pairs" in said and len(folders) == 1
    assert "none of the 3 pairs can be scored" in said


def test_a_second_evaluation_leaves_the_first_one_alone(call, run, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for n in (1, 2, 3):
        status, said, folders = call("--seed", n)
        assert status == 0 and len(folders) == n and str(folders[-1] / "metrics.json") in said and "N = 2" in said
        assert (folders[-1] / "sheet.png").exists()
    assert [path.name for path in folders] == ["evaluation_val", "evaluation_val-2", "evaluation_val-3"]
    assert [json.loads((path / "metrics.json").read_text())["settings"]["seed"] for path in folders] == ["1", "2", "3"]
    assert call("--out-dir", tmp_path / "mine")[0] == 0
    before = (tmp_path / "mine" / "metrics.json").read_bytes()
    status, said, _ = call("--out-dir", tmp_path / "mine", "--seed", 9)
    assert status == 2 and "already holds an evaluation" in said and "--out-dir" in said
    assert (tmp_path / "mine" / "metrics.json").read_bytes() == before
    monkeypatch.setattr(Path, "mkdir", fail)
    status, said, folders = call()
    assert status == 2 and "evaluation_val (Read-only file system): give --out-dir" in said and len(folders) == 3


@pytest.mark.parametrize(("flags", "told"), [
    (("--seed", 2**70), "seed must be "), (("--seed", -1), "seed must be "), (("--limit", -1), "limit must be "),
    (("--num-workers", -1), "num_workers must be "), (("--scale", "native"), "--scale needs --full-size"),
    (("--full-size", "--scale", 0, "--data-root", "nowhere"), "scale must be ")])  # before pairs are looked at
def test_a_flag_of_no_use_is_one_sentence_and_leaves_no_folder(call, flags, told):
    status, said, folders = call(*flags)
    assert status == 2 and said.startswith(f"error: {told}") and said.count("\n") == 1 and not folders


def test_want_of_memory_is_a_sentence(call, monkeypatch):
    monkeypatch.setattr(Generator, "forward", lambda self, x: torch.empty(2**50, dtype=torch.uint8))
    status, said, folders = call()
    assert status == 2 and said.startswith("error: there is too little memory") and said.count("\n") == 1
    assert not folders


def test_scores_are_printed_even_where_they_cannot_be_written(call, monkeypatch, tmp_path):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(evaluate_module, "atomic", full)
    status, said, _ = call()
    assert status == 2 and "psnr" in said and "No space left on device" in said


def test_an_unknown_direction_too_few_inputs_and_want_of_training_pairs_are_refused(run):
    opts = options(run)
    gen = load_generator(opts.checkpoint)
    for told, said in ((dict(direction=None), "give --direction"), (dict(inputs=2), "2 inputs together.*there are 1")):
        gen.trained = replace(load_generator(opts.checkpoint).trained, **told)
        with pytest.raises(ValueError, match=said):
            load_pairs(opts, gen)
    shutil.rmtree(run.data_root / "train")
    with pytest.raises(ValueError, match="--baseline mean needs training pairs"):
        load_pairs(replace(opts, baseline="mean"), load_generator(opts.checkpoint))


def test_perceptual_metrics_that_cannot_be_had_cost_one_sentence_each_and_the_status(call, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    status, said, folders = call("--perceptual", "--baseline", "identity")
    assert status == 1 and said.count("no lpips: it cannot be had here (no network); ") == 1
    assert torch.hub.get_dir() in said and (folders[0] / "metrics.json").exists()


def perceptual_of(**metrics):
    """Without the networks that it would download."""
    perceptual = Perceptual.__new__(Perceptual)
    perceptual.n, perceptual.smallest, perceptual.metrics = 0, math.inf, metrics
    return perceptual


def test_fid_and_kid_see_the_bytes_that_a_file_would_hold_and_lpips_no_small_images():
    seen = []

    class Metric:
        def update(self, image, real):
            assert image.dtype == torch.uint8
            seen.append(image[0])

        def compute(self):
            return torch.zeros(2)[0]

    perceptual = perceptual_of(**dict.fromkeys(("fid", "lpips"), Metric()))
    levels = torch.arange(256).view(1, 16, 16)
    for off in (0, -0.4, 0.4):
        perceptual.update(levels / 127.5 - 1 + off / 127.5, levels / 127.5 - 1)
    assert len(seen) == 6 and all(torch.equal(image, levels.byte().expand(3, -1, -1)) for image in seen)
    assert perceptual.compute() == {"fid": 0.0}
    assert needs("lpips") == "more than 30 pixels a side"


def test_fid_and_kid_enlarge_images_as_torch_fidelity_does(monkeypatch):
    class Metric(torch.nn.Module):
        def __init__(self, *args, **kwargs):
            super().__init__()
            self.inception = SimpleNamespace(use_antialias=True)  # as of torchmetrics 1.8

    for name in ("fid.FrechetInceptionDistance", "kid.KernelInceptionDistance",
                 "lpip.LearnedPerceptualImagePatchSimilarity"):
        monkeypatch.setattr(f"torchmetrics.image.{name}", Metric)
    metrics = Perceptual(torch.device("cpu")).metrics
    assert not metrics["fid"].inception.use_antialias and not metrics["kid"].inception.use_antialias


def test_fid_and_kid_of_one_image_are_left_out_in_a_sentence():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Mean(torch.nn.Module):
        num_features = 3

        def forward(self, x):
            return x.float().mean((2, 3))

    perceptual = perceptual_of(fid=FrechetInceptionDistance(Mean(), input_img_size=(3, 64, 64)),
                               kid=KernelInceptionDistance(Mean()))
    perceptual.update(torch.rand(3, 64, 64), torch.rand(3, 64, 64))
    assert perceptual.compute() == {}
    assert needs("fid") == needs("kid") == "two images or more"
    perceptual.update(torch.rand(3, 64, 64), torch.rand(3, 64, 64))
    assert all(map(math.isfinite, perceptual.compute().values())) and len(perceptual.compute()) == 2


def test_the_table_names_metrics_and_columns_with_mean_and_deviation_over_images():
    text = table({"output": {**summary([{"l1": 0.25}, {"l1": 0.75}]), "class_iou": 0.125},
                  "mean": summary([{"l1": 1.0}]), "identity": summary([{"l1": math.inf}])})
    assert all(words in text for words in ("0.5000 ± 0.2500", "1.0000 ± 0.0000", " inf\n", "0.1250", "output", "nan"))


def test_a_loader_process_that_dies_is_told_in_a_sentence(run, data, monkeypatch):
    for i in range(6):
        write_pair(data / "val" / f"{i}.png", seed=200 + i)
    opts = options(run, num_workers=2)
    gen = load_generator(opts.checkpoint)
    read = PairedImages.pixels
    monkeypatch.setattr(PairedImages, "pixels", lambda self, keys: (
        os.kill(os.getpid(), signal.SIGKILL) if (0, 4) in keys else read(self, keys)))
    with pytest.raises(DataError, match="process that loads images was killed.*--num-workers"):
        evaluate_module.evaluate(gen, *load_pairs(opts, gen), opts)


@pytest.mark.parametrize(("best_by", "column", "values", "best"), [
    ("val_l1", "val_l1", [0.3, 0.2, 0.4, 0.2], [1, 2, 4]), ("psnr", "val_psnr", [11.0, 12.0, 9.0, 12.0], [1, 2, 4]),
    ("ms_ssim", "val_ms_ssim", [0.3, 0.2, 0.4], [1, 3]),
    ("facades", "val_label_accuracy", [None, 0.2, math.nan, 0.1, 0.3], [2, 5])])
def test_the_best_is_the_lowest_l1_and_the_highest_of_the_others(best_by, column, values, best):
    """Chosen by the wrong end, best.pth.tar holds the worst. Epochs before a palette was given have no accuracy."""
    rows = [{"epoch": i, "val_l1": 0.3, "val_ssim": 0.5, **({} if value is None else {column: value})}
            for i, value in enumerate(values, 1)]
    held, saved = {}, []
    cfg = replace(Config(), best_by=best_by, label_side="both")
    for row in rows:
        if is_best(row, held, cfg):
            held = row
            saved.append(row["epoch"])
    assert saved == best
    assert not is_best({"epoch": 9, "val_l1": 0.0}, held, cfg)  # not scored


@pytest.fixture
def scripted(monkeypatch):
    """Runs whose validation gives these (val_l1, val_psnr), one epoch after the other."""

    def install(*scores):
        scores = iter(scores)

        def validate(*args):
            l1, psnr = next(scores)
            return {"val_l1": l1, "val_psnr": psnr, "val_ssim": 0.5}, []

        monkeypatch.setattr("train.Validation.__call__", validate)

    return install


def best_of(cfg):
    return torch.load(cfg.out_dir / "best.pth.tar", weights_only=True)["epoch"]


@pytest.mark.long
def test_another_best_by_compares_with_the_generator_on_the_disk(small, scripted):
    """Epoch 2 has the best PSNR so far and is on no disk, where epoch 1 is, chosen by L1: epoch 3 is better than it."""
    scripted((0.1, 10.0), (0.3, 20.0), (0.3, 15.0), (0.1, 14.0), (0.1, 16.0))
    train(small(n_epochs=2, best_by="val_l1"))
    assert best_of(small()) == 1
    for n_epochs, best in ((3, 3), (4, 3), (5, 5)):
        train(small(n_epochs=n_epochs, best_by="psnr", resume=True))
        assert best_of(small()) == best
    file = torch.load(small().out_dir / "best.pth.tar", weights_only=True)
    assert file["scores"] == {"val_l1": 0.1, "val_psnr": 16.0, "val_ssim": 0.5}


@pytest.mark.long
def test_a_best_generator_that_is_gone_or_of_an_earlier_version_is_replaced_rightly(small, scripted, capsys):
    scripted((0.1, 10.0), (0.3, 11.0), (0.2, 12.0), (0.15, 12.0), (0.9, 9.0))
    path = small().out_dir / "best.pth.tar"
    train(small(n_epochs=1, best_by="val_l1"))
    path.unlink()
    train(small(n_epochs=2, best_by="val_l1", resume=True))
    assert best_of(small()) == 2
    file = torch.load(path, weights_only=True)
    del file["scores"]
    torch.save(file, path)
    for n_epochs in (3, 4):
        train(small(n_epochs=n_epochs, best_by="val_l1", resume=True))
        assert best_of(small()) == n_epochs
    path.write_bytes(path.read_bytes()[:1000])
    train(small(n_epochs=5, best_by="val_l1", resume=True))
    assert best_of(small()) == 5 and "best.pth.tar is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["rows", "columns", "both"])
def test_checkerboards_are_measured_and_edges_are_not(pattern):
    """A pattern of one pixel's period, whichever way it runs; not what a sharp photo has too."""
    rows, columns = torch.arange(64)[:, None] % 2, torch.arange(96) % 2
    sign = {"rows": rows + 0 * columns, "columns": columns + 0 * rows, "both": rows ^ columns}[pattern] * 2.0 - 1
    y = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    same, more = Checkerboard(), Checkerboard()
    same.update(y.flip(2), y)
    more.update(y + 0.05 * sign, y)
    assert 0.9 < same.compute()["nyquist"] < 1.1
    noise = 3 * 0.1**2 / 256  # of the mean of 256 pixels, for each of the three patterns
    assert more.compute()["nyquist"] == pytest.approx(1 + 0.05**2 / noise, rel=0.1)
    more.update(torch.zeros(3, 64, 96), torch.zeros(3, 64, 96))
    assert math.isnan(Checkerboard().compute()["nyquist"])
    flat = Checkerboard()
    flat.update(y, torch.full((3, 64, 96), 40 / 127.5 - 1))  # whose energy is what rounding leaves
    assert math.isnan(flat.compute()["nyquist"])


@pytest.fixture
def readable(data, small):
    """Pairs of labels and their photographic negative, a generator that labels nothing, and a reader that is right."""
    rng = np.random.default_rng(0)
    for path in data.glob("*/*.png"):
        blocks = rng.integers(0, 2, (8, 8)).repeat(6, 0).repeat(6, 1)[..., None]
        labels = np.where(blocks, np.uint8([255, 239, 0]), np.uint8([0, 0, 223])).astype(np.uint8)
        write_pair(path, left=labels, right=255 - labels)
    train(small("gen", n_epochs=1, direction="AtoB"))
    train(small("reader", n_epochs=1, direction="BtoA"))
    return small("gen"), small("reader").out_dir / "gen.pth.tar"


def test_the_reader_s_labels_are_compared_with_the_input(readable, monkeypatch):
    """Against the target, or read by the generator itself, real photos would not score 1 where the reader is right."""
    cfg, reader = readable
    opts = options(cfg, reader=reader, palette="facades", baseline="identity", out_dir=cfg.out_dir / "e")
    gen = load_generator(opts.checkpoint)
    forward = Generator.forward  # the reader takes the negative; the generator paints all gray
    monkeypatch.setattr(Generator, "forward", lambda self, x: -x if self is not gen else forward(self, x))
    found = evaluate_module.evaluate(gen, *load_pairs(opts, gen), opts)["scores"]
    assert len(scored(opts)[0][0].flatten(1).unique(dim=1).T) == 2  # no colours are mixed
    assert found["target"].keys() == {"pixel_accuracy", "class_accuracy", "class_iou"}
    assert found["target"]["pixel_accuracy"] > 0.99  # resizing mixes the colours of the photos
    assert found["output"]["pixel_accuracy"] < 0.9 and found["identity"]["pixel_accuracy"] < 0.1
    assert f"{found['target']['pixel_accuracy']:.4f}" in table(found)


def test_a_reader_sees_images_of_any_size_as_predict_shows_them_to_it(readable, monkeypatch):
    """Of 256 pixels, where it had learnt from 64, it read real photos worse than generated ones."""
    cfg, path = readable
    opts = options(cfg, reader=path, palette="facades", full_size=True)
    gen = load_generator(opts.checkpoint)
    data, _ = load_pairs(opts, gen)
    reader, sizes = load_reader(opts, gen, data.direction, torch.device("cpu")), []
    monkeypatch.setattr(Generator, "forward", lambda self, x: sizes.append(x.shape[2:]) or -x)
    _, photo = data[0]
    assert min(photo.shape[1:]) != cfg.crop_size and reading(reader, data, opts)(photo).shape == photo.shape
    assert {*sizes} == {(cfg.crop_size, cfg.crop_size)}
    for change, said in ((dict(crop_width=512), "or crop_width"), (dict(resize="aspect"), "the generator with aspect")):
        gen.trained = replace(gen.trained, geometry=replace(gen.trained.geometry, **change))
        with pytest.raises(UserError, match=f"with resize stretch, .*{said}.* --full-size"):
            load_reader(replace(opts, full_size=False), gen, data.direction, torch.device("cpu"))


@pytest.mark.parametrize(("mistake", "said"), [
    ("no palette", "needs --palette"), ("the generator itself", "trained the other way"),
    ("other channels", "takes 1 channels to 3"), ("absent", "nowhere")])
@pytest.mark.long
def test_a_reader_of_no_use_is_a_sentence_and_leaves_no_folder(readable, call, small, mistake, said):
    cfg, reader = readable
    if mistake == "other channels":
        train(small("gray", n_epochs=1, direction="BtoA", in_channels=1))
    reader = {"absent": "nowhere", "the generator itself": cfg.out_dir / "gen.pth.tar",
              "other channels": small("gray").out_dir / "gen.pth.tar"}.get(mistake, reader)
    status, out, folders = call("--reader", reader, *([] if mistake == "no palette" else ["--palette", "facades"]))
    assert status == 2 and said in out and not folders, out
