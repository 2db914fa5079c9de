import math
import os
import re
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import conftest
import pytest
import torch
import torch.nn.functional as F
from conftest import LARGER, ROOT, flags, fresh_state, launch, write_pair
from PIL import Image
from torch import nn

from dataset import load_data
from inference.validation import Validation
from runtime import run as run_module
from runtime.checkpoint import load_tensors
from runtime.console import run_main
from runtime.distributed import Ranks
from runtime.signals import Stop
from runtime.state import State
from train import bce, learning_rate, train, train_step
from utils import DataError, Stopped


class Constant(nn.Module):
    """A generator that paints every pixel with its one weight."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x):
        return self.value + 0 * x  # no view, which would follow an update


class Linear(nn.Module):
    """A discriminator whose one logit is its one weight times the mean of y."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x, y):
        return (self.weight * y.mean()).reshape(1, 1, 1, 1)


def toy(paint=-0.5, weight=0.3, lr=0.1):
    gen, disc = Constant(paint), Linear(weight)
    adam = partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.999))
    return State(gen, disc, adam(gen.parameters()), adam(disc.parameters()), torch.amp.GradScaler("cpu", enabled=False))


def softplus(value):
    return math.log1p(math.exp(value))


fp32 = partial(torch.autocast, "cpu", enabled=False)


@pytest.mark.parametrize("target", [1.0, 0.0])
def test_bce_is_torch_s_own_in_value_and_gradient(monkeypatch, target):
    assert bce(torch.zeros(4).bfloat16(), target).dtype == torch.float32
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    logits = [torch.linspace(-15, 15, 961, dtype=torch.double).requires_grad_() for _ in range(2)]
    losses = bce(logits[0], target), F.binary_cross_entropy_with_logits(logits[1], torch.full((961,), target).double())
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(each.grad for each in logits), rtol=1e-12, atol=1e-16)


def test_one_step_is_the_paper_s_to_the_formula():
    """Real towards 1, generated towards 0, D first and by half, then G against the updated D, with 50 times the L1."""
    state, x, y = toy(), torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    losses = train_step(state, x, y, 50.0, fp32)
    updated = 0.3 + 0.1  # Adam's first step is lr long; real pairs (mean 1) and generated ones (-0.5) both raise it
    wanted = {"d_real": softplus(-0.3), "d_fake": softplus(-0.15), "g_gan": softplus(0.5 * updated), "g_l1": 1.5}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted)
    assert state.disc.weight.item() == pytest.approx(updated)  # G's loss moves D no further
    slopes = -1 / (1 + math.exp(0.3)), -0.5 / (1 + math.exp(0.15))
    assert state.disc.weight.grad.item() == pytest.approx(sum(slopes) / 2) and state.disc.weight.requires_grad
    g_gan_slope = -updated / (1 + math.exp(-0.5 * updated))
    assert state.gen.value.grad.item() == pytest.approx(g_gan_slope - 50)
    assert state.gen.value.item() == pytest.approx(-0.4)  # away from -0.5, towards the target


def test_a_scaler_changes_no_update_and_is_updated():
    """As for fp16: scaled losses, unscaled steps, a skipped step and a smaller scale after an overflow."""
    plain, scaled = toy(lr=0.01), toy(lr=0.01)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    for _ in range(5):
        torch.testing.assert_close(train_step(plain, x, y, 100.0, fp32), train_step(scaled, x, y, 100.0, fp32))
    # Adam hides a constant factor: its second moment does not
    for name in ("opt_g", "opt_d"):
        moments = [list(getattr(state, name).state.values())[0]["exp_avg_sq"] for state in (plain, scaled)]
        torch.testing.assert_close(*moments)
    before = scaled.disc.weight.item()
    train_step(scaled, x, y * math.inf, 100.0, fp32)
    assert scaled.scaler.get_scale() == 512 and scaled.disc.weight.item() == before


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_run_trains_in_the_precision_of_its_settings(small, on_steps, precision, dtype):
    seen = set()

    def look(losses, state, x, y, lambda_l1, autocast):
        with autocast():
            seen.add(state.gen(x).dtype)

    on_steps(look)
    train(small(n_epochs=1, precision=precision, **LARGER))
    assert seen == {dtype}


