"""How fast the networks run, never what they compute."""

import copy
import ctypes
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from inspect import unwrap
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.console import say


@dataclass(frozen=True)
class Levers:
    """What is switched on, by default nothing; docs/speed.md says what each one brings."""

    fused_adam: bool = False  # one kernel for all parameters
    channels_last: bool = False  # the memory layout that tensor cores want
    small_matmul: bool = False  # for the CPU: channels-last, and convolutions over few positions as matrix products
    compile: bool = False  # torch.compile of both networks
    cuda_graph: bool = False  # a whole training step as one launch
    keep_memory: bool = False  # the process keeps what it frees, which the system would fill with zeros again

    def use(self) -> None:
        """Pulls the lever that is one of the whole process. Only glibc knows it; other systems go on as they are."""
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        if self.keep_memory and hasattr(libc, "mallopt"):
            trim_threshold, mmap_max = -1, -4  # of malloc.h
            libc.mallopt(mmap_max, 0)  # large blocks come from the heap as well
            libc.mallopt(trim_threshold, 2**31 - 1)


def choose_levers(speed: Literal["auto", "plain", "compile", "deterministic"], device: torch.device,
                  dtype: torch.dtype, world: int = 1) -> Levers:
    """The levers of a run: none of them, or what pays on the device."""
    if speed == "plain":
        return Levers()
    is_cuda = device.type == "cuda"
    is_cpu = device.type == "cpu"
    return Levers(
        fused_adam=True,
        channels_last=is_cuda and dtype != torch.float32,
        small_matmul=is_cpu,
        compile=speed == "compile",
        cuda_graph=is_cuda and world == 1 and dtype != torch.float16,  # a GradScaler may skip a step, a graph may not
        keep_memory=is_cpu,
    )


def prepare(net: nn.Module, levers: Levers) -> None:
    """Pulls the levers of a network, in place: its parameters, their names and its results stay what they are."""
    if levers.channels_last:
        net.to(memory_format=torch.channels_last)
    if levers.small_matmul:
        small_matmul(net)
    if levers.compile:
        net.compile()


def copy_in(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy with modules of its own for inference in `dtype`; parameters and buffers stay those of `net`.

    But for convolutions' weights in another type, which are cast here, once, and not by autocast in every call.
    """
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and dtype != torch.float32:
            for tensor in module.parameters(recurse=False):
                shared[id(tensor)] = nn.Parameter(tensor.detach().to(dtype), requires_grad=False)
    return copy.deepcopy(net, shared)


class Adam(torch.optim.Adam):
    """PyTorch's Adam, to the bit, without what it does besides.

    On the CPU, its fused kernel copies each gradient whose memory is channels-last, which takes three times as long as
    the update. So it gets such tensors with their dimensions in the order of memory.
    Five of its methods keep the compiler out, and the first call of any imports all of it for that: 0.14 GB.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))

    def _init_group(self, group: dict, params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor],
                    exp_avg_sqs: list[Tensor], *others: list[Tensor]) -> bool:
        has_complex = super()._init_group(group, params, grads, exp_avgs, exp_avg_sqs, *others)
        for i, parameter in enumerate(params):
            if is_channels_last(parameter) and is_channels_last(exp_avgs[i]) and is_channels_last(exp_avg_sqs[i]):
                grads[i] = grads[i].contiguous(memory_format=torch.channels_last)
                for tensors in (params, grads, exp_avgs, exp_avg_sqs):
                    tensors[i] = tensors[i].permute(0, 2, 3, 1)
        return has_complex


def is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


# Small convolutions as matrix products. Where an image is a few pixels wide, nearly all the time of a convolution goes
# into reading its weights, and the CPU's convolutions first reorder them: two to five times the work.

POSITIONS = 256  # of the smaller side, batch included; beyond, convolutions are faster (docs/speed.md)


