"""Videos, from a file to a file, in the memory of a few frames: times, sound and colour tags stay as they are.

Frames are written upright, so that the number by which a phone's video is turned is no longer needed.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from inference.translate import Translator, check_finite
from making.frames import ROUNDED, Video, is_transparent
from pairs.picture import picture_of
from runtime.console import say
from runtime.files import atomic
from utils import DataError, UserError, name_of

# Of the output: the container and the encoder, with options that leave hardly a visible loss
H264 = "libx264", {"crf": "18"}
VP9 = "libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1"}
ENCODERS = {".mp4": ("mp4", *H264), ".m4v": ("mp4", *H264), ".mov": ("mov", *H264), ".mkv": ("matroska", *H264),
            ".webm": ("webm", *VP9)}
INPUTS = {*ENCODERS, ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv"}
MATRICES = {1: "itu709", 2: "itu601", 4: "fcc", 5: "itu601", 6: "itu601", 7: "smpte240m",
            9: "bt2020"}  # by the tag `colorspace`
TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")
PREROLL = 0.05  # second of sound before the beginning, from which decoders start
SLACK = 1.0  # second by which sound and picture may end before the file says


def translate_video(translator: Translator, video: Video, output: Path, batch_size: int = 1) -> int:
    """Translates a video into the file `output`, `batch_size` frames at a time. Returns how many there were.

    Raises DataError or OSError, and leaves no file then.
    """
    n = 0
    with tqdm(total=video.n or None, unit="frame", disable=None) as bar, video.opened() as container, \
            atomic(output) as file:
        try:
            writer = Writer(file, output, video, container)
            with writer.made:
                frames = frames_of(video, container, writer)
                while batch := list(itertools.islice(frames, batch_size)):
                    translate_frames(translator, batch, writer)
                    bar.update(len(batch))
                    n += len(batch)
                if not n:
                    raise DataError(f"{name_of(video.path)} holds no frame that can be read")
                writer.finish()
        except video.av.FFmpegError as error:
            raise DataError(f"{name_of(output)} cannot be written: {error.strerror}") from error
    if video.corrupt:
        say(f"left out: {video.corrupt} frames of {name_of(video.path)} that are damaged; those before stand longer")
    return n


def frames_of(video: Video, container: Any, writer: "Writer") -> Iterator[Any]:
    """The frames; the sound between them goes to the writer. Raises DataError where the video ended early."""
    for _, part in video.decoded(container, container.streams.audio):
        if isinstance(part, writer.av.Packet):
            writer.add_sound(part)
        else:
            yield part
    end = video.time + max(video.stands, float(1 / video.rate))
    if video.error or video.lasts and end < video.lasts - SLACK:
        reason = video.error or f"it ends there, and should last {video.lasts:.1f} s"
        raise DataError(f"{name_of(video.path)} is damaged after {video.time:.1f} s ({reason}); nothing is written")


def translate_frames(translator: Translator, frames: list, writer: "Writer") -> None:
    """Neighbours go through the network together."""
    pictures = [picture_of(writer.video.upright(frame)) for frame in frames]
    images = [translator.take(translator.enlarged([picture])) for picture in pictures]
    writer.check_size(images[0].size, frames[0])
    if {image.size for image in images} != {writer.size}:
        raise DataError(f"{name_of(writer.source)} changes its size on the way, which one video cannot hold")
    y_fake = translator.tensor(torch.stack([image.x for image in images]))
    check_finite(y_fake, name_of(writer.source))
    for frame, image, each in zip(frames, images, y_fake, strict=True):
        writer.add_frame(translator.finished(each, image).numbers, frame)


def mark(made: Any, frame: Any) -> None:
    """Gives a frame or an encoder the colour tags of `frame`; instead of RGB, and of what is rare, ITU 601's."""
    for tag in TAGS:
        setattr(made, tag, getattr(frame, tag))
    if frame.colorspace not in MATRICES:
        made.colorspace = 5


