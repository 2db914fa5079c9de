import contextlib
import copy
import csv
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, children_of, flags, fresh_state, launch, make_data, wait_until, write_pair
from torch import nn

import train as train_module
from dataset import load_data
from generator import Generator
from pairs.download import ensure_dataset
from pairs.loading import EpochSampler
from runtime import distributed, files
from runtime.checkpoint import load_tensors
from runtime.distributed import Ranks, wait_for
from runtime.signals import Stop
from train import bce, train
from utils import DataError, UserError

linux = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks in /proc")


def torchrun(*args, n=2, launcher=("--standalone",)):
    return launch("-m", "torch.distributed.run", *launcher, "--nproc-per-node", n, *args, cwd=ROOT)


def finish(process, timeout=120):
    """Status, output and errors; a job that hangs is a failure."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the job hangs: {process.communicate()}")
    return process.returncode, out, err


def weights(run):
    return load_tensors(run / "checkpoint.pth.tar", "pix2pix checkpoint")["state"]


def ranks_of(process):
    """The process ids of the ranks, by rank."""
    found = {}
    for pid in children_of(process.pid):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
            found |= {int(item.removeprefix("RANK=")): pid for item in environment if item.startswith("RANK=")}
    return found


@pytest.fixture
def endless(data, tmp_path):
    """Starts a run of two processes that would go on for ever, and returns once `file` is in its folder."""

    def start(file, *args, **changes):
        run = tmp_path / "run"
        process = torchrun(*(args or ["train.py"]), *flags(data, run, n_epochs=10**5, **changes))
        wait_until((run / file).exists, lambda: process.poll() is None)
        return process, run

    return start


@pytest.mark.parametrize(("length", "world", "start"), [(10, 2, 0), (11, 2, 0), (11, 4, 0), (11, 3, 4), (5, 4, 4)])
def test_every_process_takes_its_own_pairs_and_only_the_padding_comes_twice(length, world, start):
    alone = EpochSampler(length, seed=0)
    shards = [EpochSampler(length, 0, rank, world) for rank in range(world)]
    for sampler in (alone, *shards):
        sampler.epoch, sampler.start = 3, start
    wanted, taken = list(alone), [list(shard) for shard in shards]
    assert {len(each) for each in taken} == {len(shards[0])}
    interleaved = [key for step in zip(*taken, strict=True) for key in step]
    assert interleaved[: len(wanted)] == wanted and len(interleaved) - len(wanted) < world


def test_one_process_on_a_machine_makes_the_data_and_the_others_wait(monkeypatch):
    for name, value in dict(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1", MASTER_ADDR="localhost", MASTER_PORT="1").items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr("pairs.download.wait_for", waited.append)
    ensure_dataset(Path("data/demo"))
    ensure_dataset(Path("data/mine"))
    assert waited == [Path("data/demo")] and not list(Path().iterdir())


def test_nobody_waits_for_data_that_nobody_makes(tmp_path, monkeypatch):
    """The process that makes it is known by the lock in its temporary folder; it may take as long as it likes."""
    monkeypatch.setattr(distributed, "TIMEOUT", timedelta(seconds=0.3))
    with files.complete_folder(tmp_path / "data"):
        waiting = threading.Thread(target=wait_for, args=(tmp_path / "data", 0.02), daemon=True)
        waiting.start()
        time.sleep(0.6)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()
    with pytest.raises(ConnectionError, match="other is not there: the process that was to make it has ended"):
        wait_for(tmp_path / "other", 0.02)


@pytest.mark.parametrize(("left", "told"), [
    ({"WORLD_SIZE": ""}, None), ({"WORLD_SIZE": "1", "RANK": "3"}, None),
    ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but RANK, MASTER_ADDR, MASTER_PORT is not set: start several processes"),
    ({"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "here"}, "but MASTER_PORT is not set"),
    ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four' in the environment, and must be a number"),
    ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, "RANK is '-1'"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}, "processes need CUDA or")])
def test_what_launchers_leave_is_one_process_or_a_sentence(monkeypatch, left, told):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    if told:
        monkeypatch.setattr(distributed, "use_device", torch.device)
        with pytest.raises(UserError, match=told), distributed.processes("mps"):
            pass
    else:
        with distributed.processes("cpu") as ranks:
            assert (ranks.rank, ranks.world) == (0, 1)


STEPS = """
import sys, torch
from contextlib import nullcontext
sys.path.insert(0, {root!r})
sys.path.insert(0, {root!r} + "/tests")
from config import Config
from conftest import fresh_state
from runtime.distributed import processes
from train import step_for

