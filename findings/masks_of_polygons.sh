#!/usr/bin/env bash
# Guess: libraries that fill polygons agree, but for a pixel here and there: a square of 10 by 10 becomes 100 pixels,
# and of two neighbours that share an edge, no pixel is in both.
# What happens: there are two families. GDAL (rasterio) and COCO take coordinates for corners of pixels: 100, and none
# in both. OpenCV, Pillow and scikit-image take them for centres and fill the edge on all sides: 121, and 11 in both,
# which whoever is drawn last gets. A pole of 2 by 30 becomes 60 pixels here and 93 there.
# Versions: opencv-python-headless 5.0.0.93, Pillow 13.0.0, scikit-image 0.26.0, rasterio 1.4.4, pycocotools 2.0.11,
# NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: label maps are made from annotations (COCO, LabelMe, GeoJSON) by whichever library is at hand.
# Those of training and those that a network gets later then differ by half a pixel and in the width of thin things.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet opencv-python-headless==5.0.0.93 pillow==13.0.0 scikit-image==0.26.0 \
  rasterio==1.4.4 pycocotools==2.0.11 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from rasterio.features import rasterize
from skimage.draw import polygon2mask

SIZE = 64, 64


def by_opencv(corners):
    return cv2.fillPoly(np.zeros(SIZE, np.uint8), [np.array(corners, np.int32)], 1)


def by_pillow(corners):
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.array(image)


def by_skimage(corners):
    return polygon2mask(SIZE, np.array(corners)[:, ::-1]).astype(np.uint8)


def by_rasterio(corners):
    return rasterize([{"type": "Polygon", "coordinates": [[*corners, corners[0]]]}], SIZE)


def by_coco(corners):
    return coco.decode(coco.merge(coco.frPyObjects([np.ravel(corners).tolist()], *SIZE)))


def box(left, top, width, height):
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


print(*(f"{name} {version(name)}" for name in ("opencv-python-headless", "pillow", "scikit-image", "rasterio",
                                               "pycocotools")))
square, beside, pole = box(10, 10, 10, 10), box(20, 10, 10, 10), box(40, 20, 2, 30)
for fill in (by_opencv, by_pillow, by_skimage, by_rasterio, by_coco):
    found = fill(square)
    numbers = int(found.sum()), int((found & fill(beside)).sum()), int(fill(pole).sum())
    print("{}: square {}, in it and its neighbour {}, pole {} pixels".format(fill.__name__, *numbers))
    assert numbers == ((100, 0, 60) if fill in (by_rasterio, by_coco) else (121, 11, 93))
PYTHON
