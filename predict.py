"""Translates images of any size with a trained generator: a file to a file, or a folder to a folder.

    python predict.py --checkpoint runs/facades/gen.pth.tar --input labels.png --output photo.png
    python predict.py --checkpoint runs/facades/gen.pth.tar --input labels/ --output photos/ --batch-size 16
    python predict.py --checkpoint … --input data/facades/val --output sheets --side-by-side right --compare
    python predict.py --checkpoint runs/facades/gen.pth.tar --export gen.onnx
"""

import contextlib
import copy
import functools
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from config import Config
from generator import Generator
from inference.export import export
from inference.load import load_generator, values_in
from inference.translate import network_size, to_scale, to_size, translate_tensors
from pairs.find import list_images, list_inputs
from pairs.geometry import Scale, Size
from pairs.images import SUFFIXES, can_hold, normalise, read_image, split, to_tensor, write_array
from pairs.values import Values, kind_of
from runtime.console import printable, run_main, say
from runtime.devices import memory_advice, use_device, use_precision
from runtime.files import rgb
from runtime.speed import cast_weights, choose_levers, prepare
from utils import DataError, UserError, name_of


@dataclass(frozen=True)
class Predict:
    checkpoint: Path  # gen.pth.tar or checkpoint.pth.tar of a run, or *_net_G.pth of the authors' PyTorch release
    input: Path | None = None  # an image, or a folder of them, sub-folders included
    output: Path | None = None  # an image, whose ending gives the format, or a folder
    side_by_side: Literal["no", "left", "right"] = "no"  # the half to translate of side-by-side files
    compare: bool = False  # write input, output and, of side-by-side files, target next to each other
    scale: Scale = "trained"  # of training; the image's own; or a factor; and back
    resize: bool = False  # to the size of training, whatever the image's own, and back
    tile: int = 0  # pixels; overlapping tiles of this side; 0 tiles above 2048 x 2048 pixels only
    ending: str = ""  # of the files in the output folder, such as .png; the input's own if not given
    norm: Literal["image", "running"] = "image"  # BatchNorm's statistics: each image's (the paper) or the running ones
    dropout: Literal["on", "off"] = "on"  # on is the paper's noise, the same for all images of one size
    seed: int = 0  # of the dropout
    batch_size: int = 1  # images of equal size that go through the network together
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto takes what the device does well
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    compile: bool = False  # torch.compile the network: slow to start, faster for many images of one size
    export: Path | None = None  # write the network as .onnx or .pt2 (dropout off) instead of translating
    half: bool = False  # export weights in fp16, half the file; computed with in fp32


@dataclass
class Item:
    """One file on its way: what the network takes, and what is needed to write the result."""

    output: Path
    x: Tensor  # (C, H, W) as `Values.to_network` takes it, at the scale of the network
    size: Size  # of the input
    deep: bool  # whether the input has 16 bits
    alpha: np.ndarray | None  # (H, W), the input's transparency
    shown: list[Tensor]  # to write the result next to: the input, and of a side-by-side file the target, as `rgb`


def read_item(source: Path | tuple[Path, ...], output: Path, gen: Generator, opts: Predict) -> Item:
    """Raises DataError when a file cannot be used."""
    files = source if isinstance(source, tuple) else (source,)
    x_values, y_values = values_in(gen)
    images, target = [read_image(file) for file in files], []
    if opts.side_by_side != "no":
        image, *target = split(images[0], name_of(source))[:: 1 if opts.side_by_side == "left" else -1]
        images = [image]
    array = x_values.array(images, files)
    x = to_tensor(to_scale(gen, array, opts.scale, opts.resize))
    shown = []
    if opts.compare:
        shown = [rgb(x_values.to_network(to_tensor(array)[None])[0])]
        shown += [rgb(normalise(to_tensor(y_values.array([half], files)))) for half in target]
    return Item(output, x, array.shape[1::-1], "uint16" in map(kind_of, images), x_values.alpha(images), shown)


