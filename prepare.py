"""Makes a folder of pairs, OUT/train/A, OUT/train/B and so on, from photos, Cityscapes, parquet, rasters or videos.

    python prepare.py photos PHOTOS OUT --input edges --size 286
    python prepare.py cityscapes leftImg8bit gtFine OUT --size 512 256
    python prepare.py parquet train-*.parquet OUT
    python prepare.py tiles A.tif B.tif OUT --size 512
    python prepare.py frames A.mp4 B.mp4 OUT --every 10

The same command again goes on where it was stopped. With --preview, it only draws a sheet of some pairs.
"""

import tyro

from making.cityscapes import Cityscapes
from making.folder import prepare
from making.frames import Frames
from making.parquet import Parquet
from making.photos import Photos
from making.tiles import Tiles
from runtime.console import run_main


def main() -> int:
    return prepare(tyro.cli(Photos | Cityscapes | Parquet | Tiles | Frames, description=__doc__))


if __name__ == "__main__":
    run_main(main)
