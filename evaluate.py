"""Scores a trained generator on a data set: a table, metrics.json, and a sheet of the best, median and worst images.

    python evaluate.py --checkpoint runs/facades/gen.pth.tar --data-root data/facades --split val
    python evaluate.py --checkpoint runs/maps/gen.pth.tar --data-root data/maps --split val --baseline mean
    python evaluate.py --checkpoint runs/city/gen.pth.tar --data-root data/cityscapes --palette cityscapes
"""

import contextlib
import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from tqdm import tqdm

from dataset import PairedImages
from generator import Generator
from inference.load import find_checkpoint, load_generator
from inference.metrics import Checkerboard, LabelScores, Perceptual, image_scores, needs, summary
from inference.trained import Trained, mark_of
from inference.translate import Translator, at_any_size, check_scale
from pairs.checks import check_headers
from pairs.divide import Found
from pairs.download import ensure_dataset
from pairs.find import evenly, find_splits, nothing_to_train, refuse_problems
from pairs.geometry import Scale
from pairs.identity import Known
from pairs.images import to_tensor
from pairs.loading import open_batches
from pairs.palettes import load_palette
from pairs.reading import read_pictures
from pairs.values import composite, hidden, to_batch
from runtime.console import run_main, say
from runtime.devices import check_seed, choose_precision, memory_advice, seed_draws, use_device, use_precision
from runtime.files import atomic
from runtime.grids import save_grid
from utils import UserError, name_of


@dataclass(frozen=True)
class Evaluate:
    checkpoint: Path  # gen.pth.tar of a run, *_net_G.pth of the authors or its name, hf:USER/REPO, an address
    data_root: Path  # folder of pairs, laid out as for training
    split: Literal["val", "test", "train", "all"] = "val"  # without a split in data_root, val is what was held out
    direction: Literal["trained", "AtoB", "BtoA"] = "trained"  # trained: the one that the checkpoint names
    norm: Literal["image", "running"] = "image"  # BatchNorm's statistics: each image's (the paper) or the running ones
    dropout: Literal["on", "off"] = "on"  # on is the paper's noise
    baseline: Literal["none", "identity", "mean"] = "none"  # also score the input itself, or the mean training target
    full_size: bool = False  # score at the size of the targets, as predict.py writes; else as validation shows them
    scale: Scale = "trained"  # with full_size, as predict.py takes it
    palette: str | None = None  # cityscapes, demo, facades or a JSON file: score the outputs as label maps
    reader: Path | None = None  # a photo -> labels generator: score what it reads in the outputs against the inputs
    perceptual: bool = False  # also LPIPS, FID and KID, whose networks torchmetrics downloads; without one, status 1
    skip_unreadable: bool = False  # leave out pairs that cannot be read
    limit: int = 0  # pairs to score, evenly spaced; 0 takes all
    out_dir: Path | None = None  # for metrics.json and sheet.png; a new evaluation_SPLIT by the checkpoint if not given
    seed: int = 0  # of the dropout
    num_workers: int = 2  # processes that load images
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"  # of the network; metrics are fp32
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu


def predictions(gen: Generator, data: PairedImages, order: Sequence[int], opts: Evaluate) -> Iterator[tuple]:
    """(x, y_fake, y) of the pairs, one at a time, each (C, H, W), y with its mask. Raises DataError."""
    device = next(gen.parameters()).device
    dtype = choose_precision(opts.precision, device)
    if opts.full_size:
        translator = Translator(gen, scale=opts.scale, norm=opts.norm, dropout=opts.dropout, seed=opts.seed,
                                precision=opts.precision)
        for index in tqdm(order, "scoring", leave=False, disable=None):
            pixels = data.read(index)
            inputs = read_pictures(data.pairs[index])["AB".index(data.direction[0])] if data.x.channels == 4 else []
            scaled = to_tensor(translator.to_scale(pixels[..., : data.x.stored], data.x.is_sprite(inputs)))
            y_fake = translator.to_size(translator.tensor(scaled[None])[0], pixels.shape[1::-1])
            x, y = to_batch(torch.from_numpy(pixels)[None].to(device), data.x)
            yield x[0], y_fake.to(device), y[0]
        return
    with open_batches(data, [(0, index) for index in order], 1, opts.num_workers, device) as batches:
        for x, y in tqdm(batches, "scoring", len(order), leave=False, disable=None):
            seed_draws(opts.seed, device)
            with torch.inference_mode(), gen.test_time(opts.norm, opts.dropout), \
                    torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                y_fake = at_any_size(gen, x).float()
            yield x[0], y_fake[0], y[0]


