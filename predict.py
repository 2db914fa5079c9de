"""Translates images of any size, and videos, with a trained generator: a file to a file, or a folder to a folder.

    python predict.py --checkpoint runs/facades/gen.pth.tar --input labels.png --output photo.png
    python predict.py --checkpoint runs/facades/gen.pth.tar --input labels/ --output photos/ --batch-size 16
    python predict.py --checkpoint runs/facades/gen.pth.tar --input in.mp4 --output out.mp4
    python predict.py --checkpoint … --input data/facades/val --output sheets --side-by-side right --compare
"""

import contextlib
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from inference.load import load_generator
from inference.raster import is_large, translate_raster
from inference.trained import Trained, check_pictures
from inference.translate import Taken, Translator, check_finite, tell_clipped
from inference.video import ENCODERS, INPUTS, translate_video
from making.frames import Video
from pairs import tiff
from pairs.find import by_key, sides_in, some
from pairs.geometry import Scale, has_shape_of, resized
from pairs.identity import partners
from pairs.images import (
    WRITTEN,
    can_hold,
    normalise,
    read_header,
    read_picture,
    read_place,
    to_tensor,
    write_picture,
)
from pairs.layouts import numbered
from pairs.patterns import files_beside, list_files, read_as
from pairs.picture import Picture
from pairs.values import Values
from runtime.console import printable, run_main, say
from runtime.devices import memory_advice, use_device, use_precision
from runtime.files import remove_leftovers
from runtime.grids import rgb
from runtime.speed import choose_levers
from runtime.threads import attempt, ordered, sound
from utils import DataError, UserError, name_of


@dataclass(frozen=True)
class Predict:
    checkpoint: Path  # gen.pth.tar of a run, *_net_G.pth of the authors or its name, hf:USER/REPO, an address
    input: Path  # an image, a video, or a folder of images with its sub-folders; of pairs in A and B, the inputs' side
    output: Path  # an image or a video, whose ending gives the format, or a folder
    side_by_side: Literal["no", "left", "right"] = "no"  # the half to translate of side-by-side files
    compare: bool = False  # write input, output and, of pairs, target next to each other
    scale: Scale = "trained"  # what the network sees: the scale of training; crop, that size for all; native; a factor
    tile: int = 0  # pixels; overlapping tiles of this side; 0 tiles above 2048 x 2048 pixels only
    ending: str = ""  # of the files in the output folder, such as .png; the input's own if not given
    norm: Literal["auto", "image", "tile", "running"] = "auto"  # BatchNorm's statistics; auto: image, of videos running
    dropout: Literal["auto", "on", "off"] = "auto"  # the same noise for all of a size; auto: on, of videos off
    seed: int = 0  # of the dropout
    batch_size: int = 1  # images or frames of equal size that go through the network together
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto takes what the device does well
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    overviews: bool = False  # keep reduced copies in large GeoTIFFs, for viewers
    compile: bool = False  # torch.compile the network: slow to start, faster for many images of one size


INSTEAD = {"--resize": "--scale crop", "--no-resize": "--scale trained", "--half": "python export.py --half",
           "--export": "python export.py --checkpoint CHECKPOINT --output FILE"}  # of flags that there were
Stamp = tuple[int, int, int] | None  # of a file: another one has another; None where there is none


def stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Job:
    """One image to translate."""

    inputs: tuple[Path, ...]  # one file, or those of a network with several inputs
    output: Path
    target: Path | None = None  # what belongs there, where the folder holds pairs
    before: Stamp = None  # of the output, when the work began

    @property
    def name(self) -> str:
        return name_of(self.inputs[0])

    def is_raster(self, opts: Predict) -> bool:
        """Whether a TIFF becomes a TIFF of the same place on Earth."""
        suffixes = {self.inputs[0].suffix.lower(), self.output.suffix.lower()}
        return suffixes <= {*tiff.SUFFIXES} and opts.side_by_side == "no" and not opts.compare

    def check_alone(self) -> None:
        """Raises DataError where the output is no longer what it was `before`."""
        if stamp(self.output) != self.before:
            raise DataError(f"{name_of(self.output)} was written by another program meanwhile, and stays")


