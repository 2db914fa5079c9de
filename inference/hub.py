"""A folder for the Hugging Face Hub: the weights, what they are, and a card that tells it to people."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from generator import Generator
from inference.page import check_page, example_of, find_examples
from inference.trained import mark_of
from inference.translate import Translator
from pairs.identity import Pair
from pairs.images import normalise, to_tensor
from pairs.picture import picture_of
from runtime.cli import load_settings
from runtime.console import say
from runtime.files import complete_folder, new_folder
from runtime.grids import save_grid
from runtime.weights import FILE, as_safetensors, told_of
from utils import UserError, command_line

BETTER = {"l1": "L1", "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM"}  # of all scores, those that a card names

CARD = """---
license: {licence}
pipeline_tag: image-to-image
library_name: pix2pix
tags: [pix2pix, image-to-image, paired, safetensors]
---

# {title}

{what} ([Isola et al., CVPR 2017](https://arxiv.org/abs/1611.07004)), trained with a pix2pix in plain PyTorch.

{strip}{scores}## Use

```sh
python predict.py --checkpoint hf:{repo} --input photos --output translated
{draw}```

`config.json` repeats what `{file}` tells of the network and its training; tensors called `pairs.…` are no weights.

## Licences

The weights: {licence}. The data that they were trained on: {data_licence}.
"""


def write_hub(saved: Mapping[str, Any], gen: Generator, folder: Path, checkpoint: Path, *, licence: str,
              data_licence: str, examples: int = 3) -> None:
    """Writes `folder` with model.safetensors, config.json, README.md and, if pairs are at hand, a strip of pictures.

    saved: what `read_weights` read of `gen`. The scores are those of the newest evaluation of its weights beside
    `checkpoint`.
    Raises UserError where a licence is missing or `folder` holds something, and OSError when it cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise UserError("--hub needs --licence, which others may use the weights under, by the Hub's names: mit, "
                        "apache-2.0, cc-by-nc-4.0, openrail, other …")
    if not data_licence.strip() or not data_licence.isprintable():
        raise UserError("--hub needs --data-licence, that of the images trained on, in a few words: what the weights "
                        "may be used for depends on it")
    pairs = find_examples(checkpoint, gen.trained, examples)
    folder = new_folder(folder, "--hub")
    content, told = as_safetensors(saved), told_of(saved) or {"format": "weights of the authors' PyTorch release"}
    name = re.sub(r"(?:[^A-Za-z0-9._]|\.{2,})+", "-", folder.name)  # as the Hub takes them
    name = name.removesuffix(".git")[:96].strip("-.")
    repo = f"USER/{name or 'pix2pix'}"
    rows, draw = [], ""
    with contextlib.suppress(UserError):
        check_page(gen.trained)
        draw = f"python draw.py --checkpoint hf:{repo}\n"
    if draw:
        rows = pictures(gen, pairs)
    report = evaluation(checkpoint, gen)
    with complete_folder(folder) as new:
        (new / FILE).write_bytes(content)
        config = {"model_type": "pix2pix", **told, "in_channels": gen.in_channels, "out_channels": gen.out_channels}
        (new / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        if rows:
            save_grid(new / "strip.png", rows, ["input", "output", "target"])
        what = [f"A generator of pix2pix, {gen.in_channels} channels to {gen.out_channels}", gen.trained.direction]
        with contextlib.suppress(UserError, OSError):
            if cfg := load_settings(checkpoint.parent):
                what.append(f"of the data set {name_of_data(cfg.data_root)}")
        card = CARD.format(
            draw=draw, licence=licence, data_licence=data_licence.strip().rstrip("."), repo=repo, file=FILE,
            title=folder.name, what=", ".join(filter(None, what)),
            scores=table(report) if report else "",
            strip="![input, output, target of validation pairs](strip.png)\n\n" if rows else "")
        (new / "README.md").write_text(card, encoding="utf-8")
    if rows:
        say(f"strip.png shows {len(rows)} of the run's validation pairs: --examples 0 leaves them out")
    say(f"wrote {folder}; upload it with: {command_line(['hf', 'upload', repo, str(folder)])}")


def name_of_data(root: Path | str) -> str:
    return re.sub(r"[^\w.-]", "_", Path(root).name)


def pictures(gen: Generator, pairs: Sequence[Pair]) -> list[list[Tensor]]:
    """Input, output and target of these pairs, which are pictures."""
    # An example is as large as its target, and holds the bands that are taken, from black to white
    shown = replace(gen.trained, enlarge=1.0, bands_a=(), bands_b=(), range_a=None, range_b=None)
    translator, rows = Translator(gen, shown), []
    for pair in pairs:
        x, y = example_of(pair, gen.trained)
        taken = translator.take([picture_of(x)])
        y_fake = translator.shown(translator.tensor(taken.x[None])[0], taken)
        rows.append([normalise(to_tensor(x)), y_fake, normalise(to_tensor(y))])
    return rows


def evaluation(checkpoint: Path, gen: Generator) -> dict | None:
    """What evaluate.py wrote last of these weights, in their direction, in a folder beside the checkpoint."""
    mark, way = mark_of(gen), gen.trained.direction
    found = sorted(checkpoint.parent.glob("evaluation_*/metrics.json"), key=lambda path: path.stat().st_mtime)
    for path in reversed(found):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            report = json.loads(path.read_text(encoding="utf-8"))
            if report["weights"] == mark and way in (None, report["settings"]["direction"]):
                return report
    if found:
        say(f"{found[-1]} holds no scores of these weights in their direction: the card has none before evaluate.py "
            "runs again")
    return None


def table(report: dict) -> str:
    settings, scores = report["settings"], report["scores"]["output"]
    means = {told: scores.get(name, {}).get("mean") for name, told in BETTER.items()}  # None where it is not finite
    found = {told: mean for told, mean in means.items() if mean is not None}
    head = " | ".join(found)
    line = " | ".join(f"{mean:.3f}" for mean in found.values())
    size = ", in full size" if settings["full_size"] == "True" else ""
    return (f"## Scores\n\n`evaluate.py` on {report['n']} pairs of {name_of_data(settings['data_root'])}, "
            f"{settings['split']}{size}, norm {settings['norm']}, dropout {settings['dropout']}, means over images:\n\n"
            f"| {head} |\n|{'---|' * len(found)}\n| {line} |\n\n")