class Given(list):
    """Batches of five pairs."""

    data, skipped = range(5), 0


def test_validation_is_the_paper_s_test_and_its_rows_are_input_output_target(small):
    """Dropout on and BatchNorm with the image's statistics (mistake 12: eval() swaps them)."""
    state, seen = fresh_state(small()), []
    first = next(module for module in state.gen.modules() if isinstance(module, nn.BatchNorm2d))
    drop = next(module for module in state.gen.modules() if isinstance(module, nn.Dropout))
    first.register_forward_hook(lambda module, args, out: seen.append(out.mean(dim=(0, 2, 3)).abs().max() < 1e-4))
    drop.register_forward_hook(lambda module, args, out: seen.append((out == 0).float().mean() > 0.2))
    first.running_mean.fill_(5)
    pairs = [(torch.full((3, 64, 64), i / 10), torch.full((3, 64, 64), -i / 10)) for i in range(5)]
    batches = Given([tuple(map(torch.stack, zip(*pairs[i : i + 2], strict=True))) for i in (0, 2, 4)])
    val_l1, rows = Validation(small(), Ranks(), fp32)(state.gen, batches, 1, Stop(Ranks()))
    assert len(seen) == 6 and all(seen) and first.running_mean.unique().item() == 5
    assert [x.mean().item() for x, _, y in rows] == pytest.approx([0, 0.1, 0.3, 0.4])
    assert [y.mean().item() for x, _, y in rows] == pytest.approx([0, -0.1, -0.3, -0.4])
    state.gen.forward = lambda x: torch.full_like(x, 0.5)
    val_l1, rows = Validation(small(), Ranks(), fp32)(state.gen, batches, 1, Stop(Ranks()))
    assert val_l1["val_l1"] == pytest.approx(0.5 + 0.2) and all((row[1] == 0.5).all() for row in rows)


def test_the_rate_is_constant_then_falls_linearly_and_never_is_zero():
    rates = [learning_rate(epoch, 1.0, 100, 100) for epoch in range(1, 201)]
    assert rates[:100] == [1.0] * 100
    assert rates[100:] == pytest.approx([1 - k / 101 for k in range(1, 101)])
    assert learning_rate(200, 2e-4, 200, 0) == 2e-4


@pytest.mark.long
def test_a_resumed_run_whose_rate_rises_again_says_so(small, capsys):
    """Two epochs and two of decay, then --n-epochs 4: from a third of the rate back to two thirds."""
    train(small(n_epochs=2, n_epochs_decay=2))
    assert "rises" not in capsys.readouterr().out
    train(small(n_epochs=4, n_epochs_decay=2, resume=True))
    assert "the learning rate rises again, from 6.7e-05 in epoch 4 to 0.00013 in epoch 5" in capsys.readouterr().out
    train(small(n_epochs=5, n_epochs_decay=3, lr=1e-4, resume=True))
    assert "rises" not in capsys.readouterr().out


