"""A run's folder while it is trained in: locked, checked, continued, and filled."""

import contextlib
import errno
import itertools
import json
import math
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

from filelock import FileLock, Timeout

from config import Config
from runtime.checkpoint import (
    OTHER_GENERATORS,
    Progress,
    check_finite,
    load_tensors,
    refuse_unknown,
    save_generator,
    save_generator_of,
    save_run,
)
from runtime.console import say
from runtime.distributed import Ranks, env_number
from runtime.files import UNSUPPORTED, atomic, remove_leftovers
from runtime.folder import refuse_foreign, run_files, run_name
from runtime.state import State, snapshot
from runtime.summary import commit_of
from runtime.weights import find_weights, read_weights
from runtime.writer import Writer
from utils import UserError, flags, name_of

# For a run's whole life
FIXED = ["direction", "space", "n_labels", "in_channels", "out_channels", "crop_size", "crop_width", "ngf", "ndf",
         "n_layers", *OTHER_GENERATORS, "n_scales", "spectral_norm"]
NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}  # where no file can be locked
SPACING = 20  # seconds at least between two checkpoints, and two drawings, of a run: an epoch may take less than one
LONGEST = 600  # seconds at most between two checkpoints, where epochs are shorter


class Run:
    """A run's folder, locked for the block, and its checkpoints.

    Entering makes the folder, locks it, and only then reads it. From then on `cfg` is what is trained, in all processes
    the main one's settings, with its out_dir, and `history` the epochs so far. Leaving waits for the writer, then
    unlocks. The settings are written with the first checkpoint: those with which nothing was learnt are not kept. Of
    several processes, only the main one touches the folder; the others wait for it.
    Raises OSError, naming out_dir, where nothing can be written, and UserError where another process trains, or where
    the folder holds a run or files that must not be overwritten, or no run that cfg could continue.
    """

    def __init__(self, cfg: Config, ranks: Ranks):
        self.cfg = cfg
        self.ranks = ranks
        self.commit = commit_of()  # read now: files may be edited during training
        self.writer = Writer(ranks.device)
        self.saved = None  # the checkpoint, until it is restored
        self.record = {}  # of the data
        self.begun = Progress()  # where the checkpoint that was restored stands, if there was one
        self.met = None  # what the checkpoint, or the file that the weights come from, tells of the pairs it knows
        self.best = {}  # the scores of what best.pth.tar holds, or will once the writer has come to it
        self.lock = None
        self.made = False  # whether this start has made the folder
        self.settled = False  # whether config.json has the settings
        self.saved_at = -math.inf  # when the last checkpoint was due
        self.spacing = SPACING  # seconds at least until the next one

    def __enter__(self) -> "Run":
        try:
            self.cfg, self.saved = self.ranks.broadcast(self._open)
            self.met = self.saved or self.ranks.broadcast(self._source)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        self.history = self.saved["history"] if self.saved else []
        self.defaults = self._defaults()
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.writer.pool.shutdown()
            if kind is None:
                self.writer.check(wait=True)
        finally:
            if self.lock:
                self._clear()
                self.lock.release()

    def _clear(self) -> None:
        """Takes back a folder that this start has made and in which nothing is but the lock."""
        folder = Path(self.lock.lock_file).parent
        with contextlib.suppress(OSError):  # the folder may have been removed meanwhile
            if self.made and {path.name for path in folder.iterdir()} <= {".lock"}:
                (folder / ".lock").unlink(missing_ok=True)
                folder.rmdir()

    def _defaults(self) -> dict:
        """Those of config.py; but edits since the checkpoint that this start has not taken stay to be told.

        Where a flag has kept a setting as it was, it is settled.
        """
        saved = self.saved or {}
        own = self.cfg.plain()
        given = flags(sys.argv)
        kept = {name: value for name, value in saved.get("defaults", {}).items()
                if own.get(name) == saved["config"].get(name) and name not in given}
        return {**Config().plain(), **kept}

    def _source(self) -> dict | None:
        """What the file that this run begins with tells of its pairs; says where it translates the other way."""
        if not self.cfg.init_from:
            return None
        saved = read_weights(self.cfg.init_from)
        then = (saved.get("config") or {}).get("direction", self.cfg.direction)
        if then != self.cfg.direction:
            say(f"{self.cfg.init_from} translates {then}, and this run {self.cfg.direction}: it begins with weights "
                "that do the opposite")
        return {"pairs": saved.get("pairs")}

    def restore(self, state: State, record: dict, same_pairs: bool) -> Progress:
        """Puts the checkpoint, if there is one, into `state`, and returns where the run stands.

        `record` tells of the data, and will be part of the checkpoints; same_pairs says whether the training pairs, in
        their order, are still the checkpoint's. An epoch that was cut begins anew when its order no longer stands: to
        go on would leave out some pairs and repeat others, and to refuse would end a run of which one file was lost.
        """
        self.record, saved, self.saved = record, self.saved, None
        if not saved:
            return Progress()
        state.load_state_dict(saved.pop("state"))  # which others that hold `saved` would keep in memory
        if self.ranks.main and self.cfg.best_by != "none":
            self.best = self._best()
        progress = Progress(**{f.name: saved[f.name] for f in fields(Progress) if f.name in saved})
        if progress.images and not (same_pairs and self.cfg.seed == saved["config"]["seed"]):
            say(f"epoch {progress.epoch + 1} begins anew, because the order of its pairs has changed")
            progress = Progress(progress.epoch)
        same_scored = self._compares(saved)
        if not same_scored:
            say("validation scores other pairs than before, or in another way: scores from here on are not to be "
                "compared with those before")
        say(f"resuming {self.cfg.out_dir} after epoch {progress.epoch}, step {progress.step}")
        if since := saved.get("compared_from", 0) if same_scored else progress.epoch:
            self.record["compared_from"] = since  # the number of the first epoch whose scores compare with today's
        self.begun = progress
        return progress

    def _open(self) -> tuple[Config, dict | None]:
        cfg = self.cfg
        if env_number("TORCHELASTIC_RESTART_COUNT") and not cfg.resume:
            raise UserError("torchrun has started this run again, which would begin anew: with --resume it goes on")
        folder = cfg.out_dir
        try:
            if folder:
                self._lock(folder)
            else:
                folder = self._free_folder()
            cfg = replace(cfg, out_dir=folder, data_root=cfg.data_root.absolute(),  # to be resumed from anywhere
                          best_by=str(Path(cfg.best_by).absolute()) if cfg.best_by.endswith(".json") else cfg.best_by)
            if cfg.resume or not run_files(folder):  # else it is refused, perhaps beside a run that no lock shows
                for place in (folder, folder / "examples"):
                    remove_leftovers(place)
            saved = self._read(cfg)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(4096))  # what cannot be written is told now, not after the first epoch
        except OSError as error:
            where = f": {name_of(error.filename)}" if error.filename else ""
            raise OSError(f"cannot use out_dir '{folder or Path()}': {error.strerror or error}{where}") from error
        if saved:
            return replace(cfg, init_from=saved["config"].get("init_from")), saved
        if cfg.init_from:
            found = find_weights(cfg.init_from, read_weights)
            if not found.exists():
                raise FileNotFoundError(f"--init-from {name_of(found)} is not there")
            cfg = replace(cfg, init_from=found.absolute())
        return cfg, None

    def _lock(self, folder: Path) -> None:
        self.made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / ".lock", timeout=0, fallback_to_soft=False)  # a soft lock outlives a killed host
        try:
            self.lock.acquire()
        except Timeout as error:
            self.lock = None
            raise UserError(f"another process is training in {folder}: wait for it, or choose another folder with "
                            "--out-dir") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"{folder} lies on a file system without locks ({error.strerror}): nothing keeps a second training out "
                "of it")

    def _free_folder(self) -> Path:
        """runs/NAME, or the first of runs/NAME-2, … where nobody has trained; locked."""
        name = run_name(self.cfg.data_root)
        for n in itertools.count(1):
            folder = Path("runs", f"{name}-{n}" if n > 1 else name)
            if not run_files(folder):
                try:
                    self._lock(folder)
                except UserError:
                    continue
                if not run_files(folder):  # nor has anybody meanwhile
                    break
                self.lock.release()
        if folder.name != name:
            say(f"runs/{name} is taken: this run goes to {folder}")
        return folder

    def _read(self, cfg: Config) -> dict | None:
        """The checkpoint to go on from; None where the run begins."""
        folder, found = cfg.out_dir, run_files(cfg.out_dir)
        if "checkpoint.pth.tar" not in found:
            refuse_foreign(folder)
        if not cfg.resume:
            if found:
                raise UserError(f"{folder} already holds a run ({', '.join(found)}): continue it with --resume, or "
                                "choose another folder with --out-dir")
            return None
        if "checkpoint.pth.tar" not in found:
            if "gen.pth.tar" in found:
                raise UserError(f"there is no run to resume in {folder}: checkpoint.pth.tar is missing")
            say(f"no checkpoint in {folder} yet: the run begins; to go on with another, give its --out-dir")
            return None
        path = folder / "checkpoint.pth.tar"
        saved = load_tensors(path, "pix2pix checkpoint")
        refuse_unknown(saved["config"], path)
        new = cfg.plain()
        before = {**Config().plain(), **saved["config"]}  # a setting that is newer than the run had its default
        changed = {name: old for name, old in before.items()
                   if new[name] != old and name not in ("resume", "out_dir")}
        sides = {"in_channels": cfg.direction[0], "out_channels": cfg.direction[-1]}
        for fixed in FIXED:
            if fixed in changed:
                bands = f"bands_{sides.get(fixed, '').lower()}"
                name = bands if bands in changed else fixed  # bands set the channels
                raise UserError(f"the run in {folder} has {name} {changed[name]}, which cannot become {new[name]}: "
                                "leave it as it was, or start a new run with another --out-dir")
        if saved["epoch"] >= cfg.total_epochs:
            if "gen.pth.tar" not in found:  # the run was killed between the two
                save_generator_of(saved, folder)
            raise UserError(f"the run in {folder} is finished: {saved['epoch']} of {cfg.total_epochs} epochs; a larger "
                            "--n-epochs continues it")
        if not cfg.data_root.exists():
            raise UserError(f"the pairs of the run in {folder} are no longer at {name_of(cfg.data_root)}: tell where "
                            "they are with --data-root")
        for name, old in changed.items():
            say("init_from is ignored: the run has weights of its own" if name == "init_from" else
                f"changed since the run began: {name} from {old} to {new[name]}")
        return saved

    def _best(self) -> dict[str, float]:
        """The scores of what best.pth.tar holds, each with its name; none where today's do not compare with them."""
        path = self.cfg.out_dir / "best.pth.tar"
        if not path.exists():
            return {}
        try:
            best = load_tensors(path, "pix2pix generator")
        except UserError as error:
            say(f"{error}: the next epoch that is scored takes its place")
            return {}
        if ("scores" not in best  # of an earlier version
                or not self._compares(best)
                or self.cfg.palette and best.get("best_by", self.cfg.best_by) != self.cfg.best_by):
            say("best.pth.tar was scored on other validation pairs, or in another way: the next epoch that is scored "
                "takes its place")
            return {}
        return best["scores"]

    def _compares(self, saved: dict) -> bool:
        """Whether the scores of a file of this run are of the pairs and the numbers that validation takes now."""
        now = self.cfg.plain()
        then = {**now, **saved["config"]}
        side = now["direction"][-1].lower()
        names = ["resize", f"range_{side}", f"bands_{side}", *(["load_size"] if now["resize"] == "aspect" else [])]
        was_label = then["label_side"] in ("both", side.upper())
        return (all(saved.get(name) in (None, self.record[name]) for name in ("validated_on", "masked_by"))
                and all(then[name] == now[name] for name in names) and was_label == self.cfg.target_is_label)

    def save(self, state: State, progress: Progress, history: list[dict]) -> None:
        """Writes the checkpoint of this moment, after what is being written, if this start has learnt anything."""
        if self.ranks.main:
            if (progress.epoch, progress.step) != (self.begun.epoch, self.begun.step):
                saved = state.state_dict()
                check_finite(saved, progress)  # first: a sound checkpoint that waits must not give way to a broken one
                self.writer.submit("checkpoint", self._write, saved, progress, history)
            self.writer.check(wait=True)
            if self.settled and progress.epoch < self.cfg.total_epochs:
                say(f"saved in epoch {progress.epoch + 1}, step {progress.step}; --resume continues there")
        self.ranks.barrier()

    @property
    def beside(self) -> bool:
        """Whether files are written while training goes on: on the CPU, the copies would double a run's memory."""
        return self.ranks.device.type != "cpu"

    def save_epoch(self, state: State, progress: Progress, history: list[dict]) -> None:
        """Writes the checkpoint of an epoch, and best.pth.tar.

        One that comes within `spacing` seconds of the one before, or while that is being written, is left out; the
        last one is for `save`.
        """
        cfg, epoch = self.cfg, progress.epoch
        if self.ranks.main:
            copied = snapshot if self.beside else dict
            start = time.monotonic()
            self.writer.check()
            best = is_best(history[-1], self.best, cfg)
            if best:
                self.best = {name: value for name, value in history[-1].items() if name.startswith("val_")}
                record = {**self.record, "scores": self.best, "best_by": cfg.best_by}
                weights = copied(state.result.state_dict())
                self.writer.submit("best", save_generator, cfg, weights, epoch, cfg.out_dir / "best.pth.tar", record)
            due = (epoch < cfg.total_epochs and start - self.saved_at >= self.spacing
                   and not self.writer.busy("checkpoint"))
            if due:
                self.saved_at = start
                self.writer.submit("checkpoint", self._write, copied(state.state_dict()), progress, list(history))
            if not self.beside and (best or due):
                self.writer.check(wait=True)
                if due:  # a slow disk costs a twentieth of the time
                    self.spacing = max(SPACING, min(20 * (time.monotonic() - start), LONGEST))
        self.ranks.barrier()

    def _write(self, state: dict, progress: Progress, history: list[dict]) -> None:
        save_run(self.cfg, state, progress, history, self.record, self.defaults, self._settle)

    def _settle(self) -> None:
        """Writes config.json with the first checkpoint; later edits of it are the user's, for the next start."""
        if not self.settled:
            text = json.dumps({**self.cfg.plain(), "defaults": self.defaults}, indent=2)
            with atomic(self.cfg.out_dir / "config.json") as file:
                file.write(text.encode())
            self.settled = True


def goodness(scores: dict[str, float], cfg: Config) -> float:
    """How good the scores of an epoch are, the larger the better; NaN where it was not scored so."""
    if "val_ssim" not in scores:
        return math.nan
    if cfg.best_by == "val_l1":
        return -scores.get("val_l1", math.nan)
    return scores.get("val_label_accuracy" if cfg.palette else f"val_{cfg.best_by}", math.nan)


def is_best(scores: dict[str, float], best: dict[str, float], cfg: Config) -> bool:
    """Whether the scores of an epoch are as good as those of best.pth.tar, or the only ones."""
    new, old = goodness(scores, cfg), goodness(best, cfg)
    return new >= old or math.isnan(old) and not math.isnan(new)
