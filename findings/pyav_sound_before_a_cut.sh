#!/usr/bin/env bash
# Guess: copying the sound's packets of a video into another container, as they come from demux(), keeps the length.
# What happens: a video that was cut without encoding anew keeps the sound from before the cut in its file, and an edit
# list hides it. PyAV's demux() hands these packets out nevertheless, at negative times and marked `is_discard`, while
# the stream's start_time says 0. MP4 hides them again; Matroska has no edit lists, moves all to times from 0 on, and
# plays them: of a second of sound, two are heard, and the picture begins a second late.
# Versions: av 18.1.0 (libavformat 62.12.102), NumPy 2.4.6.
# Why it matters here: translated videos get the sound of their source, packet by packet, so that it stays as it is; and
# clips that people translate are cut from longer ones, by phones and by `ffmpeg -ss -c copy`.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import av
import numpy as np

print(f"av {av.__version__}, libavformat {'.'.join(map(str, av.library_versions['libavformat']))}")


def copied(source, made, shift=0, keep=lambda packet: True):
    """Copies the sound; its packets are `shift` seconds earlier."""
    with av.open(source) as old, av.open(made, "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.dts is not None and keep(packet):
                packet.pts -= round(shift / packet.time_base)
                packet.dts -= round(shift / packet.time_base)
                packet.stream = stream
                new.mux(packet)
    with av.open(made) as file:
        return file.duration / 1e6


with av.open("whole.mp4", "w") as file:
    stream = file.add_stream("aac", rate=48000)
    hum = np.sin(np.arange(96000) / 20, dtype=np.float32)[None].repeat(2, 0) / 4
    sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(hum), format="fltp", layout="stereo")
    sound.sample_rate = 48000
    file.mux(stream.encode(sound))
    file.mux(stream.encode())
cut = copied("whole.mp4", "cut.mp4", shift=1)
with av.open("cut.mp4") as file:
    first = next(file.demux(audio=0))
    begin = float(first.pts * first.time_base)
    print(f"the cut file lasts {cut:.2f} s; its first packet is at {begin:.2f} s, discard: {first.is_discard}; "
          f"start_time of the stream: {file.streams.audio[0].start_time}")
    assert round(cut) == 1 and begin < -0.9 and first.is_discard and file.streams.audio[0].start_time == 0
again, matroska = copied("cut.mp4", "again.mp4"), copied("cut.mp4", "made.mkv")
mended = copied("cut.mp4", "mended.mkv", keep=lambda packet: not packet.is_discard)
print(f"copied to MP4 {again:.2f} s, to Matroska {matroska:.2f} s, there without what is marked {mended:.2f} s")
assert round(again) == 1 and round(matroska) == 2 and round(mended) == 1
PYTHON
