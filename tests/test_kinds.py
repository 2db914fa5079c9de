"""Each kind of data from the first look to the scores, and both of its sides aligned to the pixel on the way."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import rasterio
from conftest import ROOT, launch, save, write_raster
from PIL import Image
from rasterio.transform import from_origin

from inference.load import load_generator

SIZE = 80
SHARED = dict(ngf=4, ndf=4, crop_size=64, load_size=72, n_epochs=1, num_workers=0, precision="fp32", device="cpu")


def places(number=0):
    """(H, W, 3): red tells the column, green the row, blue the image."""
    y, x = np.mgrid[:SIZE, :SIZE] * 255 // (SIZE - 1)
    return np.dstack([x, y, np.full_like(x, 40 * number)]).astype(np.uint8)


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
    ask("prepare.py", "tiles", root.parent / "a.tif", root.parent / "b.tif", root, "--size", SIZE, "--block", 1)


@dataclass(frozen=True)
class Kind:
    make: object  # a function of the folder
    settings: dict = field(default_factory=dict)
    inputs: str = "val/A"  # of predict.py, as seen from the folder
    outputs: int = 2
    ending: str = ".png"


KINDS = {
    "patterns": Kind(folder({"{split}/in put/{i}_x.png": places, "{split}/target/{i}.png": places}),
                     dict(files_a=("{split}/in put/{name}_x.png",), files_b="{split}/target/{name}.png"),
                     inputs="val/in put"),
    "group": Kind(folder({f"{side}/p{{patient}}_{{i}}.png": places for side in "AB"}),
                  dict(group="^(p[0-9])_"), inputs="A", outputs=6),
    "bands": Kind(folder({"{split}/A/{i}.tif": lambda i: np.uint16(places(i)[..., [2, 1, 2, 0]]) * 20,
                          "{split}/B/{i}.tif": lambda i: np.uint16(places(i)[..., [1, 0]]) * 20}),
                  dict(bands_a=(4, 2), bands_b=(2, 1), range_a=(0.0, 5100.0), range_b=(0.0, 5100.0)), ending=".tif"),
    "flip": Kind(folder({"{split}/{i}_AB.png": lambda i: np.hstack([places(i)] * 2)}), dict(flip="all"), inputs="val"),
    "sizes": Kind(folder({"{split}/A/{i}.png": lambda i: Image.fromarray(places(i)).reduce(2),
                          "{split}/B/{i}.png": places})),
    "cityscapes": Kind(folder({
        "leftImg8bit/{split}/ulm/ulm_{i}_leftImg8bit.png": places,
        "gtFine/{split}/ulm/ulm_{i}_gtFine_color.png": lambda i: Image.fromarray(places(i)).convert("RGBA")}),
        inputs="leftImg8bit/val"),
    "lab": Kind(folder({"{split}/{i}.png": places}), dict(space="lab"), inputs="val"),
    "tiles": Kind(tiles, inputs="train/A", outputs=0, ending=".tif"),
}


def ask(script, *words, cwd=None):
    process = launch(ROOT / script, *words, cwd=cwd)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    return out + err


def flags(settings):
    for name, value in settings.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, tuple) else [value])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_from_the_first_look_to_the_scores(name, tmp_path):
    kind, root, run = KINDS[name], tmp_path / "data", tmp_path / "run"
    kind.make(root)
    words = [*flags(SHARED | kind.settings)]
    assert "problems: 0" in ask("check.py", root, *words, cwd=tmp_path)
    ask("train.py", "--data-root", root, "--out-dir", run, *words)
    ask("train.py", "--data-root", root, "--out-dir", run, "--resume", "--n-epochs", "2")
    assert load_generator(run / "gen.pth.tar").trained.epoch == 2
    more = ["--side-by-side", "left"] if name == "flip" else []
    ask("predict.py", "--checkpoint", run / "gen.pth.tar", "--input", root / kind.inputs, "--output",
        tmp_path / "out", "--device", "cpu", *more)
    made = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(made) == (kind.outputs or len([*(root / kind.inputs).iterdir()])), made
    for path in made:
        assert path.suffix == kind.ending
        with rasterio.open(path) as image:
            assert image.shape == (SIZE, SIZE)
            assert kind.ending != ".tif" or image.crs.to_epsg() == 32632
    ask("evaluate.py", "--checkpoint", run / "gen.pth.tar", "--data-root", root, "--out-dir", tmp_path / "scores",
        "--num-workers", "0", "--device", "cpu", "--full-size")
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    if name == "patterns":  # a split alone lies as the end of the patterns says
        ask("evaluate.py", "--checkpoint", run / "gen.pth.tar", "--data-root", root / "val", "--out-dir",
            tmp_path / "alone", "--num-workers", "0", "--device", "cpu", "--full-size")
        assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["scores"] == scores["scores"]
    assert scores["n"] > 0 and 0 < scores["scores"]["output"]["l1"]["mean"] < 2