@dataclass(frozen=True)
class Item:
    """One job on its way, and what is needed to write the result."""

    job: Job
    taken: Taken
    place: tiff.Place | None  # on Earth, of a TIFF that becomes a TIFF
    shown: list[Tensor]  # to write the result next to: the input, and of a side-by-side file the target, as `rgb`
    more: str  # the name of an input that holds more pages or frames than the one that is translated; empty if none
    clear: bool = False  # whether the result, once it is written, shows nothing somewhere, being transparent there


def read_item(job: Job, translator: Translator, opts: Predict) -> Item:
    """Raises DataError when a file cannot be used, or the output is another program's."""
    job.check_alone()
    pictures = [read_picture(file) for file in job.inputs]
    target = read_picture(job.target) if job.target and opts.compare else None
    if opts.side_by_side != "no":
        left, right = pictures[0].halves()
        picture, target = (left, right) if opts.side_by_side == "left" else (right, left)
        pictures = [picture]
    tell_clipped(translator.x, pictures)
    own_size = pictures[0].size
    more = next((name_of(file) for file in job.inputs if read_header(file).frames), "")
    pictures = translator.enlarged(pictures)
    size = pictures[0].size
    taken, place, shown = translator.take(pictures), None, []
    if opts.compare:
        shown.append(rgb(translator.x.to_network(to_tensor(translator.x.array(pictures)))))
        if target:
            if target.size != size and not has_shape_of(target.size, size) and not has_shape_of(size, target.size):
                raise DataError(f"{target.name} is no target of {job.name}: it has another shape")
            how = translator.trained.geometry.how(translator.trained.y_is_label)
            target = translator.y.array([resized(target, size, how)])  # of ab, the whole photo
            shown.append(rgb(normalise(to_tensor(target))))
    if job.is_raster(opts) and (place := read_place(job.inputs[0])):
        place = place.scaled(own_size, size)
    return Item(job, taken, place, shown, more)


def write_item(made: tuple[Item, Tensor], translator: Translator, opts: Predict) -> Item:
    """Returns the item. Raises DataError when the output is not finite, another program's, or cannot be written."""
    item, y_fake = made
    check_finite(y_fake, item.job.name)
    if item.shown:
        picture = sheet(item, rgb(translator.shown(y_fake, item.taken)))
    else:
        picture = translator.finished(y_fake, item.taken)
    item.job.check_alone()
    write_picture(item.job.output, picture, item.place, opts.overviews, translator.trained.y_is_label)
    alpha = item.taken.alpha if item.shown else picture.alpha
    return replace(item, clear=alpha is not None and not alpha.all())


def sheet(item: Item, y_fake: Tensor) -> Picture:
    """Input, output and, of pairs, target next to each other; y_fake: as `rgb` returns it."""
    if (alpha := item.taken.alpha) is not None:  # laid over white
        y_fake = 1 - (1 - y_fake) * torch.from_numpy(alpha / np.iinfo(alpha.dtype).max).float()
    return Values().picture(torch.cat([item.shown[0], y_fake, *item.shown[1:]], dim=2), item.taken.deep)


def translate_items(translator: Translator, items: Iterable[Item], batch_size: int) -> Iterator[tuple[Item, Tensor]]:
    """Each item with its y_fake; neighbours of one size and depth go through the network together."""
    for _, neighbours in itertools.groupby(items, lambda item: (item.taken.x.shape, item.taken.x.dtype)):
        while batch := list(itertools.islice(neighbours, batch_size)):
            y_fake = translator.tensor(torch.stack([item.taken.x for item in batch]))
            yield from zip(batch, y_fake, strict=True)


def predict(translator: Translator, jobs: list[Job], opts: Predict) -> list[str]:
    """Does the jobs and returns a sentence for each that failed; prints the speed at the end.

    Raises DataError at the first that finds the disk full.
    """
    if len(jobs) > 1:  # one picture would take a seventh more memory for it
        choose_levers("auto", translator.device, translator.dtype).use()
    failures, moving, clear, start, n = [], [], [], time.perf_counter(), len(jobs)
    jobs = [replace(job, before=stamp(job.output)) for job in jobs]
    jobs = translate_rasters(translator, jobs, opts, failures)
    with tqdm(total=len(jobs), unit="img", disable=None) as bar, \
            ordered(attempt(read_item, translator, opts), jobs, 2, opts.batch_size + 1) as items:
        translated = translate_items(translator, sound(items, failures), opts.batch_size)
        with ordered(attempt(write_item, translator, opts), translated, 2, 2 * opts.batch_size) as written:
            for item in sound(written, failures):
                bar.update()
                if item.more:
                    moving.append(item.more)
                if item.clear:
                    clear.append(item.job.name)
    if moving:
        say(f"files of several pages or frames, of which the first was translated: {len(moving)}, such as {moving[0]}")
    if clear:
        say(f"outputs show nothing where their inputs are transparent: {len(clear)}, such as of {clear[0]}; lay the "
            "inputs over white to see all that the network makes")
    seconds, n = time.perf_counter() - start, n - len(failures)
    say(f"{n} image{'s' * (n != 1)} in {seconds:.1f} s, {n / seconds:.1f} images/s")
    return failures