class Writer:
    """A video in the making, whose streams begin as those of `container` do."""

    def __init__(self, file: BinaryIO, output: Path, video: Video, container: Any):
        self.av = video.av
        self.video = video
        self.source = video.path
        self.output = output
        self.size = None  # width and height, once a frame has told them
        self.early = []  # sound from before then
        self.last = None  # the time of the last frame, in the input's units
        kind, encoder, options = ENCODERS[output.suffix.lower()]
        self.made = self.av.open(file, "w", format=kind)
        stream = container.streams.video[0]
        self.ratio = stream.sample_aspect_ratio  # of a pixel's sides, or None
        try:
            self.stream = self.made.add_stream(encoder, rate=video.rate, options=options, time_base=stream.time_base)
        except ValueError as error:  # PyAV's UnknownCodecError is one
            raise UserError(f"the PyAV that is installed has no {encoder}, which {output.suffix} needs: pip install "
                            "--force-reinstall av") from error
        self.sounds = {sound.index: self.sound_like(sound) for sound in container.streams.audio}

    def sound_like(self, sound: Any) -> Any:
        try:
            return self.made.add_stream_from_template(sound)
        except ValueError as error:
            raise UserError(f"{self.output.suffix} files hold no {sound.codec_context.name} sound, as "
                            f"{name_of(self.source)} has: let --output end in .mkv") from error

    def check_size(self, size: tuple[int, int], frame: Any) -> None:
        """The first frame, upright of that size, decides what the encoder is told."""
        if self.size:
            return
        self.size = self.stream.width, self.stream.height = size
        self.stream.pix_fmt = "yuv420p"
        if self.stream.codec_context.name == "libx264" and (size[0] % 2 or size[1] % 2):
            self.stream.pix_fmt = "yuv444p"
            say(f"{size[0]}×{size[1]} is odd: {name_of(self.output)} keeps that size by colour at full resolution "
                "(4:4:4), which some players and browsers do not show; an --output in .webm is shown by all")
        if is_transparent(frame) and not self.video.opaque:
            say(f"what is transparent in {name_of(self.source)} is laid over white: {name_of(self.output)} keeps no "
                "transparency")
        mark(self.stream.codec_context, frame)
        if self.ratio not in (None, 1) and self.output.suffix.lower() == ".webm":
            say(f"the pixels of {name_of(self.source)} are no squares ({self.ratio}), which .webm does not tell: with "
                ".mp4 or .mkv the picture keeps its shape")
        if self.ratio:
            self.stream.codec_context.sample_aspect_ratio = 1 / self.ratio if self.video.axes[1] else self.ratio
        try:
            self.made.start_encoding()
        except self.av.FFmpegError as error:
            sounds = " or ".join(sound.codec_context.name for sound in self.sounds.values())
            way_out = f", perhaps not with {sounds} sound: let --output end in .mkv" if sounds else ""
            raise UserError(f"{name_of(self.output)} cannot be written ({error.strerror}){way_out}") from error
        self.made.mux(self.early)
        self.early = []

    def add_frame(self, array: np.ndarray, like: Any) -> None:
        """(H, W) or (H, W, 3), at the time of the frame `like`, with its tags."""
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, axis=2)
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        frame = frame.reformat(format=self.stream.pix_fmt, dst_colorspace=MATRICES.get(like.colorspace, "itu601"),
                               dst_color_range=like.color_range, interpolation=ROUNDED)
        mark(frame, like)
        frame.pts, frame.time_base = like.pts, like.time_base
        if self.last is not None and frame.pts is not None:  # of two frames of one time, MP4 holds none
            frame.pts = max(frame.pts, self.last + 1)
        self.last = frame.pts
        self.made.mux(self.stream.encode(frame))

    def add_sound(self, packet: Any) -> None:
        if packet.dts is None:  # the mark at the end
            return
        if packet.is_discard and packet.pts * packet.time_base < -PREROLL:  # cut off, and heard in no player
            return
        packet.stream = self.sounds[packet.stream.index]
        if self.size:
            self.made.mux(packet)
        else:
            self.early.append(packet)

    def finish(self) -> None:
        """Encoders pass times on, but no durations, so that the last frame would stand as long as others do."""
        packets = self.stream.encode()
        stands = (self.video.lasts or 0) - self.video.time
        ends = {self.last}
        if packets and self.made.format.name in ("mp4", "mov"):  # where the packet written last must tell it too
            ends.add(packets[-1].pts)
        for packet in packets:
            if stands > 0 and packet.pts in ends:
                packet.duration = round(stands / packet.time_base)
            self.made.mux(packet)
