"""What the numbers in files mean: to what the networks take, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pairs.images import is_uint16, name_of, natural_channels, normalise, to_array
from utils import DataError

VOID = 255  # the index of what belongs to no class


@dataclass(frozen=True)
class Values:
    """What one side of the pairs holds: x or y."""

    channels: int = 3  # that the networks see
    limits: tuple[float, float] | None = None  # what becomes -1 and 1; None: the whole range of 8 or 16 bits
    n_labels: int = 0  # classes, where the files hold their indices
    kind: str = "uint8"  # uint8, uint16 or float32: in what the outputs are written

    @property
    def stored(self) -> int:
        """Channels until `to_batch`: the indices stay one until they are on the device."""
        return 1 if self.n_labels else self.channels

    def array(self, images: Sequence[Image.Image | np.ndarray], sources: Sequence[Path | np.ndarray]) -> np.ndarray:
        """(H, W, stored) of what `read_image` made of one source, or several, stacked: uint8, or float32 in [0, 1].

        A single image becomes what is wanted, as `to_array` can; of several, each has the channels of its file, or 1
        or 3. Raises DataError.
        """
        if self.n_labels:
            return self._indices(images[0], sources[0]) if len(images) == 1 else self._refuse_several(sources)
        if len(images) == 1:
            return to_array(images[0], self.channels, sources[0], self.limits)
        counts = [natural_channels(image) for image in images]
        if sum(counts) != self.channels:
            raise DataError(f"{' and '.join(map(name_of, sources))} have {' + '.join(map(str, counts))} channels, not "
                            f"the {self.channels} that in_channels or out_channels says")
        parts = zip(images, counts, sources, strict=True)
        return stack([to_array(image, n, source, self.limits) for image, n, source in parts])

    def _indices(self, image: Image.Image | np.ndarray, source: Path | np.ndarray) -> np.ndarray:
        """Raw indices, never a palette's colours; VOID for those that are no class."""
        indices = np.asarray(image)
        indices = indices[..., 0] if indices.shape[2:] == (1,) else indices
        if indices.ndim != 2 or indices.dtype.kind not in "biu":
            raise DataError(f"{name_of(source)} holds no class indices, which n_labels asks for: one channel of integers, "
                            "as in PNG files of the modes L and P")
        return np.where((indices >= 0) & (indices < self.n_labels), indices, VOID).astype(np.uint8)[..., None]