def translate_rasters(translator: Translator, jobs: list[Job], opts: Predict, failures: list[str]) -> list[Job]:
    """Does those of TIFFs that are too large to be in memory whole, one after the other; returns the others.

    The sentences of those that failed go to `failures`.
    """
    def work(job: Job) -> None:
        job.check_alone()
        translate_raster(translator, job.inputs[0], job.output, opts.overviews)

    rasters = {job for job in jobs
               if len(job.inputs) == 1 and job.is_raster(opts) and is_large(job.inputs[0], translator)}
    failures += map(str, filter(None, map(attempt(work), [job for job in jobs if job in rasters])))
    return [job for job in jobs if job not in rasters]


def find_jobs(opts: Predict, trained: Trained) -> list[Job]:
    """Every image that `opts` asks for, checked; a folder keeps its relative names, but for the ending if one is given.

    Where a network takes several inputs, they lie in folders A1, A2, … in the input folder.
    Raises FileNotFoundError, or UserError where outputs and inputs, or two outputs, meet.
    """
    source, output, ending = opts.input, opts.output, opts.ending
    if not source.exists():
        raise FileNotFoundError(f"--input {name_of(source)} is not there")
    if source.is_file():
        if trained.inputs > 1:
            raise UserError(f"the network takes {trained.inputs} inputs together: --input must be a folder that holds "
                            "A1, A2, …")
        if output.is_dir() or not output.suffix:
            output = output / source.name
        jobs = [Job((source,), output)]
    elif output.is_file():
        raise UserError(f"--output {name_of(output)} is a file; for a folder of images, it must be a folder")
    else:
        jobs = jobs_in_folder(source, output, trained)
    if not jobs:
        raise FileNotFoundError(f"0 images in {name_of(source)}")
    if ending:
        jobs = [replace(job, output=Path(f"{job.output.with_suffix('')}{ending}")) for job in jobs]
    elif jobs[0].output != opts.output:  # formats that are only read
        jobs = as_png(jobs)
    if jobs[0].output.suffix.lower() not in WRITTEN:
        raise UserError(f"--output must end in one of {', '.join(sorted(WRITTEN))}, or be a folder that is there, and "
                        f"--ending be one of these; it is {name_of(jobs[0].output)}")
    check_jobs(jobs, source)
    return jobs


def as_png(jobs: list[Job]) -> list[Job]:
    """Outputs of formats that are only read become PNGs, unless another image's output is called so."""
    taken = {job.output for job in jobs}
    kept = []
    for job in jobs:
        if job.output.suffix.lower() not in WRITTEN:
            job = replace(job, output=job.output.with_suffix(".png"))
            if job.output in taken:
                say(f"not used: {name_of(job.inputs[0])}, beside which there is one whose output is {job.output.name}")
                continue
            taken.add(job.output)
        kept.append(job)
    return kept


def sides_by_patterns(source: Path, trained: Trained) -> dict[Path, tuple[str, Hashable]]:
    """What `sides_in` tells where the folder, or one above it, lies as the network's pairs did; else nothing.

    What no pattern matches is on side M. Of a folder that holds none of the targets, if the network takes one input,
    all images are on no side, but those which only differ from an input in what the pattern has behind {name}, such as
    _labelIds where it has _color.
    """
    files = list_files(source)
    patterns = trained.patterns or read_as(files)
    if not patterns or not trained.direction:
        return {}
    names = [f"A{i}" for i, _ in enumerate(patterns.a, 1)] if patterns.a[1:] else ["A"]
    for shorter in patterns.shorter():
        sides = dict(zip([*names, "B"], shorter.sides(files), strict=False))  # without masks
        inputs = [side for name, side in sides.items() if name[0] == trained.input_side]
        if all(inputs) and not all(sides.values()) and len(inputs) == 1:
            if beside := files_beside(shorter.a[0] if trained.input_side == "A" else shorter.b, files):
                return {source / file: ("M" if file in beside else "", file) for file in files}
        elif all(inputs):
            met = [(source / file, (name, key)) for name, side in sides.items() for key in side for file in side[key]]
            # A file on two sides: the folders that told them apart lie above
            return {source / file: ("M", file) for file in files} | dict(met) if len(met) == len(dict(met)) else {}
    return {}