def baseline(name: str, train: PairedImages) -> Callable[[Tensor], Tensor]:
    """What a translator without any learning makes of x: x itself, or the mean of (at most 200) training targets.

    Of these counts what their masks show.

    Where the network makes ab of L, x itself is the gray photo. Raises UserError where x is no target.
    """
    if name == "identity":
        if train.y.lab:
            return lambda x: x.new_zeros(2, *x.shape[1:])
        several = train.direction == "AtoB" and len(train.pairs[0].inputs) > 1
        x, y = ((side.channels, side.limits, side.n_labels, side.lab) for side in (train.x, train.y))
        if several or x != y:
            raise UserError(f"baseline identity needs inputs like the targets: {train.y}; they are "
                            f"{'several images' if several else train.x}")
        return lambda x: x
    total = counted = 0
    for _, y in map(train.__getitem__, evenly(range(len(train)), 200)):
        y, mask = y[: train.y.channels], y[train.y.channels :]
        weight = (mask + 1) / 2 if len(mask) else torch.ones_like(y[:1])
        total = total + y * weight
        counted = counted + weight
    mean = total / counted.clamp(min=1e-6)
    return lambda x: F.interpolate(mean[None].to(x.device), x.shape[1:], mode="bilinear", antialias=True)[0]


def splits_for(trained: Trained, root: Path, split: str) -> Found:
    """The pairs in `root`, with `split` among the splits, and notes printed. trained: of the generator.

    What a network was trained on is never scored as held out: without a split in `root`, val is what was held out, or
    all there is where the file knows none of the pairs; of val and test, pairs that were trained on are left out.
    Raises UserError where nothing is left, or there is no such split.
    """
    ensure_dataset(root)
    patterns = next((shorter for shorter in trained.patterns.shorter() if shorter.fit(root)), None)
    found = find_splits(root, patterns, trained.space == "lab")
    there = {*found.splits, *found.orphans, *found.problems}
    own = there != {"train"}
    if not there:
        raise nothing_to_train(root, found)
    refuse_problems(found, {split} if own and split != "all" and found.splits else there)
    if split == "all":
        found.splits = {"all": sum(found.splits.values(), []), "train": found.splits.get("train", [])}
    elif not own:
        found.splits["val"] = found.splits["train"]
    if split not in found.splits:
        raise UserError(f"there is no split {split} in {root}, only {', '.join(found.splits)}: --split "
                        f"{min(found.splits, key=['test', 'val', 'train'].index)}, or all")
    for note in found.notes:
        say(note)
    found.mark()
    n = len(found.splits[split])
    met, held = (trained.known or Known()).sides(found.marks[split])
    if split == "all":
        if met.any() or held.any():
            say(f"of the {n:,} pairs in {root}, the network was trained on {met.sum():,}, and {held.sum():,} were "
                "held out")
    elif own and split != "train":
        if met.all():
            raise UserError(f"the network was trained on all {n:,} pairs in {split} of {root}: --split all scores them "
                            "as what they are")
        if met.any():
            found.keep(split, ~met)
            say(f"{met.sum():,} of the {n:,} pairs in {split} were trained on, and are not scored")
    elif not own:
        if held.any():
            found.keep("train", ~held)
            found.keep("val", held)
            say(f"no val or test split: {held.sum():,} of the {n:,} pairs were held out")
        elif not met.any():
            found.keep("train", held)
            if split != "train":
                say(f"no val or test split, and the network's file knows none of the {n:,} pairs: all are scored")
        elif split == "val":
            raise UserError(f"there is no val or test split in {root}, and the network was trained on "
                            f"{met.sum():,} of its {n:,} pairs, none of which was held out: --split train or all "
                            "scores them as what they are")
    if not own and split != "train" and not trained.known:
        say("the checkpoint does not tell what it was trained on: it may have been trained on pairs that are scored")
    if not found.splits[split]:
        raise UserError(f"there is no pair in {root} that the network was trained on: --split val or all")
    return found


