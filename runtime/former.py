"""Settings of earlier versions: what took their place, on the command line and in the files of a run."""

from typing import Any

from utils import UserError

LEVERS = {"fused_adam": True, "channels_last": "auto", "small_matmul": "auto", "compile": "auto", "cuda_graph": "auto",
          "deterministic": False}  # with their defaults
SCORING = "--best-by val_l1, psnr, ms_ssim or a palette scores every epoch and keeps the best"
RELEASE = "--generator release resizes and drops out as the authors' PyTorch program"
OF_THE_AUTHORS = {  # flags of their programs, and those here
    "which_direction": "direction", "continue_train": "resume", "niter": "n-epochs", "niter_decay": "n-epochs-decay",
    "fineSize": "crop-size", "loadSize": "load-size", "batchSize": "batch-size", "input_nc": "in-channels",
    "output_nc": "out-channels", "label_nc": "n-labels", "netG": "generator", "gpu_ids": "device",
    "checkpoints_dir": "out-dir", "dataroot": "data-root", "no_flip": "flip none", "lambda_L1": "lambda-l1",
}
GONE = {
    "name": "--out-dir runs/NAME names the run's folder",
    "save_every": "every epoch may leave a checkpoint, at most one in 20 seconds",
    "n_examples": "grids show 4 pairs",
    "eval_every": SCORING,
    "palette": SCORING,
    "interpolation": RELEASE,
    "dropout_blocks": RELEASE,
    "color_jitter_side": "--color-jitter changes the input or, where --label-side names that, the output",
    "checkpointing": "pix2pixHD's generators save memory by themselves above a crop of 512",
    **dict.fromkeys(LEVERS, "--speed is auto, plain, compile or deterministic"),
}


def refuse_former_flags(argv: list[str]) -> None:
    """Raises UserError where a flag is none any more, with what to write instead."""
    for word in argv:
        flag = word.split("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in OF_THE_AUTHORS:
            raise UserError(f"{flag} is a flag of the authors' programs: here, it is --{OF_THE_AUTHORS[name]}")
        name = name.removeprefix("no_")
        if flag.startswith("--") and name in GONE:
            raise UserError(f"{flag} is gone: {GONE[name]}")


def current(old: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of an earlier version as those of today, and sentences on what has another effect.

    Raises UserError where nothing today does the same.
    """
    new = {name: value for name, value in old.items() if name not in GONE}
    notes = []

    if isinstance(old.get("flip"), bool):
        new["flip"] = "mirror" if old["flip"] else "none"

    if (look := (old.get("interpolation", "linear"), old.get("dropout_blocks", "paper"))) != ("linear", "paper"):
        if look != ("bicubic", "release") or old.get("generator", "unet") != "unet":
            raise UserError(f"the run has interpolation {look[0]} and dropout_blocks {look[1]}, which cannot be had "
                            f"together any more: the version that began it goes on with it, and in a new run {RELEASE}")
        new["generator"] = "release"

    if old.get("color_jitter") and (side := old.get("color_jitter_side")):
        x, y = old["direction"][0], old["direction"][-1]
        x_is_label = old["n_labels"] or old["label_side"] in ("both", x)
        if side != (y if x_is_label else x):
            raise UserError(f"the run has color_jitter on side {side}, and today's would change the other one: the "
                            f"version that began it goes on with it, and in a new run {GONE['color_jitter_side']}")

    if old.get("eval_every"):
        new["best_by"] = old["palette"] or old["best_by"]
        if old["palette"] and old["best_by"] != "label_accuracy":
            notes.append(f"best.pth.tar is chosen by the palette {old['palette']}, no longer by {old['best_by']}")
        if old["eval_every"] > 1:
            notes.append(f"every epoch is scored, not one of {old['eval_every']}")
    elif "eval_every" in old:
        new["best_by"] = "none"

    if chosen := {name: old[name] for name, value in LEVERS.items() if old.get(name, value) != value}:
        new["speed"] = speed_of(chosen)
        words = ", ".join(f"{name} {value}" for name, value in chosen.items())
        notes.append(f"speed is {new['speed']}, for {words}")
    return new, notes


def speed_of(chosen: dict[str, Any]) -> str:
    """The word that comes nearest to levers chosen one by one."""
    if chosen.get("deterministic"):
        return "deterministic"
    if chosen.get("compile") == "on":
        return "compile"
    off = [name for name, value in chosen.items() if value in (False, "off")]
    return "plain" if {"fused_adam", "channels_last", "small_matmul", "cuda_graph"} <= {*off} else "auto"