def jobs_in_folder(source: Path, output: Path, trained: Trained) -> list[Job]:
    """Where the folder holds pairs, those of the inputs' side, and of the images that lie on neither.

    Of several inputs, each job has one of each of the folders A1, A2, …, which have no place in the output folder.
    """
    by_patterns = sides_by_patterns(source, trained)
    places, n = by_patterns or sides_in(source, bool(trained.direction)), trained.inputs
    pairs = bool(by_patterns) or {"A", "B"} <= {side[:1] for side, _ in places.values()}
    if pairs and not trained.direction:
        raise UserError(f"{name_of(source)} holds both sides of pairs, and the checkpoint does not tell which one it "
                        "takes: let --input be the folder A, or the folder B")
    together = [[path] for path, (side, _) in places.items() if not pairs or side[:1] in ("", trained.input_side)]
    if n > 1:
        top = {} if by_patterns else {path: place for path, place in places.items() if place[1][0][:1] == "@"}
        used = top if numbered({side for side, _ in top.values()}) else places  # those in splits only if alone
        names = numbered({side for side, _ in used.values()})
        if len(names) != n:
            raise UserError(f"the network takes {n} inputs together, from folders A1, A2, …, of which "
                            f"{name_of(source)} holds {len(names)}")
        together, orphans = partners([by_key((key, path) for path, (side, key) in used.items() if side == name)
                                      for name in names])
        if alone := [path for path in orphans if not by_patterns or places[path][0] == names[0]]:
            raise UserError(f"images without a partner of the same name among the other inputs: {some(alone)}")
        together = [*together.values()]
    if others := [*places.keys() - set(itertools.chain(*together))]:
        say(f"{name_of(source)}: {n * len(together)} inputs (of side {trained.input_side}, or of neither) are "
            f"translated, {len(others)} other images are not, such as {name_of(min(others))}")
    targets = {key: path for path, (side, key) in places.items() if pairs and side == trained.target_side}
    jobs = []
    for files in together:
        name, (_, key) = files[0].relative_to(source), places[files[0]]
        layout = Path(key[0]).parts if n > 1 else ()  # such as train_@
        kept = [where.replace("@", "").strip("_") if where and "@" in where else part
                for part, where in itertools.zip_longest(name.parts, layout)]
        jobs.append(Job(tuple(files), output.joinpath(*kept), targets.get(key)))
    return jobs


def check_jobs(jobs: list[Job], source: Path) -> None:
    """Raises UserError where an output is an input, lies in the folder `source`, or is another output as well."""
    folder = functools.cache(Path.resolve)  # without links and `..`

    def identity(path: Path) -> tuple[int, int] | Path:
        """Equal for paths that lead to one file, also by links, hard links or other cases of letters."""
        path = folder(path.parent) / path.name
        with contextlib.suppress(OSError):
            found = path.stat()
            if found.st_ino:  # else the file system numbers no files
                return found.st_dev, found.st_ino
        return path

    inputs = {identity(file) for job in jobs for file in (*job.inputs, job.target) if file}
    outputs = {}
    for job in jobs:
        if folder(job.output.parent).is_relative_to(folder(source)):  # never so where source is a file
            raise UserError("--output must be another folder than --input, and outside it, where "
                            f"{name_of(job.output)} would not be")
        if (key := identity(job.output)) in inputs:
            raise UserError(f"{name_of(job.output)} is an input, and would be overwritten: choose another --output")
        if (other := outputs.setdefault(key, job)) is not job:
            raise UserError(f"{other.name} and {job.name} would both be written to {name_of(job.output)}")


def tell_pairs(jobs: list[Job], opts: Predict, trained: Trained) -> None:
    """Says where the first image looks like both sides of a pair, and none of them was asked for."""
    if opts.side_by_side == "no" and trained.inputs == 1 and trained.may_be_a_pair(jobs[0].inputs[0]):
        half = {"A": "left", "B": "right"}.get(trained.input_side, "left, or right")
        say(f"{jobs[0].name} is twice as wide as the images of training: if it holds input and target side by "
            f"side, add --side-by-side {half}")


