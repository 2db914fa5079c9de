"""The page of draw.html: what it shows of a network, and a folder of it that needs no server."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dataset import PairedImages
from generator import Generator
from inference.export import export, fits_fp16
from inference.trained import Trained, check_pictures, crop_of
from pairs.find import evenly, find_pairs
from pairs.geometry import resize
from pairs.identity import Pair
from pairs.images import can_hold, png
from pairs.palettes import PALETTES, load_palette
from pairs.values import Values
from runtime.cli import load_settings
from runtime.console import say
from runtime.files import complete_folder, new_folder
from runtime.weights import fetched
from utils import UserError, command_line, name_of

EDGES = {"eraser": (255, 255, 255), "pencil": (0, 0, 0)}  # lines on paper, as in edges2shoes

# ONNX Runtime Web, as npm has it: its script, its module, its WebAssembly, each with the SHA-256 of its bytes
RUNTIME = "1.30.0"
URL = "https://cdn.jsdelivr.net/npm/onnxruntime-web@{version}/dist/{name}"
WASM = {"ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
        "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"}
WEBGPU = {"ort.webgpu.min.js": "7d65dad7eb4564ad98db9924a259af2e2c68ebfbdbf254fa5d728f1c5736e07a",
          "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
          "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"}


def check_page(trained: Trained, most: int = 4) -> None:
    """Raises UserError where the network does not take a picture, or does not make one, of at most so many channels."""
    y = trained.y
    check_pictures(trained, "page", y.written <= most and can_hold(".png", y.written, y.kind))


def choose_palette(name: str, trained: Sequence[tuple]) -> dict[str, tuple]:
    """(red, green, blue, share) of each class to draw with, by name; none where photos come in.

    trained: the colours that the checkpoint tells. Without a palette by name, they get the names of the one that has
    them all, if they are half of it or more.
    """
    def shares(palette: dict[str, tuple]) -> dict[str, float]:
        """Of the classes that were met in training; JPEG has moved their colours a little."""
        return {key: share for *colour, share in trained for key, exact in palette.items()
                if max(abs(a - b) for a, b in zip(colour, exact, strict=True)) <= 10}

    if name:
        palette = EDGES if name == "edges" else load_palette(name)
        met = shares(palette)
        return {key: (*colour, met.get(key, 0)) for key, colour in palette.items()}
    for palette in (EDGES, *PALETTES.values()):
        met = shares(palette)
        if len(met) == len(trained) and 2 * len(met) >= len(palette):
            return {key: (*palette[key], share) for key, share in met.items()}
    return {"#{:02x}{:02x}{:02x}".format(*colour[:3]): colour for colour in trained}


def find_examples(checkpoint: Path, trained: Trained, at_most: int = 100) -> list[Pair]:
    """Validation pairs of the run that the checkpoint lies in, if they are at hand. Raises UserError below 0 pairs."""
    if at_most < 0:
        raise UserError(f"examples must be at least 0; it is {at_most}")
    with contextlib.suppress(UserError, OSError):
        if at_most and (cfg := load_settings(checkpoint.parent)):
            found = find_pairs(cfg.data_root, trained.seed, trained.known, patterns=trained.patterns,
                               photos=trained.space == "lab")
            return evenly(found.splits.get(found.validation, []), at_most)
    return []


def settings_of(gen: Generator, palette: dict[str, tuple], examples: Sequence[Pair]) -> dict:
    """What draw.html asks for first. palette: what `choose_palette` returns."""
    trained = gen.trained
    size = trained.sizes.usual if trained.sizes else crop_of(gen) or (256, 256)
    names = [pair.inputs[0].stem if isinstance(pair.inputs[0], Path) else str(n) for n, pair in enumerate(examples, 1)]
    return dict(size=size, direction=trained.direction, epoch=trained.epoch,
                kind="photo" if not palette else "edges" if {*EDGES} == {*palette} else "labels",
                palette=[dict(name=name, colour=c[:3], share=c[3]) for name, c in palette.items()], examples=names)


def example_of(pair: Pair, trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """Input and target, (H, W, 3) uint8 each."""
    x, y = trained.values()
    y = replace(y, channels=min(y.channels, 3))
    data = PairedImages([replace(pair, mask=None)], trained.direction or "AtoB", x, y,
                        replace(trained.geometry, resize="none"), trained.label_side)
    x_side, y_side = data[0]
    y_side = y.shown(x_side, y_side[: y.channels])
    if x.lab:
        x_side = y.shown(x_side, x_side.new_zeros(2, *x_side.shape[1:]))
    x_side, y_side = (Values().picture(side.expand(3, -1, -1)).array for side in (x_side, y_side))
    return x_side, y_side


def network_of(gen: Generator, norm: str) -> dict:
    """What the page's worker must know to translate as predict.py does."""
    trained, geometry, sizes = gen.trained, gen.trained.geometry, gen.trained.sizes
    return dict(in_channels=gen.in_channels, out_channels=gen.out_channels, multiple=gen.multiple,
                smallest=gen.smallest, resize=geometry.resize, load_size=geometry.load_size,
                crop=geometry.crop if sizes else crop_of(gen), interpolation=geometry.interpolation,
                sizes=sizes and vars(sizes), x_is_label=trained.x_is_label, y_is_label=trained.y_is_label,
                x_limits=trained.x.limits, y_limits=trained.y.limits, kind=trained.kind, norm=norm)


