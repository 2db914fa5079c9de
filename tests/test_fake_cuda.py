"""What runs on CUDA, run without a GPU: of fake tensors torch keeps shape, type and device, and computes no values.

A mixture of devices is an error here as it is there; so is reading a value, which there would wait for the device.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import fresh_state
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from generator import Generator
from hd.networks import make_networks
from inference.translate import Noise, Translator
from inference.validation import Validation
from runtime.distributed import Ranks
from runtime.signals import Stop
from runtime.speed import choose_levers
from runtime.state import State, on_cpu, snapshot
from train import train_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
LR = 2e-4
RATE = torch.tensor(LR)  # not fake


def convert(self, act, recurse=True):
    """nn.Module._apply, which would exchange the insides of parameters: those of fake ones cannot be."""
    for child in self.children():
        child._apply(act)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            self._parameters[name] = nn.Parameter(act(parameter.detach()), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        self._buffers[name] = act(buffer)
    return self


@torch.no_grad()
def backward(loss):
    """Tensor.backward, whose engine would ask the driver for streams."""
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for after, _ in node.next_functions:
                if after:
                    visit(after)
            order.append(node)

    visit(loss.grad_fn)
    grads = {node: [None] * len(node._input_metadata) for node in order}
    grads[loss.grad_fn][0] = torch.ones_like(loss)
    for node in reversed(order):
        for i, (grad, wanted) in enumerate(zip(grads[node], node._input_metadata, strict=True)):
            assert grad is None or grad.device == wanted.device
            grads[node][i] = None if grad is None else grad.to(wanted.dtype)
        act = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node  # Python's or C++'s
        results = act(*grads[node])
        for grad, (after, i) in zip(results if isinstance(results, tuple) else [results], node.next_functions,
                                    strict=False):  # nothing comes after a parameter
            if after and grad is not None:
                grads[after][i] = grad if grads[after][i] is None else grads[after][i] + grad


def fused_adam(*lists, lr, grad_scale=None, found_inf=None, **numbers):
    """The CUDA kernel's demands; torch knows none for fake tensors where the rate is a tensor too."""
    for tensor in leaves([*lists, lr, grad_scale, found_inf]):
        assert tensor.device == CUDA and tensor.dtype == torch.float32


@pytest.fixture
def fake(monkeypatch):
    """A mode in which tensors are fake. Replaced is what asks the driver, and what fake tensors cannot do."""
    make = torch.tensor

    def tensor(value, **options):
        made = make(value, **options)
        if value == LR:
            made.constant = RATE  # Adam checks it when it is made
        return made

    monkeypatch.setattr(nn.Module, "_apply", convert)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "_fused_adam_", fused_adam)
    monkeypatch.setattr(FakeTensor, "__deepcopy__", lambda self, memo: self.clone(), raising=False)  # has no memory
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(16, dtype=torch.uint8))
    for module in (torch, torch.cuda):
        monkeypatch.setattr(module, "set_rng_state", lambda *_: None)
    return FakeTensorMode(allow_non_fake_inputs=True)  # a file's tensors are real, on the CPU


def cuda_state(cfg, dtype, **changes):
    """A fresh state on CUDA; from now on, no value can be read, not even the learning rate."""
    levers = replace(choose_levers(cfg.speed, CUDA, dtype), **changes)
    state = State.begin(*make_networks(cfg), cfg, CUDA, dtype, levers)
    for optimiser in (state.opt_g, state.opt_d):
        if isinstance(optimiser.param_groups[0]["lr"], torch.Tensor):
            optimiser.param_groups[0]["lr"].constant = None
    return state


def images(n=1, device=CUDA):
    return torch.empty(n, 3, 64, 64, device=device)


def autocast_to(dtype):
    return nullcontext if dtype == torch.float32 else partial(torch.autocast, "cuda", dtype)


def seen(state, x, y, dtype):
    """The types of what the convolutions give in one step, whose losses must be on CUDA, in fp32."""
    types = set()
    for net in (state.gen, state.disc):
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    losses = train_step(state, x, y, 100.0, autocast_to(dtype))
    assert {(loss.device, loss.dtype, loss.shape) for loss in losses.values()} == {(CUDA, torch.float32, ())}
    return types


