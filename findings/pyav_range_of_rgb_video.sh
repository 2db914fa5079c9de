#!/usr/bin/env bash
# Guess: a frame of a video of RGB, made yuv420p by `reformat` and encoded, comes back as it was, as one of an array does.
# What happens: the frame of the array becomes YUV from 16 to 235, as every player expects. The frame that was decoded is
# tagged as full range, and becomes YUV from 0 to 255 by that tag; the encoder takes its range from the codec context
# alone, which nobody has set, so that the file tells none and is shown with more contrast: 200 of 255 comes back as 209,
# and 40 as 26. `dst_color_range=1` (MPEG), or the tag copied to the context, keeps the colours.
# Versions: av 18.1.0 (libavutil 60.26.102), NumPy 2.4.6.
# Why it matters here: renders and captures of screens (libx264rgb) become inputs, and translated frames become videos;
# the contrast of one side of the pairs is changed without an error.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import av
import numpy as np

print(f"av {av.__version__}, libavutil {'.'.join(map(str, av.library_versions['libavutil']))}")


def write(path, encoder, pix_fmt, frame, **tags):
    with av.open(path, "w") as file:
        stream = file.add_stream(encoder, rate=10, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def read(path):
    with av.open(path) as file:
        return next(file.decode(video=0))


image = np.full((64, 64, 3), (200, 40, 40), np.uint8)
drawn = av.VideoFrame.from_ndarray(image, format="rgb24")
write("rgb.mkv", "libx264rgb", "rgb24", drawn)
ways = {
    "from an array": (drawn, {}, {}, False),
    "decoded": (read("rgb.mkv"), {}, {}, True),
    "decoded, dst_color_range=1": (read("rgb.mkv"), {"dst_color_range": 1}, {}, False),
    "decoded, the tag copied to the context": (read("rgb.mkv"), {}, {"color_range": 2}, False),
}
for name, (frame, words, tags, changed) in ways.items():
    yuv = frame.reformat(format="yuv420p", **words)
    write("yuv.mp4", "libx264", "yuv420p", yuv, **tags)
    back = read("yuv.mp4")
    colour = back.to_ndarray(format="rgb24")[32, 32].astype(int)
    print(f"{name}: range {yuv.color_range} encoded, {back.color_range} told, {image[0, 0]} comes back as {colour}")
    assert (np.abs(colour - image[0, 0]).max() > 8) == changed
PYTHON
