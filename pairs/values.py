"""What the numbers in files mean: channels, ranges, class indices and masks, to what the networks take and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pairs.images import normalise
from pairs.lab import lab_of, rgb_of
from pairs.picture import Picture, to_array
from utils import DataError

KINDS = ("uint8", "uint16", "float32")
VOID = 255  # the index of what belongs to no class


@dataclass(frozen=True)
class Values:
    """What one side of the pairs holds: x or y."""

    channels: int = 3  # as the networks see them
    limits: tuple[float, float] | None = None  # what becomes -1 and 1; None: the whole range of 8 or 16 bits
    n_labels: int = 0  # classes, where the files hold their indices
    kind: str = "uint8"  # of KINDS: the numbers in which outputs are written
    lab: Literal["", "L", "ab"] = ""  # the part of a photo's Lab colours, scaled as in the authors' PyTorch release
    bands: tuple[int, ...] = ()  # those of the files that are taken, from 1, in this order; empty: all
    counts: str = ""  # the channels of several images, such as "3 + 1", in their order; empty: any that sum up
    ranged_inputs: tuple[int, ...] = ()  # of several, from 1, those that have `limits`; empty: those of the most bits

    def __post_init__(self):
        low, high = self.limits or (0, 1)
        if self.kind not in KINDS or not -math.inf < low < high < math.inf or self.n_labels not in (0, self.channels):
            raise ValueError(f"numbers cannot be {self.kind} from {low} to {high}, nor {self.n_labels} classes")

    def __str__(self) -> str:
        ends = " to ".join(str(end).removesuffix(".0") for end in self.limits or ("black", "white"))
        if self.lab:
            return "L of Lab, 0 to 100 as -1 to 1" if self.lab == "L" else "a and b of Lab, -110 to 110 as -1 to 1"
        channels = f"{self.channels} channel{'s' * (self.channels > 1)}"
        return f"{self.channels} classes" if self.n_labels else f"{channels}, {ends} as -1 to 1"

    @property
    def stored(self) -> int:
        """Channels on the way to the device: there indices become one channel a class, and RGB becomes L or ab."""
        return 1 if self.n_labels else 3 if self.lab else self.channels

    @property
    def written(self) -> int:
        """Channels of an output's file: of ab, RGB."""
        return 3 if self.lab else self.channels

    def array(self, pictures: Sequence[Picture]) -> np.ndarray:
        """The pictures as one (H, W, stored) array, uint8 or float32 in [0, 1].

        `to_array` converts a single image to `channels`. Several are stacked with their files' own channels, those that
        are `ranged` by `limits`. Class indices are kept (a palette's colours are ignored), and those that are no class
        become VOID. Raises DataError.
        """
        pictures = self.taken(pictures)
        names = " and ".join(picture.name for picture in pictures)
        if self.n_labels:
            indices = pictures[0].indices
            if indices is None:
                raise DataError(f"{names} holds no class indices, as n_labels wants them: one channel of whole "
                                "numbers, not those of a GIF's colours, which many programs number anew")
            known = (indices >= 0) & (indices < self.n_labels)
            return np.where(known, indices, VOID).astype(np.uint8)[..., None]
        if self.lab:
            photo = pictures[0]
            if photo.channels not in (1, 3) or photo.kind == "float32":
                raise DataError(f"{names} cannot be taken apart into L and ab: that takes one photo, gray or colour, "
                                "of 8 or 16 bits")
            return to_array(photo, 3)
        if len(pictures) == 1:
            return to_array(pictures[0], self.channels, self.limits)
        counts = [picture.channels for picture in pictures]
        told = " + ".join(map(str, counts))
        if sum(counts) != self.channels:
            raise DataError(f"{names} have {told} channels together, not the {self.channels} of the network: "
                            "in_channels or out_channels says how many it has")
        if self.counts and told != self.counts:  # which would change places
            raise DataError(f"{names} have {told} channels, where those of training have {self.counts}: write all of "
                            "each folder as gray, or as colour")
        limits = [self.limits if ranged else None for ranged in self.ranged(pictures)]
        return stack(list(map(to_array, pictures, counts, limits)))

    def ranged(self, pictures: Sequence[Picture]) -> list[bool]:
        """Which of one pair's pictures `limits` are for: those of the most bits, such as depth beside a photo."""
        if self.ranged_inputs:
            return [number in self.ranged_inputs for number, _ in enumerate(pictures, 1)]
        most = max((picture.kind for picture in pictures), key=KINDS.index)
        return [self.limits is not None and not self.n_labels and picture.kind == most for picture in pictures]

    def taken(self, pictures: Sequence[Picture]) -> Sequence[Picture]:
        """The pictures with those bands only that are taken. Raises DataError where one is missing."""
        if len(pictures) > 1 and (self.n_labels or self.lab or self.bands):
            names = " and ".join(picture.name for picture in pictures)
            raise DataError(f"{names} are several inputs, of which none can hold class indices, Lab or chosen bands: "
                            "leave out n_labels, space lab, bands_a and bands_b")
        if not self.bands:
            return pictures
        picture = pictures[0]
        if picture.channels < max(self.bands):
            raise DataError(f"{picture.name} holds {picture.channels} band{'s' * (picture.channels > 1)}, and no band "
                            f"{max(self.bands)} for bands_a or bands_b")
        return [replace(picture, array=picture.array[..., [band - 1 for band in self.bands]], indices=None)]

    def beyond(self, pictures: Sequence[Picture]) -> dict[str, float]:
        """By the names of those that are `ranged`, the share of the numbers outside of `limits`, which are clipped."""
        shares = {}
        for picture, ranged in zip(pictures, self.ranged(pictures), strict=True):
            if ranged:
                numbers = self.taken([picture])[0].array
                if picture.valid is not None:
                    numbers = numbers[picture.valid]
                outside = (numbers < self.limits[0]) | (numbers > self.limits[1])
                shares[picture.name] = float(outside.mean()) if outside.size else 0.0
        return shares

    def alpha(self, pictures: Sequence[Picture]) -> np.ndarray | None:
        """The transparency that `array` lays over white, (H, W) of uint8 or uint16, or None."""
        alone = len(pictures) == 1 and not self.n_labels and self.channels in (1, 3)
        return pictures[0].alpha if alone else None

    def is_sprite(self, pictures: Sequence[Picture]) -> bool:
        """Whether the fourth channel of `array` is transparency."""
        return len(pictures) == 1 and self.channels == 4 and not self.n_labels and pictures[0].alpha is not None

    def to_network(self, pixels: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
        """(N, stored, H, W), uint8 or float in [0, 1] → (N, channels, H, W) in [-1, 1], or 0 and 1 for classes."""
        if self.lab:
            rgb = pixels / 255 if pixels.dtype == torch.uint8 else pixels
            light, ab = lab_of(rgb).split([1, 2], dim=-3)
            return (light / 50 - 1 if self.lab == "L" else ab / 110).to(torch.float32, memory_format=layout)
        if not self.n_labels:
            return normalise(pixels, layout)
        indices = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round()  # float beside a float target
        classes = torch.arange(self.n_labels, device=pixels.device)[:, None, None]
        return (indices == classes).to(torch.float32, memory_format=layout)

    def shown(self, x: Tensor, y: Tensor) -> Tensor:
        """y as people see it and as `picture` takes it: ab, (…, 2, H, W), beside the L in x becomes RGB in [-1, 1]."""
        if self.lab != "ab":
            return y
        light = (x.float() + 1) * 50
        ab = y.float() * 110
        return rgb_of(torch.cat([light, ab], dim=-3)) * 2 - 1

    def picture(self, y_fake: Tensor, deep: bool = False, alpha: np.ndarray | None = None) -> Picture:
        """(C, H, W) in [-1, 1] → numbers of this kind and range.

        With `deep`, 8 bits become 16, but in a range of one's own. Whole numbers of 1 or 3 channels take a transparency
        `alpha`, (H, W) of uint8 or uint16.
        """
        kind = "uint16" if deep and self.kind == "uint8" and not self.limits else self.kind
        low, high = self.limits or (0, 1 if kind == "float32" else np.iinfo(kind).max)
        array = ((y_fake.float().cpu() + 1) * ((high - low) / 2)).add_(low)
        if kind != "float32":
            array = array.round_().clamp_(0, np.iinfo(kind).max)
        array = array.permute(1, 2, 0).numpy().astype(kind)
        if alpha is None or kind == "float32" or array.shape[2] not in (1, 3):
            return Picture(array)
        if alpha.dtype != kind:
            alpha = alpha * np.uint16(257) if kind == "uint16" else alpha >> 8
        return Picture(array, alpha.astype(kind))


def values_of(settings: Mapping[str, Any]) -> tuple[Values, Values]:
    """What x and y hold, by the settings of a run, or by what a generator's file tells. Raises ValueError."""
    kind = settings.get("kind", "uint8")
    if settings["space"] == "lab":
        return Values(1, lab="L"), Values(2, lab="ab", kind=kind)
    x_side, *_, y_side = settings["direction"].lower()
    counts = settings.get("counts", "")  # of the side that has several images
    x = Values(settings["in_channels"], settings[f"range_{x_side}"], settings["n_labels"],
               bands=settings[f"bands_{x_side}"], counts=counts, ranged_inputs=settings.get("ranged_inputs", ()))
    y = Values(settings["out_channels"], settings[f"range_{y_side}"], kind=kind,
               bands=settings[f"bands_{y_side}"], counts=counts)
    return x, y


def stack(sides: Sequence[np.ndarray]) -> np.ndarray:
    """The channels of all; 8 bits beside floats become floats."""
    return np.concatenate(alike(sides), axis=2)


def alike(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All in uint8, or where one is not, all as float32 in [0, 1]."""
    if len({array.dtype for array in arrays}) == 1:
        return list(arrays)
    return [array if array.dtype == np.float32 else array / np.float32(255) for array in arrays]


def batch_of(items: Sequence[np.ndarray]) -> Tensor:
    """Pairs of one size, (H, W, C), as (N, H, W, C); where one has a mask, those without get a white one."""
    items = alike(items)
    if len(items) == 1:  # without a copy
        return torch.from_numpy(items[0][None])
    shape = max(item.shape for item in items)
    white = 255 if items[0].dtype == np.uint8 else 1
    batch = np.full((len(items), *shape), white, items[0].dtype)
    for one, item in zip(batch, items, strict=True):
        one[..., : item.shape[2]] = item
    return torch.from_numpy(batch)


def mask_array(mask: Picture | None, pictures: Sequence[Picture]) -> np.ndarray | None:
    """What counts, (H, W, 1), uint8 or float32 in [0, 1]: 0 where the mask is black or a picture holds no value.

    None where all of the pictures counts.
    """
    valid = [picture.valid[..., None] for picture in pictures if picture.valid is not None]
    if mask is None and not valid:
        return None
    weight = np.uint8(255) if mask is None else mask_weight(mask)
    return math.prod(valid, start=weight)


def mask_white(mask: Picture) -> int:
    """The number that counts whole: 1, 255 or 65535, the smallest that none exceeds, whatever the type could hold."""
    return next((white for white in (1, 255) if mask.array.max() <= white), 65535)


def mask_weight(mask: Picture) -> np.ndarray:
    """How much each pixel counts, (H, W, 1), uint8 or float32 in [0, 1].

    The 1 of a gray image of few bits that holds nothing more is white too, and so is the only colour of a palette
    besides black: colours are no weights.
    """
    mask = mask.painted()
    if mask.kind != "uint8":
        return to_array(mask, 1, (0.0, float(mask_white(mask))))
    gray = to_array(mask, 1)
    shown = gray[..., 0] > 0
    indices = gray[..., 0] if mask.indices is None else mask.indices
    marked = indices == (indices.max(where=shown, initial=0) if mask.has_palette else 1)
    return shown[..., None] * np.uint8(255) if np.array_equal(shown, marked & shown) else gray


def to_batch(pixels: Tensor, x: Values, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    """x and y, float (N, C, H, W) in [-1, 1]; a mask stays behind y's channels.

    pixels: (N, H, W, C), uint8 or float32 in [0, 1], the stored channels of x first.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    of_x, of_y = pixels.permute(0, 3, 1, 2).tensor_split([x.stored], dim=1)
    y = normalise(of_y, layout)
    if x.lab:
        ab = Values(2, lab="ab").to_network(of_y[:, :3])
        y = torch.cat([ab, y[:, 3:]], dim=1).to(memory_format=layout)
    return x.to_network(of_x, layout), y


def composite(y_fake: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """y_fake and y, (…, C, H, W) both; where y carries a mask behind its channels, y_fake shows y where the mask is -1.

    Of the two, |y_fake - y| is weighted by (mask + 1) / 2, and so is the gradient that reaches the generator.
    """
    channels = y_fake.shape[-3]
    if y.shape[-3] == channels:
        return y_fake, y
    y, mask = y.split(channels, dim=-3)
    return torch.lerp(y, y_fake.float(), (mask + 1) / 2), y


def hidden(y: Tensor, channels: int) -> Tensor | None:
    """Where a mask behind these channels of y, (C, H, W), is black, (H, W) of bool: no output could be wrong there."""
    return y[-1] == -1 if y.shape[0] > channels else None