@pytest.mark.curves
def test_a_run_leaves_every_file_it_promises(small, end_of):
    cfg = small(n_epochs=3)
    train(cfg)
    held = {path.relative_to(cfg.out_dir).as_posix() for path in cfg.out_dir.rglob("*") if path.is_file()}
    events = {name for name in held if name.startswith("tensorboard/events")}
    assert len(events) == 1
    assert held - events == {".lock", "config.json", "checkpoint.pth.tar", "gen.pth.tar", "log.csv", "losses.png",
                             *(f"examples/epoch_000{i}.png" for i in (1, 3))}  # the second came too soon
    assert end_of(cfg)["epoch"] == 3
    lines = (cfg.out_dir / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,d_real,d_fake,g_gan,g_l1,val_l1,lr,seconds,images_per_s" and len(lines) == 4
    assert Image.open(cfg.out_dir / "examples" / "epoch_0001.png").height > 2 * 32


def test_the_log_holds_the_means_of_the_steps_and_the_speed(small, on_steps):
    seen = []
    on_steps(lambda losses, *_, **__: seen.append(losses))
    train(small(n_epochs=1, batch_size=4))  # 6 pairs: a batch of 4 and one of 2
    row = load_tensors(small().out_dir / "checkpoint.pth.tar")["history"][0]
    for name in ("d_real", "d_fake", "g_gan", "g_l1"):
        assert row[name] == pytest.approx((seen[0][name].item() * 4 + seen[1][name].item() * 2) / 6, rel=1e-5)
    assert row["epoch"] == 1 and row["images_per_s"] == pytest.approx(6 / row["seconds"]) and row["seconds"] > 0


@pytest.mark.parametrize("changes", [{}, dict(batch_size=4, precision="bf16")])
def test_one_epoch_and_two_more_equal_three(small, same, end_of, changes):
    """Weights, both optimisers, the scaler, the rate, dropout, the data's order and jitter, the log."""
    straight, parts = (small(name, n_epochs_decay=1, **changes) for name in ("straight", "parts"))
    train(straight)
    train(replace(parts, n_epochs=1, n_epochs_decay=0))
    train(replace(parts, resume=True))
    end = end_of(straight)
    assert same(end, end_of(parts))
    assert [row["lr"] for row in end["history"]] == [2e-4, 2e-4, 1e-4]
    assert [end["state"][name]["param_groups"][0]["lr"] for name in ("opt_g", "opt_d")] == [1e-4, 1e-4]
    assert (parts.out_dir / "log.csv").read_text().count("\n") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)])
@pytest.mark.parametrize("when", ["in an epoch", "in validation"])
@pytest.mark.long
def test_a_signal_saves_within_a_step_and_resume_goes_on_from_there(small, same, end_of, undisturbed, at_step,
                                                                   monkeypatch, capsys, number, when):
    validate, cfg = Validation.__call__, small()
    if when == "in an epoch":
        at_step(9, lambda losses: os.kill(os.getpid(), number))
    else:
        monkeypatch.setattr(Validation, "__call__", lambda *args: os.kill(os.getpid(), number) or validate(*args))
    with pytest.raises(SystemExit) as leaving:
        run_main(lambda: train(cfg))
    assert leaving.value.code == 128 + number and "--resume continues there" in capsys.readouterr().out
    monkeypatch.undo()
    cut = end_of(cfg)
    assert (cut["epoch"], cut["step"]) == ((1, 3) if when == "in an epoch" else (0, 6))
    train(small(resume=True))
    assert same(undisturbed, end_of(cfg))


@pytest.fixture
def flat(small, tmp_path):
    """A run's settings on pairs without a split, 18 to train on and 2 held out."""
    return small(data_root=conftest.flat(tmp_path / "flat"), n_epochs=1)


def used(loaded):
    return [{pair.files[0].name for pair in each.pairs} for each in loaded[:2]]


@pytest.mark.curves
def test_a_run_inside_its_own_data_never_trains_on_its_own_pictures(flat, capsys):
    cfg = replace(flat, out_dir=flat.data_root)
    before = used(load_data(cfg))
    train(cfg)
    assert (flat.data_root / "losses.png").exists()
    assert used(load_data(cfg)) == before
    assert "not used: 2 images that this program drew" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["none", "another root", "a file more", "another seed"])