cfg = Config(**{settings!r})
with processes("cpu") as ranks:
    torch.manual_seed(0 if ranks.main else {other})
    state = fresh_state(cfg)
    replicas = ranks.replicate(state)
    step = step_for(cfg, replicas, nullcontext)
    kept = []
    for x, y in torch.load({samples!r}, weights_only=True):
        step(x[ranks.rank :: ranks.world], y[ranks.rank :: ranks.world])
        nets = [*state.gen.parameters(), *state.disc.parameters()]
        mine = [p.detach().clone() for p in nets]
        for other in ranks.all_gather(mine):
            assert all(map(torch.equal, mine, other)), "replicas differ"
        kept.append([p.grad.clone() for p in nets])
    if ranks.main:
        torch.save({{"weights": mine, "gradients": kept[0]}}, {out!r})
"""


def take_steps(tmp_path, cfg, samples, n=2, other=0):
    """The weights and the first gradients of n processes that share (steps, x and y, images, ...).

    other: the seed of those that are not the main one.
    """
    torch.save(samples, tmp_path / "samples.pt")
    script = tmp_path / "steps.py"
    script.write_text(STEPS.format(root=str(ROOT), settings=cfg.plain(), samples=str(tmp_path / "samples.pt"),
                                   out=str(tmp_path / "out.pt"), other=other))
    status, _, err = finish(torchrun(script, n=n))
    assert status == 0, err
    return torch.load(tmp_path / "out.pt", weights_only=True)


@pytest.mark.long
def test_replicas_stay_equal_and_average_the_gradients(small, tmp_path):
    """After every step to the bit; the gradients are those of one process that averages the same two samples."""
    torch.manual_seed(1)
    samples = torch.rand(4, 2, 2, 3, 64, 64) * 2 - 1  # steps, x and y, processes
    cfg = small(dropout=0.0)
    found = take_steps(tmp_path, cfg, samples, other=5)  # another start would be noticed
    torch.manual_seed(0)
    state = fresh_state(cfg)
    gen, disc = state.gen, state.disc
    for i, (xs, ys) in enumerate(samples):
        pair = [*zip(xs, ys, strict=True)]
        fakes = [gen(x[None]) for x in xs]
        state.opt_d.zero_grad()
        for (x, y), fake in zip(pair, fakes, strict=True):
            ((bce(disc(x[None], y[None]), 1.0) + bce(disc(x[None], fake.detach()), 0.0)) / 2 / 2).backward()
        state.opt_d.step()
        state.opt_g.zero_grad()
        disc.requires_grad_(False)
        for (x, y), fake in zip(pair, fakes, strict=True):
            ((bce(disc(x[None], fake), 1.0) + 100 * F.l1_loss(fake, y[None])) / 2).backward()
        state.opt_g.step()
        disc.requires_grad_(True)
        if i == 0:
            for a, b in zip(gen.parameters(), found["gradients"], strict=False):  # D's come behind
                torch.testing.assert_close(a.grad, b, rtol=1e-3, atol=1e-5)
    for a, b in zip([*gen.parameters(), *disc.parameters()], found["weights"], strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0.05, atol=5e-4)


@pytest.mark.long
def test_runs_of_one_and_of_two_processes_continue_each_other(small):
    """1 → 2 → 1: the same files, no prefixes, and the log goes on."""
    run = small().out_dir
    train(small(n_epochs=1))
    before = {path.name for path in run.iterdir()}
    status, out, err = finish(torchrun("train.py", "--resume", "--out-dir", run, "--n-epochs", 2))
    assert status == 0, err
    assert "batch 1, processes 2" in out and out.count("epoch 2/2") == 1  # one process prints
    train(small(n_epochs=3, resume=True))
    assert {path.name for path in run.iterdir()} == before
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    saved = weights(run)
    assert saved["gen"].keys() == Generator(3, 3, 4, 32).state_dict().keys()
    steps = [state["step"].item() for state in saved["opt_g"]["state"].values()]
    assert set(steps) == {6 + 3 + 6}  # six pairs: two processes take three steps


@pytest.mark.slow
def test_validation_does_not_depend_on_the_number_of_processes(small, data):
    for i in range(5):
        write_pair(data / "val" / f"more{i}.png", seed=300 + i)
    changes = dict(n_epochs=1, lr=1e-12, best_by="facades", label_side="B")  # nothing is learnt
    one, two = small("one", **changes), small("two", **changes)
    train(one)
    status, _, err = finish(torchrun("train.py", *flags(data, two.out_dir, **changes)))
    assert status == 0, err
    alone, together = (load_tensors(cfg.out_dir / "checkpoint.pth.tar")["history"][0] for cfg in (one, two))
    for name in ("val_l1", "val_psnr", "val_ssim", "val_label_accuracy"):
        assert alone[name] == pytest.approx(together[name], rel=1e-4)
    grids = [(cfg.out_dir / "examples" / "epoch_0001.png").read_bytes() for cfg in (one, two)]
    assert len(grids[0]) == pytest.approx(len(grids[1]), rel=0.01)


@pytest.mark.slow
def test_two_nodes_train_together(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [torchrun("train.py", *flags(data, tmp_path / "run", n_epochs=1), n=1,
                      launcher=("--nnodes", 2, "--node-rank", i, "--master-addr", "127.0.0.1", "--master-port", port))
             for i in range(2)]
    ends = [finish(node) for node in nodes]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert "processes 2" in ends[0][1] and ends[1][1] == ""
    assert weights(tmp_path / "run").keys() == {"gen", "disc", "opt_g", "opt_d", "scaler"}


@pytest.fixture(scope="module")
def undisturbed_by_two(tmp_path_factory):
    """The weights at the end of a run of two processes, of ten epochs."""
    folder = tmp_path_factory.mktemp("two")
    status, _, err = finish(torchrun("train.py", *flags(make_data(folder / "data"), folder / "run", n_epochs=10)))
    assert status == 0, err
    return weights(folder / "run")


@pytest.mark.long
@linux
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_costs_nothing_under_max_restarts(data, tmp_path, undisturbed_by_two, rank, same):
    """torchrun starts both again; they go on from the last checkpoint and end as if nothing had happened."""
    run = tmp_path / "run"
    process = torchrun("--max-restarts", 2, "train.py", *flags(data, run, n_epochs=10, num_workers=rank), "--resume")
    wait_until((run / "gen.pth.tar").exists, lambda: process.poll() is None)
    os.kill(ranks_of(process)[rank], signal.SIGKILL)
    status, out, err = finish(process)
    assert status == 0, err
    assert "after epoch" in out and "resuming" in out
    assert same(undisturbed_by_two, weights(run))


@pytest.mark.slow
@linux
@pytest.mark.parametrize("who", ["rank 1", "agent", "all", "dead agent"])
def test_a_signal_stops_all_after_the_same_step_and_saves(endless, who):
    """Also where a scheduler signals the whole job, so that torchrun's own signals come on top."""
    process, run = endless("examples/epoch_0001.png", ngf=24)
    ranks = ranks_of(process)
    if "agent" in who or who == "all":
        process.send_signal(signal.SIGKILL if "dead" in who else signal.SIGTERM)
    for rank, pid in ranks.items():
        if who in (f"rank {rank}", "all"):
            os.kill(pid, signal.SIGUSR1)
    _, out, err = finish(process)
    assert "--resume continues there" in out, out + err
    assert load_tensors(run / "checkpoint.pth.tar")["epoch"] >= 1 and not list(run.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_breaks_on_one_rank_stops_all_and_saves(data, endless, split):
    process, _ = endless("gen.pth.tar")
    (data / split / "1.png").write_bytes(b"broken")
    status, out, err = finish(process, timeout=60)
    assert status != 0 and "1.png is no image" in err and "--resume continues there" in out, out + err


@pytest.mark.slow
@linux
def test_a_slow_disk_costs_no_save(endless, tmp_path):
    """The others wait for as long as the main process writes: here twice their patience for one another."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW_DISK.format(root=str(ROOT)))
    process, run = endless("examples/epoch_0001.png", script, best_by="val_l1")
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    _, out, err = finish(process)
    assert "--resume continues there" in out and "Timed out" not in err and "lost the others" not in err, out + err
    assert load_tensors(run / "checkpoint.pth.tar")["epoch"] >= 1


SLOW_DISK = """
import sys, time
sys.path.insert(0, {root!r})
from datetime import timedelta
import train
from runtime import distributed, run

distributed.TIMEOUT = timedelta(seconds=2)
save, best = run.save_run, run.save_generator
run.save_run = lambda *args: time.sleep(4) or save(*args)
run.save_generator = lambda *args: time.sleep(3) or best(*args)
train.run_main(train.main, several=True)
"""


def test_another_process_s_failure_is_a_failure_here(monkeypatch):
    monkeypatch.setattr(Ranks, "all_reduce", lambda self, values, op: [0, 1, 1])
    with pytest.raises(DataError, match="another process"):
        list(Stop(Ranks()).between([1]))


@pytest.mark.parametrize("split", ["train", "val"])
def test_pairs_that_differ_from_machine_to_machine_are_told_before_the_first_step(small, data, tmp_path, monkeypatch,
                                                                                  split):
    """Were they more, the processes would wait for steps that never come; if as many, some would never be seen."""
    there = shutil.copytree(data, tmp_path / "there")
    found = []
    monkeypatch.setattr(Ranks, "all_gather", lambda self, marks: found.append(marks) or found)
    for root in (data, there):
        load_data(small(data_root=root))[2].check_same(Ranks())
    (there / split / "0.png").rename(there / split / "renamed.png")
    with pytest.raises(UserError, match="process 2 has found other pairs in .*there than process 0"):
        train(small(data_root=there))
    assert not small().out_dir.exists()


def test_a_frozen_network_is_not_replicated(monkeypatch):
    """G's update reads D without averaging gradients that D does not have."""
    from runtime.distributed import Replica

    monkeypatch.setattr("runtime.distributed.DistributedDataParallel", lambda net, **options: copy.deepcopy(net))
    net = nn.Linear(1, 1)
    replica = Replica(net, None)
    with torch.no_grad():
        net.weight.fill_(100)
    x = torch.ones(1, 1)
    assert not torch.equal(replica(x), net(x))
    replica.requires_grad_(False)
    assert torch.equal(replica(x), net(x))


@pytest.mark.long
def test_dropout_is_drawn_by_the_position_in_the_run_and_apart_in_each_process(small, on_steps, monkeypatch):
    """What is drawn at a step depends on (seed, process, epoch, step) alone: nothing need be kept to resume exactly."""
    seeds = {}
    on_steps(lambda *_, **__: seeds.setdefault(rank, []).append(torch.initial_seed()))
    for rank in (0, 1):
        monkeypatch.setattr(train_module, "processes", lambda device, rank=rank: nullcontext(Ranks(rank=rank)))
        train(small(f"run{rank}"))
    assert len({*seeds[0], *seeds[1]}) == len(seeds[0]) + len(seeds[1]) > 20
    rank = "again"
    monkeypatch.setattr(train_module, "processes", lambda device: nullcontext(Ranks()))
    train(small("one", n_epochs=1))
    torch.manual_seed(99)
    train(small("one", n_epochs=2, resume=True))
    assert seeds["again"] == seeds[0]


def test_all_processes_train_with_the_settings_of_the_main_one(small, monkeypatch, capsys):
    """On another machine, --resume finds no settings: precision and all else must come from the main process."""
    def broadcast(self, act):
        found = act()
        return (replace(found[0], precision="bf16"), found[1]) if found else None

    monkeypatch.setattr(Ranks, "broadcast", broadcast)
    train(small(n_epochs=1, precision="fp32"))
    assert "\nprecision: bf16\n" in capsys.readouterr().out
