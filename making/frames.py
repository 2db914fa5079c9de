"""Frames of one video, or of two as pairs, held out by stretches of time."""

import contextlib
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from tyro.conf import Positional, arg

from making.folder import Blocks, Job, Made, There
from making.photos import encoded
from pairs.geometry import resize
from pairs.picture import over_white
from runtime.console import say
from utils import DataError, UserError, name_of, need

SECONDS = 10  # of a stretch, at most: a tenth of the video if that is less
HELD = 0.1  # seconds: a frame that stands longer is what a player shows until the next, however near that is
RIM = 0.1  # of a held-out stretch, at least a frame, left out at either end: what is beside it is trained on
ALIKE = 0.01  # two shapes that differ by less are one

# swscale's bilinear, accurate_rnd, full_chroma_int and full_chroma_inp: without them, colours become darker each time
ROUNDED = 0x2 | 0x40000 | 0x2000 | 0x4000
CONVERTING = threading.Lock()  # the slower of two videos has a frame in several pairs, and threads must not share it


@dataclass(frozen=True)
class Frames:
    """The frames of a video, as photos to make pairs from, or of two videos of one scene, as pairs."""

    threads: ClassVar[int] = 4
    rules: ClassVar[int] = 1  # another number wherever pixels or stretches become others: no folder mixes two
    too_few: ClassVar[str] = (", frames that look like those beside them, whose scores say nothing of new scenes: a "
                              "smaller --every or a longer video makes stretches to hold out")
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="VIDEO [VIDEO_B] OUT")]]  # the last is the folder to make
    every: int = 1  # of how many frames one is taken
    val: float = 0.1  # share of the time that is held out; 0 leaves it to training
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        return [*self.paths[:-1]]

    @property
    def out(self) -> Path:
        return self.paths[-1]

    def jobs(self, there: There) -> Iterator[Job]:
        if len(self.inputs) > 2:
            raise UserError("one or two videos and the folder to make are needed: frames VIDEO OUT, or frames VIDEO_A "
                            "VIDEO_B OUT")
        if self.every < 1:
            raise UserError(f"every must be at least 1; it is {self.every}")
        return self.taken([Video(path) for path in self.inputs], {name: split for split, name in there})

    def taken(self, videos: Sequence["Video"], begun: Mapping[str, str]) -> Iterator[Job]:
        """begun: the splits of the frames that are there, whose stretches keep them."""
        first = videos[0]
        for video in videos:
            if video.bits > 8:
                say(f"{name_of(video.path)} has {video.bits} bits a value, of which its frames keep 8")
            if video.ratio != 1:
                say(f"{name_of(video.path)} shows pixels {float(video.ratio):.3f} times as wide as high: in its frames "
                    "they are made square, as a player does")
        spacing = float(max(self.every / first.rate, *(1 / video.rate for video in videos)))  # of frames that differ
        shorter = min(video.duration or 1e9 for video in videos)  # where no file tells, longer than any
        length = max(min(SECONDS, shorter / 10), 5 * spacing)  # at least five frames: its ends are left out
        rim = max(RIM * length, spacing)
        blocks = Blocks(self.val, int(shorter / length + 1e-6))
        left_out = 0
        shown = of_shown = None  # of the second video, the last that was taken, and its split
        moments = together(*videos) if len(videos) == 2 else ((time, frame, None) for time, frame in first.frames())
        for number, (time, frame, partner) in enumerate(moments):
            for video, picture in zip(videos, (frame, partner), strict=False) if number == 0 else ():
                if picture.interlaced_frame:
                    say(f"{name_of(video.path)} is interlaced: edges that move become combs in its frames, unless you "
                        "filter it first (ffmpeg -vf bwdif)")
            if number % self.every:
                continue
            name = f"{first.path.stem}_{number:06d}"
            block = int((time + 1e-6) / length)
            if name in begun:
                blocks.splits[block] = begun[name]
            split = blocks.split(block)
            begin = block * length + rim
            end = (block + 1) * length - rim
            at_rim = split == "val" and not begin - 1e-6 <= time < end - 1e-6
            if at_rim or partner and partner is shown and split != of_shown:  # one that stands may reach past the rim
                left_out += 1
                continue
            shown = partner
            of_shown = split
            yield Job(name, partial(self.make, videos, split, frame, partner), split)
        if left_out:
            say(f"not used: {left_out} frames at the ends of stretches that are held out, since those beside them"
                f"{', or their partners,' * (len(videos) - 1)} are trained on")
        for video in videos:
            if video.error:
                yield Job(f"the end of {video.path}", video.tell_error)

    def make(self, videos: Sequence["Video"], split: str, frame, partner) -> Made:
        b = videos[0].square(frame)
        if partner is None:
            return Made(split, None, encoded(b))
        a = b
        b = videos[1].square(partner)
        size = max(image.shape[1::-1] for image in (a, b))
        if abs(a.shape[0] * b.shape[1] / (a.shape[1] * b.shape[0]) - 1) > ALIKE:
            raise UserError(f"{' and '.join(map(name_of, self.inputs))} have two shapes, {a.shape[1]}×{a.shape[0]} and "
                            f"{b.shape[1]}×{b.shape[0]}: cut them to one first")
        return Made(split, *(encoded(resize(image, size)) for image in (a, b)))