def load_pairs(opts: Evaluate, gen: Generator) -> tuple[PairedImages, PairedImages]:
    """The pairs to score, as validation shows them or full size, and the training pairs, in the size of a crop.

    Raises UserError or FileNotFoundError.
    """
    trained = gen.trained
    direction = trained.direction if opts.direction == "trained" else opts.direction
    if not direction:
        raise UserError("the checkpoint does not tell its direction: give --direction AtoB or BtoA")
    labels, maps = trained.label_side, direction[0 if opts.reader else -1]
    if opts.palette and labels != maps:  # averaging label maps would invent colours between two classes
        labels = maps if labels == "none" else "both"
    found = splits_for(trained, opts.data_root, opts.split)
    splits = found.splits
    if opts.baseline == "mean" and not splits.get("train"):
        raise UserError(f"--baseline mean needs training pairs, of which there are none in {opts.data_root}")
    pairs = evenly(splits[opts.split], opts.limit)
    inputs = len(pairs[0].inputs) if direction == "AtoB" else 1
    if inputs != trained.inputs > 1:
        raise UserError(f"the network takes {trained.inputs} inputs together, from folders A1, A2, …; of each pair in "
                        f"{name_of(opts.data_root)}, there are {inputs}")
    halved = found.known_to(trained.known, opts.split) or trained.may_be_a_pair(pairs[0].files[0])
    check_headers(pairs, skip=True, halved=halved)
    shown = replace(trained.geometry, resize="none") if opts.full_size else trained.geometry
    square = replace(trained.geometry, resize="stretch", crop_size=gen.crop_size or 256, crop_width=gen.crop_width)
    x, y = trained.values(direction)
    data, train = (PairedImages(each, direction, x, y, geometry, labels, skip=opts.skip_unreadable)
                   for each, geometry in ((pairs, shown), (splits.get("train") or pairs, square)))
    data.pairs = [*data.readable()]
    if not data.pairs:
        raise UserError(f"none of the {len(pairs)} pairs could be read")
    return data, train


def load_reader(opts: Evaluate, gen: Generator, direction: str, device: torch.device) -> Generator:
    """The network that reads labels in what `gen` makes of them. Raises UserError where the two do not fit."""
    reader = load_generator(opts.reader, device)
    if not opts.palette:
        raise UserError("--reader needs --palette, the classes of the labels that it reads")
    undone = reader.out_channels, reader.in_channels, reader.crop_size
    if undone != (3, gen.out_channels, gen.crop_size) or gen.in_channels != 3:
        raise UserError(f"the reader takes {reader.in_channels} channels to {reader.out_channels} at "
                        f"{reader.crop_size} pixels, which does not undo {gen.in_channels} to {gen.out_channels} at "
                        f"{gen.crop_size}")
    if reader.trained.direction == direction:
        raise UserError(f"the reader translates {direction} as the generator does: it must be trained the other way")
    ways = [(each.resize, {"aspect": each.load_size, "stretch": each.crop}.get(each.resize))
            for each in (reader.trained.geometry, gen.trained.geometry)]
    if ways[0] != ways[1] and not opts.full_size:
        raise UserError(f"the reader was trained with resize {ways[0][0]}, the generator with {ways[1][0]}, or with "
                        "another load_size or crop_width: --full-size shows each of them what it knows")
    return reader


