"""Each kind of data from the first look to the scores, and both of its sides aligned to the pixel on the way."""

import json
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import call, coordinates, save, write_raster, write_sides
from PIL import Image
from rasterio.transform import from_origin
from test_values import SETS

import check
import evaluate
import predict
import prepare
import train
from inference.load import load_generator

SIZE = 80
SHARED = dict(ngf=4, ndf=4, crop_size=64, load_size=72, n_epochs=1, num_workers=0, precision="fp32", device="cpu")


def places(number=0):
    """(H, W, 3): red tells the column, green the row, blue the image."""
    return coordinates(SIZE) + np.uint8([0, 0, 40 * number])


def save_raster(path, array):
    """(H, W, C), somewhere on Earth."""
    write_raster(path, array.transpose(2, 0, 1), photometric="MINISBLACK", alpha="NO", crs="EPSG:32632",
                 transform=from_origin(4e5, 5e6, 10, 10))


def folder(sides):
    """A function that makes it: files of these names, each of what its function makes of a number."""
    def make(root):
        for i, split in enumerate(["train"] * 4 + ["val"] * 2):
            for name, content in sides.items():
                write = save_raster if name.endswith(".tif") else save
                write(root / name.format(split=split, i=i, patient=i // 2), content(i))

    return make


def tiles(root):
    whole = np.tile(places(), (3, 4, 1))
    for name in ("a", "b"):
        save_raster(root.parent / f"{name}.tif", whole)
    ask(prepare, "tiles", root.parent / "a.tif", root.parent / "b.tif", root, "--size", SIZE, "--block", 1)


@dataclass(frozen=True)
class Kind:
    make: object  # a function of the folder
    settings: dict = field(default_factory=dict)
    inputs: str = "val/A"  # of predict.py, as seen from the folder
    outputs: int = 2
    ending: str = ".png"
    numbers: str = "uint8"  # of an output
    channels: int = 3
    size: int = SIZE


KINDS = {
    "patterns": Kind(folder({"{split}/in put/{i}_x.png": places, "{split}/target/{i}.png": places}),
                     dict(files_a=("{split}/in put/{name}_x.png",), files_b="{split}/target/{name}.png"),
                     inputs="val/in put"),
    "group": Kind(folder({f"{side}/p{{patient}}_{{i}}.png": places for side in "AB"}),
                  dict(group="^(p[0-9])_"), inputs="A", outputs=6),
    "bands": Kind(folder({"{split}/A/{i}.tif": lambda i: np.uint16(places(i)[..., [2, 1, 2, 0]]) * 20,
                          "{split}/B/{i}.tif": lambda i: np.uint16(places(i)[..., [1, 0]]) * 20}),
                  dict(bands_a=(4, 2), bands_b=(2, 1), range_a=(0.0, 5100.0), range_b=(0.0, 5100.0)), ending=".tif",
                  numbers="uint16", channels=2),
    "flip": Kind(folder({"{split}/{i}_AB.png": lambda i: np.hstack([places(i)] * 2)}),
                 dict(flip="all", direction="BtoA"), inputs="val"),
    "sizes": Kind(folder({"{split}/A/{i}.png": lambda i: Image.fromarray(places(i)).reduce(2),
                          "{split}/B/{i}.png": places})),
    "cityscapes": Kind(folder({
        "leftImg8bit/{split}/ulm/ulm_{i}_leftImg8bit.png": places,
        "gtFine/{split}/ulm/ulm_{i}_gtFine_color.png": lambda i: Image.fromarray(places(i)).convert("RGBA")}),
        inputs="leftImg8bit/val"),
    "lab": Kind(folder({"{split}/{i}.png": places}), dict(space="lab"), inputs="val"),
    "tiles": Kind(tiles, inputs="train/A", outputs=0, ending=".tif"),
    **{name: Kind(partial(write_sides, sides=sides), settings, "val" if "A1.png" in sides else "val/A", size=48, **made)
       for name, (sides, settings, made) in SETS.items()},
}


def ask(command, *words):
    """What the command says, which must not fail."""
    status, out, err = call(command, *words)
    assert status == 0, out + err
    return out + err


def flags(settings):
    for name, value in settings.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, tuple) else [value])


def shape_and_numbers(path):
    """(H, W, C) and the type."""
    if path.suffix == ".npy":
        array = np.load(path)
        return np.atleast_3d(array).shape, array.dtype.name
    with rasterio.open(path) as image:
        assert path.suffix != ".tif" or image.crs.to_epsg() == 32632
        return (*image.shape, image.count), image.dtypes[0]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long if name in SETS else pytest.mark.slow)
                                  for name in KINDS])
def test_from_the_first_look_to_the_scores(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, root, run = KINDS[name], tmp_path / "data", Path("run")
    kind.make(root)
    words = [*flags(SHARED | kind.settings)]
    said = ask(check, root, *words)
    assert "problems: 0" in said and "the input is" in said
    ask(train, "--data-root", root, "--out-dir", run, *words)
    said = ask(train, "--data-root", root, "--out-dir", run, "--resume", "--n-epochs", 2)
    trained = load_generator(run / "gen.pth.tar").trained
    assert trained.epoch == 2 and trained.inputs == (2 if name == "two inputs" else 1)

    for program, name_of_line in ((predict, "translate"), (evaluate, "score")):
        printed = said.partition(f"{name_of_line}: ")[2].splitlines()[0]
        ask(program, *shlex.split(printed)[2:], "--device", "cpu")
    more = ["--side-by-side", "left"] if name == "flip" else []
    network = ["--checkpoint", run / "gen.pth.tar", "--device", "cpu"]
    ask(predict, *network, "--input", root / kind.inputs, "--output", "out", "--ending", kind.ending, *more)
    made = sorted(path for path in Path("out").rglob("*") if path.is_file())
    assert len(made) == (kind.outputs or len([*(root / kind.inputs).iterdir()])), made
    for path in made:
        assert path.suffix == kind.ending
        assert shape_and_numbers(path) == ((kind.size, kind.size, kind.channels), kind.numbers)
        if kind.ending == ".npy":
            assert 500 <= np.load(path).min() < np.load(path).max() <= 4000

    def scores(place, *more):
        folder = Path("scores", place.name, *more)
        ask(evaluate, *network, "--data-root", place, "--out-dir", folder, "--num-workers", 0, *more)
        return json.loads((folder / "metrics.json").read_text())

    as_printed, = run.glob("evaluation_*/metrics.json")
    for found in (json.loads(as_printed.read_text()), scores(root, "--full-size")):
        assert found["n"] > 0 and 0 < found["scores"]["output"]["l1"]["mean"] < 2
    if name == "patterns":  # a split alone lies as the end of the patterns says
        assert scores(root / "val", "--full-size")["scores"] == found["scores"]
