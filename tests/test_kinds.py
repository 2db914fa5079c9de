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


def places(number=0, width=SIZE, height=SIZE):
    """(H, W, 3): red tells the column, green the row, blue the image."""
    y, x = np.mgrid[:height, :width] * 255 // (SIZE - 1)
    return np.dstack([x, y, np.full_like(x, 40 * number)]).astype(np.uint8)


def save_raster(path, bands, pixel=10.0):
    """(C, H, W), somewhere on Earth."""
    write_raster(path, bands, photometric="MINISBLACK", alpha="NO", crs="EPSG:32632",
                 transform=from_origin(4e5, 5e6, pixel, pixel))


def splits():
    yield from ((split, i) for split, n in (("train", 4), ("val", 2)) for i in range(n))


def patterns(root):
    for split, i in splits():
        save(root / split / "in put" / f"{i}_x.png", places(i))
        save(root / split / "target" / f"{i}.png", places(i))


def patients(root):
    for i in range(8):
        for side in "AB":
            save(root / side / f"p{i // 2}_{i}.png", places(i % 6))


def bands(root):
    for split, i in splits():
        red, green, blue = places(i).transpose(2, 0, 1).astype(np.uint16) * 20
        save_raster(root / split / "A" / f"{i}.tif", np.stack([blue, green, blue, red]))
        save_raster(root / split / "B" / f"{i}.tif", np.stack([green, red]))


def photos(root):
    for split, i in splits():
        save(root / split / f"{i}.png", places(i))


def beside(root):
    for split, i in splits():
        save(root / split / f"{i}_AB.png", np.hstack([places(i), places(i)]))


def small_and_large(root):
    for split, i in splits():
        save(root / split / "B" / f"{i}.png", places(i))
        small = Image.fromarray(places(i)).reduce(2)
        save(root / split / "A" / f"{i}.png", np.asarray(small))


def streets(root):
    for split, i in splits():
        save(root / "leftImg8bit" / split / "ulm" / f"ulm_{i}_leftImg8bit.png", places(i))
        colours = np.dstack([places(i), np.full((SIZE, SIZE), 255, np.uint8)])
        save(root / "gtFine" / split / "ulm" / f"ulm_{i}_gtFine_color.png", colours)


def tiles(root):
    whole = np.tile(places(), (3, 4, 1)).transpose(2, 0, 1)
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
    larger: int = 1  # the factor of outputs


KINDS = {
    "patterns": Kind(patterns, dict(files_a=("{split}/in put/{name}_x.png",), files_b="{split}/target/{name}.png"),
                     inputs="val/in put"),
    "group": Kind(patients, dict(group="^(p[0-9])_"), inputs="A", outputs=8),
    "bands": Kind(bands, dict(bands_a=(4, 2), bands_b=(2, 1), range_a=(0.0, 5100.0), range_b=(0.0, 5100.0)),
                  ending=".tif"),
    "flip": Kind(beside, dict(flip="all"), inputs="val"),
    "sizes": Kind(small_and_large, larger=2),
    "cityscapes": Kind(streets, inputs="leftImg8bit/val"),
    "lab": Kind(photos, dict(space="lab"), inputs="val"),
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
