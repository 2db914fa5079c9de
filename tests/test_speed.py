import copy
import ctypes
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import fresh_state, printed_by, stacked
from torch import nn

from discriminator import Discriminator
from generator import Generator
from hd.networks import make_networks
from inference.load import load_generator
from inference.translate import Translator
from runtime.devices import seed_step, use_device, use_precision, use_seed, without_cudnn_benchmark
from runtime.logger import LOSSES
from runtime.speed import (
    WARM_UP,
    Adam,
    GraphedStep,
    Levers,
    SmallConv,
    SmallConvTranspose,
    choose_levers,
    copy_in,
    prepare,
)
from runtime.state import State, on_cpu, snapshot
from runtime.writer import Writer
from train import train, train_step

CPU = torch.device("cpu")
fp32 = partial(torch.autocast, "cpu", enabled=False)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 6, 2, 2), (3, 6, 4, 8), (1, 6, 64, 64), (1, 6, 1, 1), (2, 6, 5, 7)])
def test_a_small_convolution_as_a_product_is_the_same_function(kind, bias, shape):
    if kind is nn.Conv2d and shape[-1] == 1:
        shape = (1, 6, 2, 4)
    plain = kind(6, 5, 4, stride=2, padding=1, bias=bias).double()
    quick = nn.Sequential(copy.deepcopy(plain))
    prepare(quick, Levers(True, False, True, False, False))
    assert type(quick[0]) in (SmallConv, SmallConvTranspose) and list(quick.state_dict()) == [
        f"0.{name}" for name in plain.state_dict()]
    x = torch.randn(shape, dtype=torch.double)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [net(each) for net, each in zip((plain, quick), inputs, strict=True)]
    weigh = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weigh).sum().backward()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for a, b in zip(plain.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.float()(x.float()).dtype == quick.float()(x.float()).dtype == torch.bfloat16


def test_products_are_taken_for_small_inputs_only_and_from_matching_layers_only(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    prepare(net, Levers(True, False, True, False, False))
    assert [type(layer) for layer in net] == [SmallConv, nn.Conv2d]
    called = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: called.append(x.shape))
    net[0](torch.zeros(1, 3, 32, 32))
    assert not called
    net[0](torch.zeros(1, 3, 34, 32))
    assert len(called) == 1
    # PyTorch's InstanceNorm makes its input contiguous on the CPU: pix2pixHD took 15 % longer
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=2, padding=1), nn.InstanceNorm2d(8))
    prepare(net, Levers(True, False, True, False, False))
    assert type(net[0]) is nn.Conv2d and net[0].weight.is_contiguous()