def reading(reader: Generator, data: PairedImages, opts: Evaluate) -> Callable[[Tensor], Tensor]:
    """What the reader sees in an image, (3, H, W) in [-1, 1]: as validation shows it, or full size as predict.py."""
    if opts.full_size:
        shown = replace(reader.trained, bands_a=(), bands_b=())  # an image holds those that are taken, and no others
        translator = Translator(reader, shown, dropout="off", precision=opts.precision)

        def read(image: Tensor) -> Tensor:
            taken = translator.take([data.y.picture(image)])
            return translator.shown(translator.tensor(taken.x[None])[0], taken)
    else:
        def read(image: Tensor) -> Tensor:
            with torch.inference_mode(), reader.test_time(dropout="off"):
                return at_any_size(reader, image[None])[0]
    return read


def evaluate(gen: Generator, data: PairedImages, train: PairedImages, opts: Evaluate) -> dict:
    """The scores of the generator and of the baseline, {who: {metric: {mean, std} or value}}, and l1 of each image.

    With a reader, label scores are those of what it reads in the images, and "target" what it reads in real ones.
    An image whose output is not finite, or of which no pixel counts, is named, left out for all, and has the l1 nan.
    Raises UserError when all are.
    """
    device = next(gen.parameters()).device
    baselines = {} if opts.baseline == "none" else {opts.baseline: baseline(opts.baseline, train)}
    names = ["output", *baselines]
    read = reading(load_reader(opts, gen, data.direction, device), data, opts) if opts.reader else None
    asked, metrics, labels = ["ssim", "ms_ssim"], [(who, Checkerboard()) for who in names], []
    if opts.palette:
        scored = [*names, "target"] if read else names
        labels = [(who, LabelScores(load_palette(opts.palette))) for who in scored]
    if opts.perceptual:
        perceptual = Perceptual(device)  # which says what cannot be had
        asked += perceptual.metrics
        metrics += [(who, perceptual if who == "output" else copy.deepcopy(perceptual)) for who in names]
    rows, l1, near = {who: [] for who in names}, [math.nan] * len(data), []
    blank, bad = [], []  # files of what cannot be scored
    for i, (x, y_fake, y) in enumerate(predictions(gen, data, range(len(data)), opts)):
        hide = hidden(y, data.y.channels)
        is_blank = hide is not None and hide.all()
        if is_blank or not y_fake.isfinite().all():
            (blank if is_blank else bad).append(name_of(data.pairs[i].files[0]))
            continue
        made = {"output": y_fake} | {who: act(x) for who, act in baselines.items()}
        target = data.y.shown(x, y[: data.y.channels])
        images = {who: data.y.shown(x, composite(image, y)[0]) for who, image in made.items()}
        for who, image in images.items():
            rows[who].append(image_scores(image, target))
        images["target"] = target
        for who, metric in metrics:
            metric.update(images[who], target, hide)
        if labels and not read:
            near.append(labels[0][1].near(target, hide))
        for who, metric in labels:
            compared = (read(images[who]), x) if read else (images[who], target)
            metric.update(*compared, hide)
        l1[i] = rows["output"][-1]["l1"]
    if sum(near) < len(near) / 2:
        say(f"{1 - sum(near) / len(near):.0%} of the targets' pixels have no colour of {opts.palette}, so that their "
            "scores as labels tell nothing: a --reader tells which labels it sees in photos")
    for files, why in ((bad, "the output is not finite (--precision fp32 may help)"),
                       (blank, "no pixel counts (the mask is black, or pixels hold no value)")):
        if files:
            say(f"left out of all scores, since {why}: {len(files)} of {len(data)} pairs, such as {files[0]}")
    if not rows["output"]:
        raise UserError(f"none of the {len(data)} pairs can be scored")
    scores = {who: summary(rows[who]) for who in names}
    for who, metric in metrics + labels:
        scores.setdefault(who, {}).update(metric.compute())
    for name in asked:
        if name not in scores["output"]:
            say(f"no {name}: it needs {needs(name)}")
    return {"scores": scores, "l1_of_each": l1}