def write_page(gen: Generator, folder: Path, checkpoint: Path, *, norm: str = "image", palette: str = "",
               examples: int = 3, runtime: Path | None = None, webgpu: bool = False, cdn: bool = False,
               int8: bool = False) -> None:
    """Writes `folder`, for any web space: draw.html as index.html, the network in half precision, and what runs it.

    palette: as for draw.py. examples: at most so many of the validation pairs, which whoever sees the page sees too.
    runtime: a folder that holds the files of onnxruntime-web; if None, they are fetched once and kept.
    int8: the network's weights in 8 bits instead, half of that.
    cdn: leave them out, and let the browser fetch them from `URL` and run them only if their hashes are right.
    Raises UserError where the page cannot show what the network takes or makes, `folder` holds something, or the
    runtime is not to be had, and OSError when it cannot be written.
    """
    check_page(gen.trained, most=3)
    if gen.trained.space == "lab":
        raise UserError("the network makes ab of L, which the page joins only where draw.py serves it")
    found = find_examples(checkpoint, gen.trained, 0 if gen.trained.x.limits else examples)  # shown black to white
    folder = new_folder(folder, "--page")
    classes = choose_palette(palette, gen.trained.colours)
    if cdn and runtime:
        raise UserError("--cdn leaves the runtime out of the page: give --runtime or --cdn")
    here = Path(__file__)
    with complete_folder(folder) as new:
        told = write_runtime(new, WEBGPU if webgpu else WASM, runtime, webgpu, cdn)
        model = new / "model.onnx"
        export(gen, model, norm, half=not int8 and fits_fp16(gen), int8=int8)
        mark = hashlib.sha256(model.read_bytes()).hexdigest()[:8]  # a new one is no kept old one
        model = model.rename(new / f"model-{mark}.onnx")
        settings = settings_of(gen, classes, found) | dict(
            model=dict(file=model.name, bytes=model.stat().st_size), network=network_of(gen, norm),
            runtime=told)
        (new / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        shutil.copyfile(here.parents[1] / "draw.html", new / "index.html")
        shutil.copyfile(here.with_suffix(".js"), new / "worker.js")
        write_examples(new / "example", found, gen.trained, min(settings["size"]))
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    serve = command_line(["python", "-m", "http.server", "--directory", str(folder)])
    say(f"wrote {folder}, {size / 1e6:.1f} MB: put it on any web space, or try it with {serve}")
    if found:
        say(f"it shows {len(found)} of the run's validation pairs to whoever opens it: --examples 0 leaves them out")


def write_runtime(folder: Path, marks: dict[str, str], given: Path | None, webgpu: bool, cdn: bool) -> dict:
    """Writes script, module and WebAssembly into the page's folder, and returns what its worker must know of them.

    With `cdn`, writes none: it is told their addresses, and the hashes that the browser compares them with.
    """
    parts = "script", "module", "file"
    if cdn:
        addresses = [URL.format(version=RUNTIME, name=name) for name in marks]
        hashes = [f"sha256-{base64.b64encode(bytes.fromhex(mark)).decode()}" for mark in marks.values()]
        told = dict(integrity=dict(zip(parts, hashes, strict=True)))
    else:
        # Some hosts know no .mjs, and serve it as what no browser runs; browsers keep a file by its name.
        mark = f"webgpu-{RUNTIME}" if webgpu else RUNTIME
        addresses = f"ort-{mark}.js", f"ort-module-{mark}.js", f"ort-{mark}.wasm"
        for name, content in zip(addresses, runtime_files(marks, given), strict=True):
            (folder / name).write_bytes(content)
        told = dict(bytes=len(content))
    return dict(zip(parts, addresses, strict=True)) | told | dict(webgpu=webgpu)


def write_examples(folder: Path, pairs: Sequence[Pair], trained: Trained, side: int) -> None:
    """0.png, 1.png, …, as small as the page shows them."""
    for number, pair in enumerate(pairs):
        folder.mkdir(exist_ok=True)
        halves = example_of(pair, trained)
        height, width = halves[0].shape[:2]
        scale = min(1, side / min(width, height))
        size = round(width * scale), round(height * scale)
        labels = trained.x_is_label or trained.colours, trained.y_is_label
        halves = [resize(half, size, "nearest" if label else "linear")
                  for half, label in zip(halves, labels, strict=True)]
        (folder / f"{number}.png").write_bytes(png(np.concatenate(halves, axis=1)))


def runtime_files(wanted: dict[str, str], given: Path | None) -> list[bytes]:
    """The files of onnxruntime-web, from `given`, or from the network once. Raises UserError where they are not those.

    given: its folder dist, or one that holds that.
    """
    files = []
    for name, mark in wanted.items():
        check = partial(check_mark, mark)
        if given:
            places = given, given / "dist", given / "package/dist", given / "node_modules/onnxruntime-web/dist"
            path = next((place / name for place in places if (place / name).is_file()), None)
            if not path:
                raise UserError(f"{name_of(given)} holds no {name}: --runtime must be the folder dist of "
                                f"onnxruntime-web {RUNTIME} (npm pack onnxruntime-web@{RUNTIME})")
        else:
            try:
                path = fetched(URL.format(version=RUNTIME, name=name), cache() / name, check)
            except UserError as error:
                raise UserError(f"{error}; or give --runtime, the unpacked npm pack onnxruntime-web@{RUNTIME}, or "
                                "--cdn") from error
        check(path)
        files.append(path.read_bytes())
    return files


def check_mark(mark: str, path: Path) -> None:
    """Raises UserError where the SHA-256 of the file is another."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != mark:
        raise UserError(f"{name_of(path)} is not the file of onnxruntime-web {RUNTIME}: remove or replace it")


def cache() -> Path:
    """Where the files of the network's runtime are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "pix2pix" / f"onnxruntime-web-{RUNTIME}"
