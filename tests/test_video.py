"""Videos of predict.py: times, sound, turn, colours, sizes, memory, and files that cannot be used."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_up_to, translated
from skimage import color
from test_prepare import TURNS, damaged, video, write_video

from generator import Generator
from inference import video as video_module
from inference.trained import Trained
from inference.translate import Translator
from inference.video import translate_video
from making.frames import Video
from pairs.geometry import Geometry
from utils import DataError

av = pytest.importorskip("av")


@pytest.fixture
def same(gen):
    """A translator that changes nothing."""
    translator = Translator(gen, scale="native", norm="running", dropout=False)
    translator.tensor = lambda pixels: pixels.float() / 127.5 - 1
    return translator


def clip(path, times=range(12), size=(64, 48), tags=None, sound=None, codec="libx264", pix_fmt="yuv420p",
         **options):
    """Frames at the times, in tenths of a second, whose colour tells their number; tags: range, matrix and more."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=10, time_base=Fraction(1, 1000))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": "1"}
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        heard = sound and file.add_stream(sound, rate=48000)
        for number, time in enumerate(times):
            image = np.full((*size[::-1], 3), (20 * number, 100, 200), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace="itu709" if tags else None,
                                   dst_color_range=tags and tags["color_range"])
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = 100 * time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
            if heard:
                hum = np.sin(np.arange(4800) / 20, dtype=np.float32)[None].repeat(2, 0) / 4
                form = heard.codec_context.format.name
                hum = hum if form == "fltp" else (hum * 9000).astype(np.int16).T.reshape(1, -1)
                part = av.AudioFrame.from_ndarray(np.ascontiguousarray(hum), format=form, layout="stereo")
                part.sample_rate, part.pts = 48000, 4800 * number
                file.mux(heard.encode(part))
        file.mux(stream.encode())
        if heard:
            file.mux(heard.encode())
    return path


def remuxed(source, path, change):
    """The packets of another video, but for what change(packet, number) does to each."""
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        streams = {stream.index: after.add_stream_from_template(stream) for stream in before.streams}
        for number, packet in enumerate(part for part in before.demux() if part.size):
            packet.stream = streams[packet.stream.index]
            change(packet, number)
            after.mux(packet)
    return path


def seen(path):
    """Of each frame: the time, and the picture, upright."""
    video = Video(Path(path))
    return [(frame.time, video.upright(frame)) for _, frame in video.frames()]