def test_a_norm_gets_a_dense_gradient():
    """Behind a skip connection it is half of another's: on the CPU, BatchNorm then took ten times as long."""
    net = nn.Sequential(nn.Conv2d(3, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8))
    prepare(net, Levers(True, False, True, False, False))
    x = torch.randn(2, 3, 16, 16)
    y = net(x)
    seen = []
    y.register_hook(seen.append)
    weigh = torch.randn(2, 16, 8, 8)
    (torch.cat([y, y.detach()], dim=1) * weigh).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last) and torch.equal(seen[0], weigh[:, :8])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_adam_is_pytorchs_to_the_bit_and_copies_no_gradient(layout):
    """Whatever the layout of its gradients, which PyTorch's fused one reads in the order of the weights' memory."""
    from torch.profiler import ProfilerActivity, profile

    torch.manual_seed(0)
    start, grads = torch.randn(8, 6, 4, 4), torch.randn(3, 8, 6, 4, 4)
    ends, copies = [], []
    for kind in (torch.optim.Adam, Adam):
        weight, bias = nn.Parameter(start.clone(memory_format=torch.channels_last)), nn.Parameter(torch.zeros(8))
        optimiser = kind([weight, bias], 0.1, fused=True)
        for grad in grads:
            weight.grad = grad.to(memory_format=torch.channels_last if kind is torch.optim.Adam else layout)
            bias.grad = grad[:, 0, 0, 0].contiguous()
            with profile(activities=[ProfilerActivity.CPU]) as found:
                optimiser.step()
        state = optimiser.state_dict()["state"][0]
        ends.append([weight, bias, *(state[name] for name in ("step", "exp_avg", "exp_avg_sq"))])
        copies.append(sum(event.name == "aten::clone" for event in found.events()))
    assert all(map(torch.equal, *ends)) and weight.is_contiguous(memory_format=torch.channels_last)
    assert layout != torch.channels_last or copies == [1, 0]


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_is_kept_is_not_filled_with_zeros_again():
    program = """
import sys, resource, torch
from runtime.speed import choose_levers
if sys.argv[1] == "kept": choose_levers("auto", torch.device("cpu"), torch.float32).use()
for i in range(30):  # the heap grows at first
    if i == 20: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, usual = (int(printed_by(program, word)) for word in ("kept", "usual"))
    assert kept < usual / 10


def test_twenty_steps_with_the_levers_equal_twenty_plain_ones(larger, monkeypatch):
    """In float64: in fp32, Adam makes of a rounding a difference of up to 0.1 % after twenty steps."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def losses_of(levers, **changes):
        cfg = larger(dropout=0.0, ngf=8, ndf=8, **changes)
        torch.manual_seed(0)
        state = State.begin(*make_networks(cfg), cfg, CPU, torch.float32, levers)
        for net in (state.gen, state.disc):
            net.double()
        x, y = torch.rand(2, 2, 3, 64, 64, dtype=torch.double) * 2 - 1
        return torch.stack([stacked(train_step(state, x, y, 100.0, nullcontext)) for _ in range(20)])

    plain = losses_of(Levers())
    fast = losses_of(replace(choose_levers("auto", CPU, torch.float32), channels_last=True))
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=0)
    assert not torch.allclose(losses_of(Levers(), lr=1.999e-4), plain, rtol=1e-6, atol=0)


def test_each_word_pulls_its_levers():
    cpu = Levers(True, False, True, False, False, keep_memory=True)
    assert choose_levers("auto", CPU, torch.bfloat16) == choose_levers("auto", CPU, torch.float32) == cpu
    cuda = torch.device("cuda")
    assert choose_levers("auto", cuda, torch.bfloat16) == Levers(True, True, False, False, True)
    assert choose_levers("deterministic", cuda, torch.bfloat16) == Levers(True, True, False, False, True)
    assert choose_levers("compile", CPU, torch.bfloat16) == replace(cpu, compile=True)
    assert not choose_levers("auto", cuda, torch.float16).cuda_graph
    assert not choose_levers("auto", cuda, torch.bfloat16, world=2).cuda_graph
    assert choose_levers("plain", cuda, torch.bfloat16) == Levers(False, False, False, False, False)


class Recorder:
    """Stands in for CUDA: records the step and runs it again at each replay, into the same result."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, act):
        self.recorded += 1
        result = torch.zeros(4)

        def replay():
            self.replayed += 1
            result.copy_(act())

        return replay, result


def test_a_graph_is_recorded_once_and_every_batch_is_trained_on_once(larger):
    """The first steps are real ones, batches of another shape run eagerly, replays read the newest batch and rate."""
    plain, graphed = (fresh_state(larger(dropout=0.0)) for _ in range(2))
    graphed.load_state_dict(copy.deepcopy(plain.state_dict()))
    recorder = Recorder()
    step = GraphedStep(lambda x, y: train_step(graphed, x, y, 100.0, fp32), recorder)
    kept = []
    for i in range(12):
        torch.manual_seed(i)
        x, y = torch.rand(2, 1 if i == 7 else 2, 3, 64, 64) * 2 - 1
        for state in (plain, graphed):
            state.set_rate(2e-4 / (1 + i))
        kept.append((stacked(step(x, y)), stacked(train_step(plain, x, y, 100.0, fp32))))
    assert recorder.recorded == 1 and recorder.replayed == 12 - WARM_UP - 1
    torch.testing.assert_close(*map(torch.stack, zip(*kept, strict=True)))  # losses do not change under the hands
    for a, b in zip(plain.gen.parameters(), graphed.gen.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_graph_waits_for_a_shape_that_repeats():
    """Resumed at an epoch's last, smaller batch, the graph must not be of that shape."""
    recorder = Recorder()
    step = GraphedStep(lambda x, y: dict(zip(LOSSES, torch.zeros(4), strict=True)), recorder)
    for n in (1, 4, 4, 1, 4):  # three calls of a shape, whatever came between them
        step(torch.zeros(n, 1), torch.zeros(n, 1))
    assert recorder.recorded == 0
    step(torch.zeros(4, 1), torch.zeros(4, 1))
    assert recorder.recorded == 1 and len(step.x) == 4