def write_item(item: Item, y_fake: Tensor, gen: Generator) -> None:
    """Raises DataError when the output is not finite or cannot be written."""
    if not y_fake.isfinite().all():
        raise DataError(f"{name_of(item.output)} is not written: the network's output is not finite; "
                        "--precision fp32 may help")
    y_fake, values, alpha = to_size(gen, y_fake, item.size), values_in(gen)[1], item.alpha
    if item.shown:
        opaque = 1.0 if alpha is None else torch.from_numpy(alpha / np.iinfo(alpha.dtype).max).float()
        made = 1 - (1 - rgb(y_fake)) * opaque  # laid over white
        y_fake, values, alpha = torch.cat([item.shown[0], made, *item.shown[1:]], dim=2), Values(), None
    write_array(item.output, values.from_network(y_fake, item.deep, alpha))


def read_ahead(work: Callable, jobs: Iterable[tuple], pool: Executor, n: int, failures: list[str]) -> Iterator:
    """work(*job) of each job, in order, while the pool works on the `n` behind it; leaves out and tells what fails."""
    submitted = (pool.submit(work, *job) for job in jobs)
    ahead = deque(itertools.islice(submitted, n))
    while ahead:
        future = ahead.popleft()
        ahead.extend(itertools.islice(submitted, 1))
        try:
            yield future.result()
        except (DataError, OSError) as error:
            failures.append(str(error))


def translate_items(gen: Generator, items: Iterable[Item], opts: Predict, dtype: torch.dtype) -> Iterator[tuple]:
    """Each item with its y_fake; neighbours of one size and depth go through the network together."""
    x_values, y_values = values_in(gen)
    options = dict(tile=opts.tile, norm=opts.norm, dropout=opts.dropout, seed=opts.seed)
    fast = gen if dtype == torch.float32 else cast_weights(copy.deepcopy(gen), dtype)
    if opts.compile:
        from torch._inductor import config as inductor

        inductor.fallback_random = True  # the same dropout as without compiling
        for net in {gen, fast}:
            net.compile()
    for (_, kind), alike in itertools.groupby(items, lambda item: (item.x.shape, item.x.dtype)):
        while batch := list(itertools.islice(alike, opts.batch_size)):
            x = x_values.to_network(torch.stack([item.x for item in batch]))
            eight_bits = kind == torch.uint8 and y_values.kind == "uint8"
            net, precision = (fast, dtype) if eight_bits else (gen, torch.float32)  # bf16 has too few digits
            yield from zip(batch, translate_tensors(net, x, **options, dtype=precision), strict=True)


def predict(gen: Generator, jobs: list[tuple], opts: Predict, dtype: torch.dtype) -> list[str]:
    """Translates each (input, output) and returns a sentence for each that failed; prints the speed at the end."""
    failures, start = [], time.perf_counter()
    read, write = functools.partial(read_item, gen=gen, opts=opts), functools.partial(write_item, gen=gen)
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers, tqdm(
            total=len(jobs), unit="img", disable=not sys.stderr.isatty()) as bar:
        items = read_ahead(read, jobs, readers, opts.batch_size + 1, failures)
        translated = translate_items(gen, items, opts, dtype)
        for _ in read_ahead(write, translated, writers, 2 * opts.batch_size, failures):
            bar.update()
    seconds, n = time.perf_counter() - start, len(jobs) - len(failures)
    say(f"{n} images in {seconds:.1f} s, {n / seconds:.1f} images/s")
    return failures


def find_jobs(source: Path, output: Path, ending: str = "", n_inputs: int = 1) -> list[tuple]:
    """(input, output) of every image; a folder keeps its relative names, but for the `ending` if given.

    Where a network takes several inputs, the first is the tuple of their files, in folders A1, A2, … in `source`.

    Raises FileNotFoundError, or ValueError where outputs and inputs, or two outputs, meet.
    """
    if ending and ending.lower() not in SUFFIXES:
        raise UserError(f"--ending must be one of {', '.join(sorted(SUFFIXES))}; it is {ending!r}")
    if not source.exists():
        raise FileNotFoundError(f"--input {name_of(source)} is not there")
    if n_inputs > 1 and source.is_file():
        raise UserError(f"the network takes {n_inputs} inputs together: --input must be a folder that holds A1, A2, …")
    if source.is_file():
        if output.is_dir() or not output.suffix:
            output = output / source.name
        jobs = [(source, output)]
    else:
        if output.is_file():
            raise UserError(f"--output {name_of(output)} is a file; for a folder of images, it must be a folder")
        if n_inputs == 1:
            jobs = [(path, output / path.relative_to(source)) for path in list_images(source)]
        else:
            together = list_inputs(source, n_inputs)
            jobs = [(files, output.joinpath(*files[0].relative_to(source).parts[1:])) for files in together]
        if not jobs:
            raise FileNotFoundError(f"0 images in {name_of(source)}")
    if ending:
        jobs = [(path, target.with_suffix(ending)) for path, target in jobs]
    if jobs[0][1].suffix.lower() not in SUFFIXES:
        raise UserError(f"--output must end in one of {', '.join(sorted(SUFFIXES))}, or be a folder that is there; it "
                        f"is {name_of(jobs[0][1])}")
    check_jobs(jobs, source)
    return jobs