def leaves(value):
    if isinstance(value, dict | list | tuple):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in leaves(inner)]
    return [value] if isinstance(value, torch.Tensor) else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.long
def test_a_step_on_cuda_leaves_nothing_on_the_cpu_and_reads_no_value(small, fake, dtype):
    """Such as a counter, a label or a rate made without its device; or an .item() that stalls every step."""
    with fake:
        state = cuda_state(small(), dtype)
        state.set_rate(1e-4)
        assert seen(state, images(), images(), dtype) == {dtype}
        assert {tensor.device for tensor in tensors_of(state)} == {CUDA}


def tensors_of(state):
    """All that a step changes, the gradients too."""
    nets = [tensor for net in (state.gen, state.disc) for tensor in net.state_dict().values()]
    grads = [p.grad for net in (state.gen, state.disc) for p in net.parameters()]
    moments = leaves([dict(optimiser.state) for optimiser in (state.opt_g, state.opt_d)])
    assert len(moments) == 3 * len(grads)  # of each parameter: two, and the count of steps
    return nets + grads + moments


@pytest.fixture
def saved(small):
    """What a checkpoint of a run on the CPU holds."""
    state = fresh_state(small())
    train_step(state, images(device=CPU), images(device=CPU), 100.0, nullcontext)
    return on_cpu(state.state_dict())


@pytest.mark.parametrize("changes", [{}, dict(fused_adam=False), dict(cuda_graph=False, channels_last=False)])
@pytest.mark.long
def test_a_run_that_began_on_the_cpu_goes_on_on_cuda(small, saved, fake, changes):
    """A checkpoint holds CPU tensors: a moment, a count or a rate that stays there fails in the next step."""
    with fake:
        state = cuda_state(small(), torch.bfloat16, **changes)
        state.load_state_dict(saved)
        state.set_rate(1e-4)
        seen(state, images(), images(), torch.bfloat16)
        assert {tensor.device for tensor in tensors_of(state)} == {CUDA}
        copies = snapshot(state.state_dict())
        assert CUDA in {tensor.device for tensor in leaves(copies)}  # the writer's thread brings them to the CPU
        assert {tensor.device for tensor in leaves(on_cpu(copies))} == {CPU}


def test_validation_on_cuda_reads_one_value_an_epoch(small, fake, monkeypatch):
    class Pairs(list):
        data, skipped = range(3), 0

    read = []
    monkeypatch.setattr(torch.Tensor, "item", lambda self: read.append(self.device) or 0.5)
    with fake:
        state, ranks = cuda_state(small(), torch.bfloat16), Ranks(CUDA)
        read.clear()
        batches = Pairs([(images(2), images(2)), (images(), images())])
        scores, rows = Validation(small(), ranks, autocast_to(torch.bfloat16))(state.gen, batches, 1, Stop(ranks))
        assert read == [CUDA] and list(scores) == ["val_l1"]
        assert len(rows) == 3 and {image.device for image in leaves(rows)} == {CPU}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [{}, dict(tile=64)])
@pytest.mark.long
def test_inference_on_cuda_takes_images_there_and_brings_them_back(fake, monkeypatch, precision, options):
    monkeypatch.setattr(Noise, "begin", lambda self, seed, device: setattr(self, "source", None))  # asks the driver
    with fake:
        translator = Translator(Generator(ngf=8, crop_size=64).to(CUDA), precision=precision, **options)
        y_fake = translator.tensor(torch.empty(2, 3, 96, 100, dtype=torch.uint8))
        assert (y_fake.device, y_fake.dtype, y_fake.shape) == (CPU, torch.float32, (2, 3, 96, 100))


def test_devices_that_mix_and_values_that_are_read_are_found(small, fake):
    with fake:
        state = cuda_state(small(), torch.float32)
        with pytest.raises(RuntimeError, match="cuda:0.*cpu|cpu.*cuda:0"):
            train_step(state, images(), images(device=CPU), 100.0, nullcontext)
        with pytest.raises(DataDependentOutputException):
            images().mean().item()
