"""How fast the networks run, never what they compute: the levers of config.py's group Speed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from utils import UserError


@dataclass(frozen=True)
class Levers:
    """What is switched on; docs/speed.md says what each one brings."""

    fused_adam: bool  # one kernel for all parameters
    channels_last: bool  # the memory layout that tensor cores want
    small_matmul: bool  # convolutions over few positions as matrix products
    compile: bool  # torch.compile of both networks
    cuda_graph: bool  # a whole training step as one launch


def choose_levers(cfg: Config, device: torch.device, dtype: torch.dtype, world: int = 1) -> Levers:
    """The levers of a run; auto is what pays on the device. Raises ValueError for a graph where there can be none."""
    cuda = device.type == "cuda"
    graphs = cuda and world == 1 and dtype != torch.float16  # a GradScaler decides at every step whether to skip it
    if cfg.cuda_graph == "on" and not graphs:
        raise UserError("cuda_graph on needs CUDA, one process, and a precision other than fp16; this is "
                         f"{device.type} and {str(dtype).removeprefix('torch.')}")

    def choose(setting: str, auto: bool) -> bool:
        return auto if setting == "auto" else setting == "on"

    return Levers(cfg.fused_adam, choose(cfg.channels_last, cuda and dtype != torch.float32),
                  choose(cfg.small_matmul, device.type == "cpu"), choose(cfg.compile, False),
                  choose(cfg.cuda_graph, graphs))


def prepare(net: nn.Module, levers: Levers) -> None:
    """Pulls the levers of a network, in place: its parameters, their names and its results stay what they are."""
    if levers.channels_last:
        net.to(memory_format=torch.channels_last)
    if levers.small_matmul:
        small_matmul(net)
    if levers.compile:
        net.compile()


def cast_weights(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The same network for inference in `dtype`, its weights cast once, in place, and not by autocast in every call."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(dtype)
    return net


# Small convolutions as matrix products. Where an image is a few pixels wide, nearly all the time of a convolution goes
# into reading its weights, and the CPU's convolutions first reorder them: two to five times the work.

POSITIONS = 256  # of the smaller side, batch included; beyond, convolutions are faster (docs/speed.md)


class SmallConv(nn.Conv2d):
    """A convolution, 4×4, stride 2, padding 1, that is a product of matrices for at most POSITIONS outputs."""

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if n * height * width > 4 * POSITIONS or height % 2 or width % 2:
            return super().forward(x)
        columns = F.unfold(x, 4, padding=1, stride=2).transpose(1, 2)  # (N, H/2 · W/2, 16·in)
        y = F.linear(columns.flatten(0, 1), self.weight.flatten(1), self.bias)
        return y.reshape(n, height // 2, width // 2, -1).permute(0, 3, 1, 2)


class SmallConvTranspose(nn.ConvTranspose2d):
    """A transposed convolution, 4×4, stride 2, padding 1: a product of matrices for at most POSITIONS inputs."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        n, _, height, width = x.shape
        if n * height * width > POSITIONS or output_size:
            return super().forward(x, output_size)
        columns = x.permute(0, 2, 3, 1).flatten(0, 2) @ self.weight.flatten(1)  # (N·H·W, 16·out)
        columns = columns.reshape(n, height * width, -1).transpose(1, 2)
        y = F.fold(columns, (2 * height, 2 * width), 4, padding=1, stride=2)  # sums what overlaps
        return y if self.bias is None else y + self.bias[:, None, None]


def small_matmul(net: nn.Module) -> None:
    for module in net.modules():
        for plain, small in ((nn.Conv2d, SmallConv), (nn.ConvTranspose2d, SmallConvTranspose)):
            shape = getattr(module, "kernel_size", 0), getattr(module, "stride", 0), getattr(module, "padding", 0)
            if type(module) is plain and shape == ((4, 4), (2, 2), (1, 1)):
                module.__class__ = small


# CUDA graphs

WARM_UP = 3  # steps, in which cuDNN chooses its algorithms and Adam makes its state


def graphed(step: Callable[[Tensor, Tensor], Tensor], levers: Levers) -> Callable[[Tensor, Tensor], Tensor]:
    return GraphedStep(step) if levers.cuda_graph else step


def set_rate(state: Any, lr: float) -> None:
    """The learning rate of both optimisers."""
    for group in state.opt_g.param_groups + state.opt_d.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place, where a CUDA graph reads it
        else:
            group["lr"] = lr


class GraphedStep:
    """A training step as one launch: recorded after WARM_UP calls of one shape, replayed for every batch of it.

    The first steps, and batches of another shape such as an epoch's last, are computed the plain way; no step is
    computed twice, and none is lost. What the step reads from outside must be tensors that stay in place: weights,
    capturable Adam's state, its learning rate. Dropout goes on drawing: replays advance the device's generator.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], record: Callable | None = None):
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # in the warm-up
        self.step, self.record = step, record or record_graph
        self.replay, self.shape, self.warm = None, None, 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.replay is None:
            self.warm = self.warm + 1 if x.shape == self.shape else 1
            self.shape = x.shape
            if self.warm > WARM_UP:
                self.x, self.y = x.clone(), y.clone()  # where every replay reads its batch
                self.replay, self.losses = self.record(lambda: self.step(self.x, self.y))
        if self.replay is None or x.shape != self.shape:
            return self.step(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        self.replay()
        return self.losses.clone()  # the next replay overwrites them


def record_graph(act: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Records act() without running it; returns what runs it, and where its result will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loaders may pin memory meanwhile
        result = act()
    return graph.replay, result