class Patches(torch.autograd.Function):
    """The 4×4 pixels around each position, two pixels apart, as rows: (N, C, 2h, 2w) → (N·h·w, 16·C)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return to_rows(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return to_image(grad, ctx.shape)


class Overlaid(torch.autograd.Function):
    """An image in which what overlaps is summed: (N·h·w, 16·C) → `shape` (N, C, 2h, 2w), the transpose of Patches."""

    @staticmethod
    def forward(ctx, rows: Tensor, shape: torch.Size) -> Tensor:
        return to_image(rows, shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return to_rows(grad), None


def to_rows(x: Tensor) -> Tensor:
    n, c, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (N, 2h + 2, 2w + 2, C)
    patches = padded.unfold(1, 4, 2).unfold(2, 4, 2)  # (N, h, w, C, 4, 4)
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(n * height * width // 4, 16 * c)


def to_image(rows: Tensor, shape: torch.Size) -> Tensor:
    n, c, height, width = shape
    h, w = height // 2, width // 2
    patches = rows.reshape(n, h, w, 4, 4, c).transpose(2, 3)  # (N, h, 4, w, 4, C)
    padded = rows.new_zeros(n, height + 2, width + 2, c)
    for top in (0, 2):
        for left in (0, 2):  # a quarter of each patch; quarters of one kind do not overlap
            place = padded[:, top : top + height, left : left + width].view(n, h, 2, w, 2, c)
            place += patches[:, :, top : top + 2, :, left : left + 2]
    return padded[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)


class SmallConv(nn.Conv2d):
    """A convolution, 4×4, stride 2, padding 1, that is a product of matrices for at most POSITIONS outputs."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if n * height * width > 4 * POSITIONS or height % 2 or width % 2:
            return super().forward(x)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (out, 16·in)
        y = F.linear(Patches.apply(x), weight, self.bias)
        return y.view(n, height // 2, width // 2, self.out_channels).permute(0, 3, 1, 2)


class SmallConvTranspose(nn.ConvTranspose2d):
    """A transposed convolution, 4×4, stride 2, padding 1: a product of matrices for at most POSITIONS inputs."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if n * height * width > POSITIONS:
            return super().forward(x)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (in, 16·out)
        rows = x.permute(0, 2, 3, 1).flatten(0, 2) @ weight  # (N·H·W, 16·out)
        y = Overlaid.apply(rows, (n, self.out_channels, 2 * height, 2 * width))
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


SMALL = {nn.Conv2d: SmallConv, nn.ConvTranspose2d: SmallConvTranspose}


def small_matmul(net: nn.Module) -> None:
    """Makes a network channels-last, and its small convolutions products, unless InstanceNorm would undo the layout."""
    if any(isinstance(module, nn.InstanceNorm2d) for module in net.modules()):
        return
    net.to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(dense_gradient)
        small = SMALL.get(type(module))
        if small and (module.kernel_size, module.stride, module.padding) == ((4, 4), (2, 2), (1, 1)):
            module.__class__ = small


def dense_gradient(norm: nn.Module, inputs: tuple[Tensor], y: Tensor) -> None:
    """Lays out the gradient of y like y: with that of half a concatenation, BatchNorm takes ten times as long."""
    if y.requires_grad:
        y.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))


# CUDA graphs

WARM_UP = 3  # steps, in which cuDNN chooses its algorithms and Adam makes its state


Step = Callable[[Tensor, Tensor], dict[str, Tensor]]  # x, y → the losses by name


def graphed(step: Step, levers: Levers) -> Step:
    return GraphedStep(step) if levers.cuda_graph else step


class GraphedStep:
    """A training step as one launch: recorded after WARM_UP calls of one shape, replayed for every batch of it.

    The first steps, and batches of another shape such as an epoch's last, are computed the plain way; no step is
    computed twice, and none is lost. What the step reads from outside must be tensors that stay in place: weights,
    capturable Adam's state, its learning rate. Dropout goes on drawing: replays advance the device's generator.
    Where recording fails, the run goes on without a graph, and says so.
    """

    def __init__(self, step: Step, record: Callable | None = None):
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # in the warm-up
        self.step = step
        self.record = record or record_graph
        self.replay = None
        self.given_up = False
        self.calls = Counter()  # of each shape
        self.stream = torch.cuda.Stream() if self.record is record_graph else None  # for warm-up, recording and replay

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        if self.stream is None:
            return self._run(x, y)
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            losses = self._run(x, y)
        now.wait_stream(self.stream)
        return losses

    def _run(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        if self.replay is None and not self.given_up:
            self.calls[x.shape] += 1
            if self.calls[x.shape] > WARM_UP:
                self._record(x, y)
        if self.replay is None or x.shape != self.x.shape:
            return self.step(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        self.replay()
        losses = self.losses.clone()  # the next replay overwrites them
        return dict(zip(self.names, losses.unbind(), strict=True))

    def _record(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.clone(), y.clone()  # where every replay reads its batch
        try:
            self.replay, self.losses = self.record(self._step)
        except RuntimeError as error:
            self.given_up = True
            say(f"no CUDA graph: {str(error).splitlines()[0]}")

    def _step(self) -> Tensor:
        losses = self.step(self.x, self.y)
        self.names = list(losses)
        return torch.stack(list(losses.values()))


def record_graph(act: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Records act() without running it; returns what runs it, and where its result will be."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # loaders may pin meanwhile
            result = act()
    except BaseException:
        torch.cuda.set_stream(stream)  # a capture that failed leaves its own behind
        torch.cuda.synchronize()
        raise
    return graph.replay, result