def check_writable(folder: Path) -> None:
    """Raises OSError where no file can be made in there: now, not after all images are translated."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"nothing can be written to {name_of(there)}: {error.strerror}") from error


def open_video(opts: Predict) -> Video | None:
    """The input, where it is a video. Raises UserError or OSError where it, or what is asked for, cannot be done."""
    if opts.input.suffix.lower() not in INPUTS or opts.input.is_dir():
        return None
    for name in ("side_by_side", "compare", "ending", "overviews"):
        if getattr(opts, name) != getattr(Predict, name):
            raise UserError(f"--{name.replace('_', '-')} is for images; {name_of(opts.input)} is a video")
    if opts.output.suffix.lower() not in ENCODERS or opts.output.is_dir():
        raise UserError(f"--output must be a file that ends in one of {', '.join(ENCODERS)} where --input is a video; "
                        f"it is {name_of(opts.output)}")
    video = Video(opts.input)
    check_jobs([Job((opts.input,), opts.output)], opts.input)
    return video


def with_defaults(opts: Predict, video: bool) -> Predict:
    """auto, decided: what the paper does for images; for videos, what flickers least."""
    norm, dropout = ("running", "off") if video else ("image", "on")
    if video and "auto" in (opts.norm, opts.dropout):
        say("a video is translated with --norm running --dropout off, which flickers least, where you say no other")
    return replace(opts, norm=norm if opts.norm == "auto" else opts.norm,
                   dropout=dropout if opts.dropout == "auto" else opts.dropout)


def predict_video(translator: Translator, video: Video, output: Path, batch_size: int) -> None:
    """Prints the speed at the end. Raises DataError or OSError, and leaves no file then."""
    trained = translator.trained
    check_pictures(trained, "video", trained.y.written in (1, 3) and trained.kind == "uint8")
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output.parent)
    start = time.perf_counter()
    n = translate_video(translator, video, output, batch_size)
    seconds = time.perf_counter() - start
    say(f"{n} frames in {seconds:.1f} s, {n / seconds:.1f} frames/s")


@memory_advice("take a smaller --batch-size or --tile, or another --device")
def main() -> int | None:
    for flag in (word.partition("=")[0] for word in sys.argv[1:]):
        if flag in INSTEAD:
            raise UserError(f"{flag} is no longer a flag of predict.py: write {INSTEAD[flag]}")
    opts = tyro.cli(Predict, description=__doc__)
    if opts.batch_size < 1:
        raise UserError(f"batch_size must be at least 1; it is {opts.batch_size}")
    video = open_video(opts)
    opts = with_defaults(opts, video is not None)
    device = use_device(opts.device)
    use_precision(opts.precision, device)
    translator = Translator(load_generator(opts.checkpoint, device), scale=opts.scale, norm=opts.norm,
                            dropout=opts.dropout, seed=opts.seed, precision=opts.precision, tile=opts.tile)
    trained = translator.trained
    if opts.compile:
        translator.compile()
    if trained.inputs > 1 and opts.side_by_side != "no":
        raise UserError(f"the network takes {trained.inputs} inputs together, which no side-by-side file holds")
    if video:
        predict_video(translator, video, opts.output, opts.batch_size)
        return None
    jobs = find_jobs(opts, trained)
    tell_pairs(jobs, opts, trained)
    endings = {job.output.suffix.lower() for job in jobs}
    n, kind = trained.y.written, trained.kind
    for suffix in endings:
        if not opts.compare and not can_hold(suffix, n, kind):
            way_out = next(other for other in (".png", ".tif", ".npy") if can_hold(other, n, kind))
            raise UserError(f"the outputs are {kind} of {n} channels, which {suffix} files do not hold: --ending "
                            f"{way_out}, or an --output of that ending")
    if trained.y_is_label and endings & {".jpg", ".jpeg", ".webp"}:
        say("the outputs are label maps, whose colours JPEG and WebP blur: --ending .png keeps them")
    for folder in {job.output.parent for job in jobs}:
        remove_leftovers(folder)
    check_writable(jobs[0].output.parent)
    failures = predict(translator, jobs, opts)
    for failure in failures:
        print(printable(f"not translated: {failure}", sys.stderr), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