@pytest.mark.long
def test_an_epoch_that_was_cut_is_not_continued_in_another_order(flat, at_step, on_steps, monkeypatch, capsys, change):
    at_step(5, lambda losses: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        train(flat)
    monkeypatch.undo()
    done = load_tensors(flat.out_dir / "checkpoint.pth.tar")["images"]
    cfg = replace(flat, resume=True, seed=3 if change == "another seed" else 0)
    if change == "a file more":
        write_pair(flat.data_root / "zz.png", seed=50)
    elif change == "another root":
        (flat.data_root / "train").mkdir()
        for path in flat.data_root.glob("*.png"):
            path.rename(flat.data_root / "train" / path.name)
        cfg = replace(cfg, data_root=flat.data_root / "train")
    capsys.readouterr()
    seen = []
    on_steps(lambda losses, *_, **__: seen.append(losses))
    train(cfg)
    shown = capsys.readouterr().out
    n = len(load_tensors(flat.out_dir / "checkpoint.pth.tar")["pairs"]["train"])
    anew = change in ("a file more", "another seed")
    assert len(seen) == (n if anew else n - done)
    assert ("epoch 1 begins anew, because the order of its pairs has changed" in shown) == anew


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(small, end_of, at_step):
    cfg = small()
    at_step(9, lambda losses: {**losses, "d_fake": torch.tensor(math.nan)})
    with pytest.raises(ValueError, match=r"epoch 2, step 3: .*d_fake nan"):
        train(cfg)
    assert end_of(cfg)["epoch"] == 1


def test_non_finite_weights_are_never_saved(small, end_of, on_steps):
    cfg = small()

    def poison(losses, state, *_, **__):
        weight = state.disc.layers[0].weight
        if state.opt_d.state[weight]["step"] == 12:  # the last step of the run
            weight.data[0, 0, 0, 0] = math.inf

    on_steps(poison)
    with pytest.raises(ValueError, match="disc.layers.0.weight is no longer finite"):
        train(cfg)
    assert end_of(cfg)["epoch"] == 1


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.long
def test_a_file_that_breaks_while_training_costs_nothing(small, data, same, end_of, undisturbed, at_step, monkeypatch,
                                                         split, workers):
    cfg, path = small(num_workers=workers), data / split / "1.png"
    whole = path.read_bytes()
    spoil = path.unlink if split == "val" else partial(path.write_bytes, whole[:100])
    at_step(6, lambda losses: spoil())  # the end of the first epoch
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} cannot be read: "):
        train(cfg)
    monkeypatch.undo()
    path.write_bytes(whole)
    train(replace(cfg, resume=True))
    assert same(undisturbed, end_of(cfg))


def test_deterministic_asks_torch_for_it(small):
    try:
        train(small(n_epochs=1, speed="deterministic"))
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_the_workers_too_and_still_saves(data, tmp_path):
    """The signal goes to the whole process group, as from a keyboard."""
    process = launch(ROOT / "train.py", *flags(data, tmp_path / "run", n_epochs=10**5, num_workers=2),
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for line in process.stdout:
        if line.startswith("epoch 2"):
            break
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "--resume" in out
    assert err.count("finishing the step") == 1  # the workers leave the signal to the main process
    assert load_tensors(tmp_path / "run" / "checkpoint.pth.tar")["epoch"] >= 1


@pytest.mark.long
@pytest.mark.parametrize(("seconds", "epochs"), [(10, [1, 3, 5, 6]), (9.9, [1, 4, 6])])
def test_checkpoints_keep_their_distance_in_time(small, monkeypatch, on_steps, seconds, epochs):
    """20 seconds, of epochs that take so many; on a GPU one may take less than one, and writing longer."""
    saved, steps, save = [], [], run_module.save_run
    on_steps(lambda *_, **__: steps.append(None))
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: len(steps) / 6 * seconds))
    monkeypatch.setattr(run_module.Writer, "busy", lambda *_: False)
    monkeypatch.setattr(run_module, "save_run", lambda *args: saved.append(args[2].epoch) or save(*args))
    train(small(n_epochs=6))
    assert saved == epochs


@pytest.mark.long
def test_checkpoints_are_written_while_training_goes_on_and_never_two_at_once(small, monkeypatch, on_steps, end_of,
                                                                              unspaced):
    """A slow disk: training does not wait, an epoch's checkpoint may be left out, the last one never is."""
    monkeypatch.setattr(run_module.Run, "beside", True)  # as on a GPU
    save, writing, written, steps = run_module.save_run, threading.Lock(), [], []
    submit, kinds = run_module.Writer.submit, set()
    monkeypatch.setattr(run_module.Writer, "submit", lambda *args: kinds.add(args[1]) or submit(*args))
    on_steps(lambda losses, *_, **__: steps.append(written[:]))

    def slow(cfg, state, progress, *rest):
        assert writing.acquire(blocking=False)
        while progress.epoch == 1 and len(steps) <= 3 * 6:  # until epoch 4 has begun
            time.sleep(0.01)
        save(cfg, state, progress, *rest)
        written.append(progress.epoch)
        writing.release()

    monkeypatch.setattr(run_module, "save_run", slow)
    train(small(n_epochs=8, best_by="val_l1"))
    assert kinds == {"checkpoint", "best", "log", "drawing"}  # of each of which only the newest waits
    assert written[0] == 1 and written[1] >= 4 and written[-1] == 8 and end_of(small())["epoch"] == 8
    assert steps[17] == []  # epochs 2 and 3 did not wait for the checkpoint of epoch 1


