#!/usr/bin/env bash
# Guess: a frame's `rotation` in PyAV is all that one needs to show the frame as players do.
# What happens: it is the angle of FFmpeg's display matrix, which may mirror as well, and the angle alone cannot tell. Of
# a file that is mirrored left to right, as front cameras leave it, rotation is -180, as of one that stands on its head;
# of one mirrored top to bottom it is 0, as of an upright one. Turned by it, the first comes out mirrored along the other
# axis. The matrix itself, nine numbers in the frame's side data (DISPLAYMATRIX), tells: where its determinant is below
# 0, the picture is mirrored.
# Versions: av 18.1.0 (libavutil 60.26.102), NumPy 2.4.6.
# Why it matters here: frames of videos become pairs (a sketch from a frame, two cameras), and a mirrored side never fits
# the other one, without an error.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import struct

import av
import numpy as np

print(f"av {av.__version__}, libavutil {'.'.join(map(str, av.library_versions['libavutil']))}")
with av.open("plain.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
    file.mux(stream.encode())
content = open("plain.mp4", "rb").read()
at = content.index(b"tkhd") + 44  # the matrix in the track's header
expected = {"upright": ((1, 0, 0, 1), 0, 1), "on its head": ((-1, 0, 0, -1), -180, 1),
            "mirrored left to right": ((-1, 0, 0, 1), -180, -1), "mirrored top to bottom": ((1, 0, 0, -1), 0, -1)}
for name, ((a, b, c, d), rotation, sign) in expected.items():
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    with open("told.mp4", "wb") as file:
        file.write(content[:at] + matrix + content[at + 36 :])
    with av.open("told.mp4") as file:
        frame = next(file.decode(video=0))
    told = frame.side_data.get("DISPLAYMATRIX")
    numbers = np.frombuffer(bytes(told), np.int32).reshape(3, 3)[:2, :2] / 2**16 if told else np.eye(2)
    print(f"{name}: rotation {frame.rotation}, determinant {np.linalg.det(numbers):.0f}")
    assert (frame.rotation, round(np.linalg.det(numbers))) == (rotation, sign)
PYTHON