def test_where_recording_fails_the_run_goes_on_without_a_graph(larger, capsys):
    """Nothing is lost or trained on twice; D is not left frozen by the recording that broke off."""
    def fails(act):
        def refuse(*args):
            raise RuntimeError("not permitted")

        before = copy.deepcopy(state.state_dict())
        try:
            with state.opt_g.register_step_pre_hook(refuse):  # while D is frozen
                return act()
        finally:
            state.load_state_dict(before)  # CUDA records without computing

    plain, state = (fresh_state(larger(dropout=0.0)) for _ in range(2))
    state.load_state_dict(copy.deepcopy(plain.state_dict()))
    step = GraphedStep(lambda x, y: train_step(state, x, y, 100.0, fp32), fails)
    x, y = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    for _ in range(6):
        assert step(x, y) == train_step(plain, x, y, 100.0, fp32)
    assert capsys.readouterr().out == "no CUDA graph: not permitted\n"


def test_no_step_leaves_a_gradients_node_to_the_next(larger):
    """It would remember the stream of the warm-up, and a recording on another one break off."""
    def node(p):  # the one that is alive, or a new one
        return p.expand_as(p).grad_fn.next_functions[0][0].metadata

    def mark(optimiser, *_):
        for p in optimiser.param_groups[0]["params"]:
            node(p)["used"] = True
            alive.append("used" in node(p))

    state, alive = fresh_state(larger()), []
    optimisers = (state.opt_g, state.opt_d)
    for optimiser in optimisers:
        optimiser.register_step_pre_hook(mark)
    losses = train_step(state, *torch.rand(2, 1, 3, 64, 64), 100.0, fp32)
    parameters = [p for optimiser in optimisers for p in optimiser.param_groups[0]["params"]]
    assert len(alive) == len(parameters) and all(alive)  # inside the step they are all found
    assert not any("used" in node(p) for p in parameters) and losses["g_l1"].grad_fn is None


@pytest.mark.slow
def test_compiled_networks_keep_their_names_and_results(larger, monkeypatch):
    """In place; the compiler itself is replaced by one that compiles nothing."""
    compiled = []

    def compile(self, **options):
        compiled.append(type(self))
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile)
    cfg = larger(n_epochs=1, speed="compile")
    train(cfg)
    assert compiled == [Generator, Discriminator]
    saved = torch.load(cfg.out_dir / "gen.pth.tar", weights_only=True)
    assert saved["state_dict"].keys() == Generator(3, 3, 4, 64).state_dict().keys()


def test_the_rate_is_changed_in_place_where_it_is_a_tensor(larger):
    state = fresh_state(larger())
    rate = state.opt_g.param_groups[0]["lr"] = torch.tensor(1.0)
    state.set_rate(0.25)
    assert rate.item() == 0.25 and state.opt_d.param_groups[0]["lr"] == 0.25


# On a GPU