def test_on_the_cpu_training_waits_for_its_files_which_are_no_copies(small, monkeypatch, on_steps, unspaced):
    """With copies, a run of the paper's size took 0.7 GB more. A slow disk costs a twentieth of the time at most."""
    clock, steps, seen = [0], [], []
    save = run_module.save_run
    on_steps(lambda *_, **__: steps.append(None))
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: clock[0] + len(steps)))
    state_dict = run_module.State.state_dict

    def keep(self):
        kept = state_dict(self)
        seen.append({"weights": kept["gen"]["encoder.0.weight"].data_ptr(), "steps": len(steps)})
        return kept

    def slow(cfg, state, progress, *rest):
        assert state["gen"]["encoder.0.weight"].data_ptr() == seen[-1]["weights"] and len(steps) == seen[-1]["steps"]
        seen[-1]["epoch"] = progress.epoch
        clock[0] += 1  # second, in which training waits; a step takes one as well
        save(cfg, state, progress, *rest)

    monkeypatch.setattr(run_module.State, "state_dict", keep)
    monkeypatch.setattr(run_module, "save_run", slow)
    train(small(n_epochs=10))
    assert [each["epoch"] for each in seen] == [1, 5, 9, 10]


def test_a_checkpoint_holds_its_epoch_though_training_went_on(small, same, end_of, monkeypatch, at_step):
    """Written late, neither it nor the best generator may hold the weights of the steps that were taken meanwhile."""
    monkeypatch.setattr(run_module.Run, "beside", True)  # as on a GPU
    train(small("one", n_epochs=1, best_by="val_l1"))
    save, save_best, begun = run_module.save_run, run_module.save_generator, threading.Event()

    def late(cfg, state, progress, *rest):
        if progress.epoch == 1:
            begun.set()
            time.sleep(0.5)
            save(cfg, state, progress, *rest)

    def late_best(cfg, weights, epoch, path, record):
        if epoch == 1:
            time.sleep(0.5)
            save_best(cfg, weights, epoch, path, record)

    monkeypatch.setattr(run_module, "save_run", late)
    monkeypatch.setattr(run_module, "save_generator", late_best)
    at_step(12, lambda losses: begun.wait())  # or else the checkpoint of epoch 2 takes the place of the one before
    train(small("two", n_epochs=2, best_by="val_l1"))
    one, two = end_of(small("one")), end_of(small("two"))
    assert len(one.pop("history")) == len(two.pop("history")) == 1  # in which an MS-SSIM is NaN: the images are small
    assert two["epoch"] == 1 and same(one, two)
    best = load_tensors(small("two").out_dir / "best.pth.tar")
    assert best["epoch"] == 1 and same(best["state_dict"], one["state"]["gen"])


def test_the_start_tells_the_memory_of_what_is_there_already(small, capsys):
    """Weights, gradients, as large as they, and both moments: of a large network more than many a GPU has."""
    cfg = small(n_epochs=1)
    train(cfg)
    told = float(capsys.readouterr().out.split("parameters, which take ")[1].split(" GB")[0])
    state, x = fresh_state(cfg), torch.rand(1, 3, 64, 64)
    train_step(state, x, x, 100.0, nullcontext)
    weights = [p for net in (state.gen, state.disc) for p in net.parameters()]
    adam = [each for opt in (state.opt_g, state.opt_d) for each in opt.state.values()]
    moments = [each[name] for each in adam for name in ("exp_avg", "exp_avg_sq")]
    held = [*weights, *(p.grad for p in weights), *moments]
    assert told == pytest.approx(sum(t.nbytes for t in held) / 1e9, rel=0.05)