def check_jobs(jobs: list[tuple], source: Path) -> None:
    """Raises ValueError where an output is an input, lies in the folder `source`, or is another output as well."""
    folder = functools.cache(Path.resolve)  # without links and `..`

    def identity(path: Path) -> tuple[int, int] | Path:
        """Equal for paths that lead to one file, also by links, hard links or other cases of letters."""
        path = folder(path.parent) / path.name
        with contextlib.suppress(OSError):
            found = path.stat()
            if found.st_ino:  # else the file system numbers no files
                return found.st_dev, found.st_ino
        return path

    inputs = {identity(file) for files, _ in jobs for file in (files if isinstance(files, tuple) else (files,))}
    outputs = {}
    for path, target in jobs:
        if folder(target.parent).is_relative_to(folder(source)):  # never so where source is a file
            raise UserError(f"--output must be another folder than --input, and outside it, where {name_of(target)} "
                            "would not be")
        if (key := identity(target)) in inputs:
            raise UserError(f"{name_of(target)} is an input, and would be overwritten: choose another --output")
        if (other := outputs.setdefault(key, path)) is not path:
            other, path = (files[0] if isinstance(files, tuple) else files for files in (other, path))
            raise UserError(f"{name_of(other)} and {name_of(path)} would both be written to {name_of(target)}")


@memory_advice("take a smaller --batch-size or --tile, or another --device")
def main() -> int | None:
    opts = tyro.cli(Predict, description=__doc__)
    if opts.batch_size < 1:
        raise UserError(f"batch_size must be at least 1; it is {opts.batch_size}")
    device = use_device(opts.device)
    dtype = use_precision(opts.precision, device)
    gen = load_generator(opts.checkpoint, device)
    if opts.export:
        return export(gen, opts.export, opts.norm, opts.checkpoint, opts.half)
    if opts.half:
        raise UserError("--half is for --export; translating takes --precision fp16")
    if not opts.input or not opts.output:
        raise UserError("--input and --output are needed, or --export")
    network_size(gen, (256, 256), opts.scale, opts.resize)  # says what is wrong with them, before any file
    prepare(gen, replace(choose_levers(Config(), device, dtype), compile=False))
    n_inputs = gen.trained.get("inputs", 1)
    if n_inputs > 1 and opts.side_by_side != "no":
        raise UserError(f"the network takes {n_inputs} inputs together, which no side-by-side file holds")
    jobs = find_jobs(opts.input, opts.output, opts.ending, n_inputs)
    kind = values_in(gen)[1].kind
    for suffix in {output.suffix.lower() for _, output in jobs}:
        if not opts.compare and not can_hold(suffix, gen.out_channels, kind):
            raise UserError(f"the outputs are {kind} of {gen.out_channels} channels, which {suffix} files do not hold: "
                            "--ending .npy, or an --output of that ending")
    lossy = any(output.suffix.lower() in (".jpg", ".jpeg", ".webp") for _, output in jobs)
    if lossy and gen.trained.get("label_side") in ("both", str(gen.trained.get("direction"))[-1]):
        say("the outputs are label maps, whose colours JPEG and WebP blur: --ending .png keeps them")
    failures = predict(gen, jobs, opts, dtype)
    for failure in failures:
        print(printable(f"not translated: {failure}", sys.stderr), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