def table(scores: dict[str, dict]) -> str:
    """One line a metric, one column for each who was scored."""
    lines = [f"{'':16}" + "".join(f"{who:>22}" for who in scores)]
    for metric in next(iter(scores.values())):
        cells = []
        for values in scores.values():
            value = values.get(metric, math.nan)
            cells.append("{mean:.4f} ± {std:.4f}".format(**value).removesuffix(" ± nan") if isinstance(value, dict)
                         else f"{value:.4f}")
        lines.append(f"{metric:16}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


@contextlib.contextmanager
def result_folder(opts: Evaluate) -> Iterator[Path]:
    """A folder that holds no evaluation: out_dir, or a new evaluation_SPLIT, evaluation_SPLIT-2, … by the checkpoint.

    Raises UserError when out_dir holds one, or there can be none by the checkpoint. A folder is removed again if the
    block fails before it writes.
    """
    made = not opts.out_dir or not opts.out_dir.exists()
    if folder := opts.out_dir:
        if any((folder / name).exists() for name in ("metrics.json", "sheet.png")):
            raise UserError(f"{folder} already holds an evaluation: choose another folder with --out-dir")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        for n in itertools.count(1):
            folder = opts.checkpoint.parent / (f"evaluation_{opts.split}" + (f"-{n}" if n > 1 else ""))
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"cannot make {folder} ({error.strerror}): give --out-dir a folder") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # there are files in it
            if made:
                folder.rmdir()


@memory_advice("take a smaller --num-workers, or another --device")
def main() -> int:
    opts = tyro.cli(Evaluate, description=__doc__)
    if opts.limit < 0:
        raise UserError(f"limit must be at least 0; it is {opts.limit}")
    if not 0 <= opts.num_workers <= 256:
        raise UserError(f"num_workers must be from 0 to 256; it is {opts.num_workers}")
    if opts.scale != "trained" and not opts.full_size:
        raise UserError("--scale needs --full-size: without it, images are scored as validation shows them")
    device = use_device(opts.device)
    use_precision(opts.precision, device)
    opts = replace(opts, checkpoint=find_checkpoint(opts.checkpoint))
    gen = load_generator(opts.checkpoint, device)
    if opts.palette and load_palette(opts.palette) and gen.out_channels != 3 and not opts.reader:
        raise UserError("--palette needs a generator with 3 output channels")
    if opts.perceptual and gen.trained.y.written not in (1, 3):
        raise UserError("--perceptual needs a generator with 1 or 3 output channels")
    check_seed(opts.seed)  # before any file is read
    check_scale(opts.scale)
    data, train = load_pairs(opts, gen)
    opts = replace(opts, direction=data.direction)
    start = time.perf_counter()
    with result_folder(opts) as folder:
        found = evaluate(gen, data, train, opts)
        own = "their own size" if opts.full_size else "the scale of training"
        size = "{}×{}".format(*data.size) if data.size else own
        l1 = found["l1_of_each"]
        order = sorted((i for i in range(len(data)) if math.isfinite(l1[i])), key=l1.__getitem__)
        say(f"{opts.checkpoint} on {opts.data_root}, {opts.split}, {opts.direction}: N = {len(order)} images of "
            f"{size}, norm {opts.norm}, dropout {opts.dropout}; mean ± standard deviation over images; "
            f"{time.perf_counter() - start:.0f} s on {device}")
        say(table(found["scores"]))

        settings = {key: str(value) for key, value in vars(opts).items()}
        report = json.dumps({"n": len(order), "settings": settings, "weights": mark_of(gen), **found})
        report = json.loads(report, parse_constant=lambda name: None)  # for what is not finite, JSON has null
        with atomic(folder / "metrics.json") as file:
            file.write(json.dumps(report, indent=2).encode())
        chosen = [order[0], order[len(order) // 2], order[-1]]
        rows = [[x, *(data.y.shown(x, image) for image in composite(y_fake, y))]
                for x, y_fake, y in predictions(gen, data, chosen, replace(opts, num_workers=0))]
        save_grid(folder / "sheet.png", rows, ["input", "output", "target"],
                  "best, median and worst by L1: " + ", ".join(f"{l1[i]:.3f}" for i in chosen))
    say(f"wrote {folder / 'metrics.json'} and {folder / 'sheet.png'}")
    return int(opts.perceptual and not {"lpips", "fid", "kid"} <= found["scores"]["output"].keys())


if __name__ == "__main__":
    run_main(main)