class Video:
    """A video to read once, from its beginning.

    bits: of a value; ratio: of the width of a pixel, as it is stored, to its height, or 1 if they are ALIKE; lasts: the
    seconds that the file says its pictures last, or None; duration: these, or those of all that it holds; time: seconds
    that were read; error: why it ended early; corrupt: frames that were passed over.
    """

    def __init__(self, path: Path):
        self.path = path
        self.time = 0.0  # seconds, of the last frame, and how long that stands
        self.stands = 0.0
        self.axes = None  # of the first frame: each look at side data keeps frames until Python collects garbage
        self.error = ""
        self.corrupt = 0
        self.av = need("av", "av", "videos")
        if path.is_dir():
            raise UserError(f"{name_of(path)} is a folder: frames takes videos, photos a folder of pictures")
        if not path.is_file():
            raise FileNotFoundError(f"{name_of(path)} is no file")
        with self.opened() as container:
            if not container.streams.video:
                raise UserError(f"{name_of(path)} holds no video")
            stream = container.streams.video[0]
            self.opaque = container.format.name == "avi"  # whose fourth byte many programs leave unused
            self.rate = stream.average_rate or Fraction(25)
            self.bits = max((part.bits for part in stream.format.components), default=8) if stream.format else 8
            ratio = stream.sample_aspect_ratio or 1
            self.ratio = ratio if abs(ratio - 1) > ALIKE else 1
            self.lasts = lasting(stream)
            whole = container.duration and (container.duration - max(0, container.start_time or 0)) / self.av.time_base
            self.duration = self.lasts or whole or None
            self.n = stream.frames or round(self.duration * self.rate if self.duration else 0)  # or about so many

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """PyAV's container. Raises UserError where the file is no video."""
        try:
            container = self.av.open(str(self.path))
        except self.av.FFmpegError as error:
            raise UserError(f"{name_of(self.path)} cannot be read as a video: {error.strerror}") from error
        with container:
            yield container

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Each frame that is whole, and the seconds since the first."""
        with self.opened() as container:
            yield from self.decoded(container)

    def decoded(self, container: Any, sounds: Sequence = ()) -> Iterator[tuple[float, Any]]:
        """The same of an open file; between them, with the last frame's time, the packets of the streams `sounds`."""
        stream = container.streams.video[0]
        number = 0
        begin = None
        written = 0.0
        stream.thread_type = "AUTO"
        try:
            for packet in container.demux(stream, *sounds):
                if packet.stream.index != stream.index:
                    yield self.time, packet
                    continue
                if packet.duration:  # of MP4, the packet that was written last tells where all end
                    written = float(packet.duration * packet.time_base)
                for frame in packet.decode():
                    time = float(number / self.rate) if frame.time is None else frame.time
                    if begin is None:
                        begin = time
                        if self.lasts:  # recordings may begin between whole pictures
                            self.lasts -= max(0, begin - float((stream.start_time or 0) * stream.time_base))
                    self.time = time - begin
                    self.axes = self.axes or axes(frame)
                    self.stands = float((frame.duration or 0) * (frame.time_base or 0))
                    number += 1
                    if frame.is_corrupt:
                        self.corrupt += 1
                    else:
                        yield self.time, frame
        except self.av.FFmpegError as error:
            self.error = error.strerror
        self.stands = max(self.stands, written)

    def upright(self, frame) -> np.ndarray:
        """(H, W, 3) of one of its frames, as a player shows it.

        Turned, or mirrored, as the file says, and laid over white if transparent.
        """
        transparent = is_transparent(frame) and not self.opaque
        with CONVERTING:
            pixels = frame.to_ndarray(format="rgba" if transparent else "rgb24", interpolation=ROUNDED)
        if transparent:
            pixels = over_white(pixels[..., :3], pixels[..., 3])
        across, aside, down, along = self.axes
        if aside:
            pixels = pixels.swapaxes(0, 1)
            across, along = down, aside
        return np.ascontiguousarray(pixels[:: -1 if along < 0 else 1, :: -1 if across < 0 else 1])

    def square(self, frame) -> np.ndarray:
        """The same, enlarged along one side so that its pixels are square."""
        image = self.upright(frame)
        ratio = float(1 / self.ratio if self.axes[1] else self.ratio)
        height, width, _ = image.shape
        return resize(image, (round(width * max(ratio, 1)), round(height * max(1 / ratio, 1))))

    def tell_error(self) -> None:
        raise DataError(f"{name_of(self.path)} is damaged after {self.time:.1f} s ({self.error}); what comes before "
                        "has been made")