@pytest.fixture
def exact(larger):
    """Losses of n steps on CUDA from one seed, through a graph or not, and the state they leave: equal to the bit."""
    def run(graph, rates, **changes):
        cfg, device = larger(ngf=16, ndf=16, **changes), use_device("cuda")
        dtype = use_precision(cfg.precision, device)
        use_seed(0, deterministic=True)
        levers = choose_levers(cfg.speed, device, dtype)
        assert levers.cuda_graph
        # Its Adam and its rate are those of a graph, also without one
        state = State.begin(*make_networks(cfg), cfg, device, dtype, levers)
        autocast = nullcontext if dtype == torch.float32 else partial(torch.autocast, "cuda", dtype)
        step = partial(train_step, state, lambda_l1=100.0, autocast=autocast)
        step, losses, writer = GraphedStep(step) if graph else step, [], Writer(device)
        for i, rate in enumerate(rates):
            torch.manual_seed(i)
            x, y = (torch.rand(2, 1 if i == 9 else 2, 3, 64, 64) * 2 - 1).to(device)
            state.set_rate(rate)
            seed_step(0, 0, 1, i, device)
            losses.append(stacked(step(x, y)))
            if i == 8:  # what comes between two epochs
                with torch.no_grad(), state.gen.test_time(), without_cudnn_benchmark(), autocast():
                    losses.append(state.gen(x).float().mean().expand(4))
                writer.submit("copy", on_cpu, snapshot(state.state_dict()))
        writer.pool.shutdown()
        writer.check(wait=True)
        assert not graph or step.replay
        return torch.stack(losses).cpu(), on_cpu(state.state_dict())

    yield run
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_computes_what_eager_steps_compute_to_the_bit(exact, same, precision):
    """With dropout, a smaller batch among the others, and a rate that changes."""
    rates = [2e-4] * 8 + [1e-3] * 12
    eager, graph = (exact(graph, rates, precision=precision) for graph in (False, True))
    assert same(eager, graph)
    assert not torch.equal(exact(True, [2e-4] * 20, precision=precision)[0], graph[0])


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_a_run_on_the_gpu_resumes_to_the_bit(larger, same, end_of, exact, precision):
    changes = dict(device="cuda", precision=precision, n_epochs=3, speed="deterministic")
    for cfg in (larger("straight", **changes), larger("halves", **{**changes, "n_epochs": 2}),
                larger("halves", resume=True, **changes)):
        train(cfg)
    assert same(end_of(larger("straight")), end_of(larger("halves")))


def test_weights_cast_once_give_what_autocast_gives():
    gen = Generator(ngf=8, crop_size=64, dropout=0.0).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), gen.test_time():
        wanted = gen(x)
        assert torch.equal(copy_in(gen, torch.bfloat16)(x), wanted)


def test_weights_of_a_run_stay_channels_last_where_they_are_used(larger):
    """To make a generator's file contiguous again took as much memory again; in this layout products are quicker."""
    cfg = larger(n_epochs=1)
    train(cfg)
    gen = load_generator(cfg.out_dir / "gen.pth.tar")
    exact = Translator(gen, precision="fp32").exact
    kernels = [[p for p in net.parameters() if p.dim() == 4] for net in (gen, exact)]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels[0])
    assert [p.data_ptr() for p in kernels[0]] == [p.data_ptr() for p in kernels[1]]
    assert type(exact.encoder[1][1]) is SmallConv and type(gen.encoder[1][1]) is nn.Conv2d
    usual = Translator(copy.deepcopy(gen).to(memory_format=torch.contiguous_format), precision="fp32")
    assert type(usual.exact.encoder[1][1]) is nn.Conv2d
    x = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(Translator(gen, precision="fp32").tensor(x), usual.tensor(x), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_other_levers_than_it_began_with(larger):
    """Fused Adam goes through memory without looking at strides: in another layout, moments would be mixed up."""
    cfg = larger(dropout=0.0)
    levers = [Levers(fused_adam=True), Levers(channels_last=True), Levers(fused_adam=True, channels_last=True)]
    first, *others = (State.begin(*make_networks(cfg), cfg, CPU, torch.float32, each) for each in levers)
    x, y = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    for _ in range(3):
        train_step(first, x, y, 100.0, fp32)
    for other in others:
        other.load_state_dict(copy.deepcopy(first.state_dict()))
    for state in (first, *others):
        train_step(state, x, y, 100.0, fp32)
    assert [state.opt_g.param_groups[0]["fused"] for state in others] == [None, True]
    for other in others:
        for a, b in zip(first.gen.parameters(), other.gen.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
            moments = other.opt_g.state[b]
            assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == b.stride()