def heard(path):
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.dts is not None]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_times_of_frames_stay_and_each_has_its_picture(same, tmp_path, ending):
    """A fixed rate would pull the picture away from the sound where a phone drops frames."""
    times = [0, 1, 2, 5, 6, 10, 11, 12]
    source, made = clip(tmp_path / "in.mkv", times), tmp_path / f"out{ending}"
    assert translate_video(same, Video(source), made, batch_size=3) == 8
    before, after = seen(source), seen(made)
    assert [round(time, 2) for time, _ in after] == [time / 10 for time in times]
    for (_, a), (_, b) in zip(before, after, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 3
    with av.open(str(made)) as file:  # which Matroska keeps, and from which it tells how long each frame stands
        assert file.streams.video[0].guessed_rate == 10
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_frames_of_one_time_follow_each_other(same, tmp_path, ending):
    def held(packet, number):
        packet.pts = packet.dts = (0, 0, 100, 200)[number]

    source = remuxed(clip(tmp_path / "in.mkv", times=(0, 1, 3, 4), codec="ffv1"), tmp_path / "held.mkv", held)
    assert translate_video(same, Video(source), tmp_path / f"out{ending}") == 4
    before, after = ([round(time, 2) for time, _ in seen(path)] for path in (source, tmp_path / f"out{ending}"))
    assert before == after and len(set(before)) == 3


def test_a_network_that_makes_ab_of_l_colours_the_frames(tmp_path):
    network = Generator(1, 2, 4, crop_size=64).eval()
    trained = Trained(1, 2, Geometry("stretch", 64, 64), space="lab")
    translator = Translator(network, trained, norm="running", dropout=False)
    translator.tensor = lambda pixels: torch.full((len(pixels), 2, 64, 64), 0.2)  # a and b are 22: orange
    source, made = clip(tmp_path / "in.mp4", range(3)), tmp_path / "out.mp4"
    assert translate_video(translator, Video(source), made) == 3
    for (_, a), (_, b) in zip(seen(source), seen(made), strict=True):
        a, b = (color.rgb2lab(frame) for frame in (a, b))
        assert np.abs(a[..., 0] - b[..., 0]).mean() < 2
        assert np.abs(np.median(b[..., 1:], axis=(0, 1)) - 22).max() < 4


def test_sound_is_the_same_to_the_byte(same, tmp_path):
    source, made = clip(tmp_path / "in.mp4", sound="aac"), tmp_path / "out.mkv"
    translate_video(same, Video(source), made)
    before, after = heard(source), heard(made)
    assert len(before) > 40 and [data for _, data in before] == [data for _, data in after]
    assert max(abs(a - b) for (a, _), (b, _) in zip(before, after, strict=True)) < 0.03


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_or_mirrored_video_is_shown_as_players_do_and_as_before(same, tmp_path, turn):
    source, made = video(tmp_path / "in.mp4", seconds=1, turn=turn, codec="libx264"), tmp_path / "out.mp4"
    translate_video(same, Video(source), made)
    (_, first), *_ = seen(source)
    across, down = np.reshape(TURNS[turn], (2, 2)).sum(axis=0)  # where the green upper left corner leads
    height, width, _ = first.shape
    assert (width > height) == (TURNS[turn][0] != 0)
    assert first[0 if down > 0 else -1, 0 if across > 0 else -1, 1] > 200 > first[..., 1].mean()
    for (_, a), (_, b) in zip(seen(source), seen(made), strict=True):
        assert a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 3


def test_transparent_pixels_of_a_video_become_white(same, tmp_path, capsys):
    image = np.full((48, 64, 4), (255, 0, 0, 255), np.uint8)
    image[:, :32, 3] = 0
    source = write_video(tmp_path / "in.mov", [image], "qtrle", "argb", form="rgba")
    translate_video(same, Video(source), tmp_path / "out.mp4")
    for path in (source, tmp_path / "out.mp4"):
        ((_, picture),) = seen(path)
        assert np.abs(picture[24, [8, 56]].astype(int) - [[255] * 3, [255, 0, 0]]).max() < 8
    assert "keeps no transparency" in capsys.readouterr().out
    image[..., 3] = 0  # uncompressed, the fourth byte is often unused
    video = Video(write_video(tmp_path / "in.avi", [image], "rawvideo", "bgra", form="rgba"))
    ((_, frame),) = video.frames()
    assert (video.upright(frame) == (255, 0, 0)).all()


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_the_last_frame_stands_as_long_as_before(same, tmp_path, ending):
    def held(packet, number):
        packet.duration = 5000 if number == 2 else 100

    source = remuxed(clip(tmp_path / "in.mkv", times=(0, 1, 2), codec="ffv1"), tmp_path / "held.mp4", held)
    assert Video(source).lasts == pytest.approx(5.2)
    assert translate_video(same, Video(source), tmp_path / f"out{ending}") == 3
    with av.open(str(tmp_path / f"out{ending}")) as file:
        assert file.duration == pytest.approx(5.2e6, abs=1e4)


def test_sound_that_was_cut_off_is_not_heard_again(same, tmp_path):
    """A cut without encoding anew keeps the sound back to the last whole picture, and hides it: Matroska cannot."""
    def earlier(packet, _):
        second = round(1 / packet.time_base)
        packet.pts -= second
        packet.dts -= second

    whole = clip(tmp_path / "whole.mp4", times=range(20), sound="aac")
    cut = remuxed(whole, tmp_path / "cut.mp4", earlier)
    assert Video(cut).duration == pytest.approx(1, abs=0.05) and min(heard(cut))[0] < -0.9
    translate_video(same, Video(cut), tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as file:
        assert file.duration < 1.2e6
    assert len(heard(tmp_path / "out.mkv")) < 0.6 * len(heard(whole))


@pytest.mark.parametrize("span", [1, 2])
def test_colour_tags_stay_and_colours_are_written_by_them(same, tmp_path, span):
    """Written by another matrix than the tag tells, greens shift by up to 20 levels."""
    tags = {"colorspace": 1, "color_range": span, "color_primaries": 1, "color_trc": 1}
    source, made = clip(tmp_path / "in.mp4", tags=tags), tmp_path / "out.mp4"
    translate_video(same, Video(source), made)
    with av.open(str(made)) as file:
        context = file.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in tags} == tags
    with av.open(str(source)) as a, av.open(str(made)) as b:  # the planes themselves, which nobody has converted
        for before, after in zip(a.decode(video=0), b.decode(video=0), strict=True):
            assert np.abs(before.to_ndarray().astype(int) - after.to_ndarray()).max() <= 3
    for number, (_, picture) in enumerate(seen(made)):
        assert np.abs(picture.mean(axis=(0, 1)) - (20 * number, 100, 200)).max() < 6


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
def test_videos_of_rgb_become_what_their_tag_then_says(same, tmp_path, ending):
    source, made = clip(tmp_path / "in.mkv", codec="libx264rgb", pix_fmt="rgb24"), tmp_path / f"out{ending}"
    translate_video(same, Video(source), made)
    with av.open(str(source)) as a, av.open(str(made)) as b:
        assert next(a.decode(video=0)).colorspace == 0 and next(b.decode(video=0)).colorspace == 5
    for number, (_, picture) in enumerate(seen(made)):
        assert np.abs(picture.mean(axis=(0, 1)) - (20 * number, 100, 200)).max() < 6


@pytest.mark.parametrize(("turn", "ratio"), [(0, Fraction(64, 45)), (90, Fraction(45, 64))])
def test_pixels_that_are_no_squares_stay_so(same, tmp_path, capsys, turn, ratio):
    source = video(tmp_path / "in.mp4", seconds=1, turn=turn, codec="libx264", ratio=Fraction(64, 45))
    for ending in (".mp4", ".mkv", ".webm"):
        translate_video(same, Video(source), tmp_path / f"out{ending}")
        with av.open(str(tmp_path / f"out{ending}")) as file:
            assert file.streams.video[0].sample_aspect_ratio == (ratio if ending != ".webm" else 1)
    assert capsys.readouterr().out.count("are no squares (64/45), which .webm does not tell") == 1


def test_pictures_that_begin_late_are_not_taken_for_a_file_that_ends_early(same, tmp_path):
    """Matroska tells when they end, and not how long they last."""
    source = clip(tmp_path / "late.mkv", range(1000, 1060))
    assert Video(source).duration == pytest.approx(6, abs=0.2)
    assert translate_video(same, Video(source), tmp_path / "out.mp4") == 60


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_odd_sizes_stay(same, tmp_path, ending, capsys):
    source, made = clip(tmp_path / "in.mkv", size=(61, 47), pix_fmt="yuv444p"), tmp_path / f"out{ending}"
    translate_video(same, Video(source), made)
    assert {picture.shape for _, picture in seen(made)} == {(47, 61, 3)}
    assert ("61×47 is odd" in capsys.readouterr().out) == (ending == ".mp4")


def test_the_command_and_its_defaults(checkpoint, tmp_path):
    source, made = clip(tmp_path / "in.mp4", sound="aac"), tmp_path / "there" / "out.mp4"
    places = checkpoint, source, made
    status, said, _ = translated(*places)
    assert status == 0 and "--norm running --dropout off" in said and "12 frames in" in said
    first = made.read_bytes()
    status, said, _ = translated(*places, "--norm", "running", "--dropout", "off")
    assert status == 0 and "translated with" not in said and made.read_bytes() == first
    status, said, _ = translated(*places, "--norm", "image")
    assert status == 0 and "which flickers least, where you say no other" in said and made.read_bytes() != first


def test_what_cannot_be_done_is_a_sentence_and_leaves_no_file(checkpoint, tmp_path):
    source = clip(tmp_path / "in.mp4")
    clip(tmp_path / "pcm.mkv", sound="pcm_s16le")
    clip(tmp_path / "opus.mkv", sound="libopus")
    (tmp_path / "text.mp4").write_text("no video")
    damaged(tmp_path / "cut.mp4", clip(tmp_path / "whole.mp4", range(40)))
    there = {path.name for path in tmp_path.iterdir()}
    for name, output, flags, message in (
            ("text.mp4", "out.mp4", [], "text.mp4 cannot be read as a video"),
            ("gone.mp4", "out.mp4", [], "gone.mp4 is no file"),
            ("cut.mp4", "out.mp4", [], "cut.mp4 is damaged after"),
            ("pcm.mkv", "out.webm", [], ".webm files hold no pcm_s16le sound"),
            ("opus.mkv", "out.mov", [], "out.mov cannot be written (Invalid argument), perhaps not with opus sound"),
            ("in.mp4", "out.png", [], "must be a file that ends in one of .mp4"),
            ("in.mp4", "in.mp4", [], "is an input, and would be overwritten"),
            ("in.mp4", "out.mp4", ["--compare"], "--compare is for images")):
        status, _, said = translated(checkpoint, tmp_path / name, tmp_path / output, *flags)
        assert status == 2 and message in said and said.count("\n") == 1, said
        assert {path.name for path in tmp_path.iterdir()} == there
    assert seen(source)


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_file_that_ends_early_is_told(same, tmp_path, ending):
    """One that was cut while it was copied has its length at its beginning, and no error on the way."""
    whole, cut = clip(tmp_path / f"in{ending}", range(60), movflags="faststart"), tmp_path / f"cut{ending}"
    content = whole.read_bytes()
    cut.write_bytes(content[: (len(content) + max(0, content.find(b"mdat"))) // 2])
    with pytest.raises(Exception, match=f"cut{ending} is damaged after"):
        translate_video(same, Video(cut), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert translate_video(same, Video(whole), tmp_path / "out.mp4") == 60


def test_what_goes_wrong_on_the_way_is_told_and_leaves_no_file(same, tmp_path):
    """Sizes change, for one, where two recordings were joined byte by byte."""
    source, joined, usual = clip(tmp_path / "in.mp4"), tmp_path / "joined.ts", same.tensor
    parts = [write_video(tmp_path / f"{n}.ts", [np.zeros((48 * n, 64 * n, 3), np.uint8)] * 12, "libx264", "yuv420p")
             for n in (1, 2)]
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    there = {path.name for path in tmp_path.iterdir()}

    def interrupted(pixels):
        raise KeyboardInterrupt

    for path, tensor, most, error, told in (
            (joined, usual, 10**9, DataError, "joined.ts changes its size on the way"),
            (source, lambda pixels: torch.full(pixels.shape, torch.nan), 10**9, DataError,
             "in.mp4 is not translated: the network's output is not finite"),
            (source, interrupted, 10**9, KeyboardInterrupt, ""), (source, usual, 1000, OSError, "File too large")):
        same.tensor = tensor
        with pytest.raises(error, match=told), files_up_to(most):
            translate_video(same, Video(path), tmp_path / "out.mp4")
        assert {path.name for path in tmp_path.iterdir()} == there


def memory():
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_frames(same, tmp_path, monkeypatch):
    source, used = clip(tmp_path / "in.mp4", range(2000), size=(160, 120)), []
    frames = video_module.translate_frames
    monkeypatch.setattr(video_module, "translate_frames", lambda *args: used.append(memory()) or frames(*args))
    translate_video(same, Video(source), tmp_path / "out.mp4")
    assert len(used) == 2000 and max(used[300:]) - used[300] < 30e6  # a frame is 58 kB: kept, they would be 98 MB