def lasting(stream: Any) -> float | None:
    """The seconds that the file says its pictures last, or None. Matroska tells in a tag when they end."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if told := re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", "")):
        begin = float((stream.start_time or 0) * stream.time_base)
        return 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3]) - begin
    return None


def together(first: Video, second: Video) -> Iterator[tuple[float, Any, Any]]:
    """Each frame of the first with that of the second which is nearest in time, or is HELD then, until either ends."""
    others = second.frames()
    partner = next(others, None)
    following = next(others, None)
    for time, frame in first.frames():
        while following:
            held = following[0] - partner[0] > HELD
            latest = time + min(abs(partner[0] - time), float(0.5 / first.rate) if held else math.inf)
            if following[0] > latest:
                break
            partner = following
            following = next(others, None)
        if partner is None or not following and time - partner[0] > float(0.5 / second.rate) + 1e-6:
            break
        yield time, frame, partner[1]
    lengths = [video.duration for video in (first, second)]
    if all(lengths) and abs(lengths[0] - lengths[1]) > 0.5:
        say(f"{name_of(first.path)} lasts {lengths[0]:.1f} s, {name_of(second.path)} {lengths[1]:.1f} s: pairs are of "
            "frames at the same time since the beginning, until the shorter ends")


def is_transparent(frame) -> bool:
    return any(part.is_alpha for part in frame.format.components)


def axes(frame) -> tuple[int, int, int, int]:
    """Where a step to the right leads in what a player shows, (x, y), then a step down; each is -1, 0 or 1.

    Of FFmpeg's display matrix, whose angle alone (`frame.rotation`) does not tell a mirror from half a turn.
    """
    told = frame.side_data.get("DISPLAYMATRIX")
    if told is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(told), np.int32).astype(float)
    if abs(b) > abs(a):
        a = d = 0
    else:
        b = c = 0
    return tuple(np.sign([a, b, c, d]).astype(int))
