import sys
import traceback

import pytest
import torch

import evaluate
import predict
import train
from runtime import devices, distributed
from utils import UserError


class Reached(Exception):
    pass


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine with n GPUs: replaces what needs a driver, and lets all of torch's own Python run."""

    def make(n):
        calls, allocate = [0], torch.zeros

        def set_device(index):
            if not 0 <= index < n:
                raise RuntimeError("CUDA error: invalid device ordinal")
            calls.append(index)

        def zeros(*shape, device=None):
            cuda = torch.device(device).type == "cuda"
            assert not cuda or torch.device(device).index == calls[-1]  # else a context on another's device
            return allocate(*shape, device="cpu" if cuda else device)

        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
        for name, act in (("DeviceCount", lambda: n), ("Device", lambda: calls[-1])):
            monkeypatch.setattr(torch._C, f"_cuda_get{name}", act, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_setDevice", set_device, raising=False)
        monkeypatch.setattr(torch, "zeros", zeros)

    return make


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_every_program_gets_past_its_choice_of_a_cuda_device(small, monkeypatch, machine, name, index):
    """A device without an index is refused by torch.cuda.set_device, and is not equal to its tensors' own."""
    machine(2)

    def chosen(wanted, choose=devices.use_device):
        raise Reached(choose(wanted))

    for module, start in ((distributed, lambda: train.train(small(device=name))), (predict, predict.main),
                          (evaluate, evaluate.main)):
        monkeypatch.setattr(module, "use_device", chosen)
        monkeypatch.setattr(sys, "argv", ["program", "--checkpoint", "gen.pth.tar", "--device", name,
                                          *(["--data-root", "data"] if module is evaluate else
                                            ["--input", "a.png", "--output", "b.png"])])
        with pytest.raises(Reached) as reached:
            start()
        assert reached.value.args[0] == torch.device("cuda", index)


def test_each_process_gets_the_device_of_its_number_and_a_missing_one_is_named(monkeypatch, machine):
    machine(2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert devices.use_device("auto") == torch.device("cuda", rank)
    with pytest.raises(UserError, match="device must be cuda or auto, not cuda:0"):
        devices.use_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="'cuda:2' cannot be used: CUDA error: invalid device ordinal"):
        devices.use_device("auto")


def test_what_is_seeded_in_every_step_draws_as_torch_manual_seed_and_writes_no_call_stack_down(monkeypatch):
    cpu = torch.device("cpu")
    torch.manual_seed(7)
    wanted = torch.rand(3)
    monkeypatch.setattr(traceback, "format_stack", lambda *_, **__: pytest.fail("which takes milliseconds"))
    devices.seed_draws(7, cpu)
    assert torch.equal(torch.rand(3), wanted)
    devices.seed_step(0, 0, 1, 0, cpu)


def test_seeds_that_torch_cannot_take_and_devices_and_precisions_that_are_not_there_are_refused():
    cpu = torch.device("cpu")
    for seed in (2**32, 2**70, -1):
        with pytest.raises(UserError, match=f"seed must .* it is {seed}"):
            devices.check_seed(seed)
    devices.check_seed(2**32 - 1)
    devices.seed_draws(2**32 - 1, cpu)
    assert devices.use_device("cpu") == cpu
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda'"):
            devices.use_device("cuda")
    with pytest.raises(ValueError, match="fp16 needs CUDA"):
        devices.use_precision("fp16", cpu)
    with pytest.raises(UserError, match="precision must be auto, .* it is 'fp64'"):
        devices.use_precision("fp64", cpu)
    assert devices.use_precision("fp32", cpu) == torch.float32
    assert devices.use_precision("auto", cpu) in (torch.float32, torch.bfloat16)
