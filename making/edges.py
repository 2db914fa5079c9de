"""Edges of photos, one pixel wide, as those of edges2shoes are: made so that lines drawn by hand look like them.

The authors' PostprocessHED.m, without the network before it: strength, non-maximum suppression, threshold, thinning,
small components dropped. Raw Canny edges keep texture and crumbs, which nobody draws.
"""

import math

import cv2
import numpy as np

from utils import need

LEAST = 5  # pixels of a component
LENIENT = 1.01  # as in the authors' edgesNms: what is as strong as its neighbour stays, and is thinned later


def edges(image: np.ndarray, sigma: float = 2.0, threshold: float = 25.0) -> np.ndarray:
    """(H, W, C) in 0 to 255 → (H, W) bool, True on edges.

    sigma: pixels of the Gaussian that smooths first; finer detail is no edge. threshold: of 255; the step in the
    strongest channel that just counts. Raises UserError without scikit-image.
    """
    strength, along_x, along_y = gradient(image, sigma)
    found = (strength >= threshold) & is_ridge(strength, along_x, along_y)
    thinned = need("skimage.morphology", "scikit-image", "edges").skeletonize(found)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thinned.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= LEAST
    large[0] = False  # the ground
    return large[labels]


def gradient(image: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strength of the steepest channel, (H, W), on the scale of the image, and its direction, of length 1.

    A step of n levels has strength n, whatever sigma is: the slope of a step smoothed by a Gaussian is n / (σ √2π).
    """
    smooth = np.atleast_3d(cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma))
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, *axes, ksize=1, scale=0.5).reshape(smooth.shape)
              for axes in ((1, 0), (0, 1))]
    size = np.hypot(*slopes)
    steepest = size.argmax(axis=2)[..., None]
    size, x, y = (np.take_along_axis(each, steepest, axis=2)[..., 0] for each in (size, *slopes))
    length = np.maximum(size, 1e-12)
    return size * np.float32(sigma * math.sqrt(2 * math.pi)), x / length, y / length


def is_ridge(strength: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where no neighbour one pixel up or down the slope is stronger."""
    rows, columns = np.indices(strength.shape, np.float32)
    keep = np.ones(strength.shape, bool)
    for sign in (1, -1):
        neighbour = cv2.remap(strength, columns + sign * x, rows + sign * y, cv2.INTER_LINEAR,
                              borderMode=cv2.BORDER_REPLICATE)
        keep &= strength * LENIENT >= neighbour
    return keep
