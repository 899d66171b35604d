"""Pictures and clips of the fixtures, drawn by formula, and their decoding for the oracle.

The clips named *-rgb.mp4 are lossless H.264 in RGB: every FFmpeg gives the same frames, so that
what is compared end to end is the sampling and the model, not a colour conversion. clip-yuv.mp4 is
an everyday H.264 4:2:0 file.
"""
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

# name: height, width, seed. 56x84 needs no resize; the others do: 75x90 -> 84x84 (window
# attention with ragged windows on both sides), 59x65 -> 56x56. With these sizes Pillow 13 runs the
# horizontal pass first, as Pillow up to 12 always did; a height that shrinks a good deal more than
# the width makes it run the vertical pass first.
IMAGES = {"even.png": (56, 84, 0), "odd-a.png": (75, 90, 1), "odd-b.png": (59, 65, 2)}
# name: frames, fps, height, width, seed, codec, pixel format
CLIPS = {
    "six-rgb.mp4": (6, 2, 56, 56, 3, "libx264rgb", "rgb24"),
    "five-rgb.mp4": (5, 3, 56, 56, 4, "libx264rgb", "rgb24"),
    "slow-rgb.mp4": (4, Fraction(1, 4), 56, 56, 6, "libx264rgb", "rgb24"),
    "clip-yuv.mp4": (8, 4, 64, 80, 5, "libx264", "yuv420p"),
}


def draw(height, width, seed, frame=0):
    """A gradient with a disc and a bar that move by the frame: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    out = np.empty((height, width, 3), np.int64)
    for c in range(3):
        out[..., c] = (3 * y * (c + 1) + 2 * x * (3 - c) + 41 * seed + 30 * c) % 256
    cy, cx = height // 2 + 3 * seed - 6, 12 + 7 * frame + 5 * seed
    disc = (y - cy) ** 2 + (x - cx) ** 2 < (height // 5) ** 2
    out[disc] = [(200 + 50 * seed) % 256, (40 * seed) % 256, (90 + 70 * seed) % 256]
    bar = (y // 4 + frame) % 9 == 0
    out[bar] = (out[bar] + 97) % 256
    return out.astype(np.uint8)


def write(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (h, w, seed) in IMAGES.items():
        Image.fromarray(draw(h, w, seed)).save(folder / name, optimize=True)
    for name, (n, fps, h, w, seed, codec, fmt) in CLIPS.items():
        path = folder / name
        if path.exists():  # encoders differ by version; the committed file is the fixture
            continue
        write_clip(path, n, fps, h, w, seed, codec, fmt)


def write_clip(path, n, fps, h, w, seed, codec, fmt):
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = w, h, fmt
        stream.options = {"qp": "0"} if codec.endswith("rgb") else {"crf": "20"}
        stream.codec_context.time_base = 1 / Fraction(fps)
        stream.codec_context.thread_count = 1
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(draw(h, w, seed, i), format="rgb24")
            for packet in stream.encode(frame):
                box.mux(packet)
        for packet in stream.encode():
            box.mux(packet)


def read_clip(path):
    """All frames [n, h, w, 3] uint8 and the average rate."""
    with av.open(str(path)) as box:
        stream = box.streams.video[0]
        rate = float(stream.average_rate)
        stream.thread_type = "NONE"
        frames = [f.to_ndarray(format="rgb24") for f in box.decode(video=0)]
    return np.stack(frames), rate


def read_image(path):
    return Image.open(path).convert("RGB")
