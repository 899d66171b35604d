#!/usr/bin/env python3
"""Writes tests/golden/vision: small pictures and clips, and what Pillow, PyAV and transformers make
of them (decoding, resize, pixel values, smart_resize, frame sampling).

    python tests/oracle/gen_vision.py

Pictures and clips that are there already are kept: encoders differ by version.
"""
import importlib.metadata
import json
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image, ImageOps
from transformers import Qwen2VLVideoProcessor
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil, smart_resize)
from transformers.video_utils import VideoMetadata

ROOT = Path(__file__).resolve().parent.parent / "golden" / "vision"
LIMITS = {"shortest_edge": 3136, "longest_edge": 12845056}


def draw(height, width, frame=0):
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    out = np.stack([(7 * y + 13 * x + 29 * c + 5 * ((x * y) >> 3) + 37 * frame) & 255
                    for c in range(3)], -1)
    disc = (y - height // 2) ** 2 + (x - 10 - 6 * frame) ** 2 < (height // 4) ** 2
    out[disc] = [220, 40, 90]
    return out.astype(np.uint8)


def smooth(height, width, frame=0):
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.stack([127 + 100 * np.sin((x + 5 * frame) / 17 + c) * np.cos(y / 13 + c)
                    for c in range(3)], -1)
    return out.astype(np.uint8)


def png16(a, colour, extra=b""):
    """A 16-bit PNG: Pillow writes none but grey."""
    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in a)
    head = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], 16, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra +
            chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def adam7(a):
    """The same pixels in seven passes, 8-bit RGB."""
    raw = b""
    for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                           (0, 1, 2, 2), (1, 0, 2, 1)):
        part = a[y0::dy, x0::dx]
        if part.size:
            raw += b"".join(b"\0" + np.ascontiguousarray(r).tobytes() for r in part)
    one = png16(a.astype(np.uint16), 2)
    head = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], 8, 2, 0, 0, 1)

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    return one[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + one[-12:]


def pictures():
    rgb = Image.fromarray(draw(45, 61))
    y, x = np.mgrid[0:45, 0:61]
    alpha = ((11 * y + 7 * x) % 256).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([draw(45, 61), alpha]))
    wide = (np.dstack([draw(15, 21), draw(15, 21, 3)]).astype(np.uint16) * 257 + 100) & 0xffff
    soft = Image.fromarray(smooth(50, 70))
    save = {}
    for name, im, opt in [
            ("rgb.png", rgb, {}), ("grey.png", rgb.convert("L"), {}),
            ("bit.png", rgb.convert("1"), {}), ("palette.png", rgb.quantize(60), {}),
            ("palette4.png", rgb.quantize(14), {"bits": 4}),
            ("palette-trns.png", rgb.quantize(14), {"transparency": 3}),
            ("grey-trns.png", rgb.convert("L"), {"transparency": 60}),
            ("rgba.png", rgba, {}), ("la.png", rgba.convert("LA"), {}),
            ("grey16.png", Image.fromarray((y * 9 + x).astype(np.uint16)), {}),
            ("soft.jpg", soft, {"quality": 85}),
            ("soft444.jpg", soft, {"quality": 90, "subsampling": 0}),
            ("progressive.jpg", soft, {"quality": 70, "progressive": True}),
            ("grey.jpg", soft.convert("L"), {}), ("cmyk.jpg", soft.convert("CMYK"), {}),
            ("lossy.webp", soft, {"quality": 60}), ("lossless.webp", rgb, {"lossless": True}),
            ("alpha.webp", rgba, {"quality": 60}),
            ("wide.png", Image.fromarray(smooth(90, 71)), {}),
            ("shrink-grow.png", Image.fromarray(draw(113, 41)), {})]:
        save[name] = lambda p, im=im, opt=opt: im.save(p, **opt)
    for o in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = o
        save[f"exif{o}.jpg"] = lambda p, e=exif: soft.crop((0, 0, 33, 20)).save(
            p, quality=80, exif=e)
    save["exif6.webp"] = lambda p: soft.save(p, quality=50, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01"
                                             b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    save["rgb16.png"] = lambda p: p.write_bytes(png16(wide[..., :3], 2))
    save["rgba16.png"] = lambda p: p.write_bytes(png16(wide[..., :4], 6))
    save["la16.png"] = lambda p: p.write_bytes(png16(wide[..., :2], 4))
    save["adam7.png"] = lambda p: p.write_bytes(adam7(draw(45, 61)))
    return save


CLIPS = {"h264.mp4": ("libx264", 7, 6), "mpeg4.mp4": ("mpeg4", 5, 2)}


def write_clip(path, codec, frames, fps):
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 74, 50, "yuv420p"
        stream.options = {"crf": "20"} if codec == "libx264" else {"qscale": "3"}
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        for i in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(smooth(50, 74, i), "rgb24")):
                box.mux(packet)
        for packet in stream.encode():
            box.mux(packet)


def patches(values):
    a = np.ascontiguousarray(np.asarray(values, np.float32))
    flat = a.ravel()
    at = np.linspace(0, flat.size - 1, 60).astype(int)
    return {"rows": a.shape[0], "dim": a.shape[1], "crc": zlib.crc32(a.tobytes()),
            "sum": float(flat.astype(np.float64).sum()), "at": at.tolist(),
            "values": [float(v) for v in flat[at]]}


def image_case(name):
    rgb = convert_to_rgb(ImageOps.exif_transpose(Image.open(ROOT / name)), return_numpy=True)
    case = {"file": name, "width": rgb.shape[1], "height": rgb.shape[0],
            "crc": zlib.crc32(rgb.tobytes())}
    out = Qwen2VLImageProcessorPil(size=dict(LIMITS))(Image.fromarray(rgb), return_tensors="np")
    case["grid"] = out["image_grid_thw"][0].tolist()
    case["patches"] = patches(out["pixel_values"])
    h, w = case["grid"][1] * 14, case["grid"][2] * 14
    case["resized_pillow"] = zlib.crc32(
        np.array(Image.fromarray(rgb).resize((w, h), Image.BICUBIC)).tobytes())
    small = tvf.resize(torch.from_numpy(rgb.copy()).permute(2, 0, 1), [h, w],
                       tvf.InterpolationMode.BICUBIC, antialias=True)
    case["resized_torch8"] = zlib.crc32(small.permute(1, 2, 0).contiguous().numpy().tobytes())
    return case


def video_case(name, fps):
    with av.open(str(ROOT / name)) as box:
        rate = float(box.streams.video[0].average_rate)
        frames = np.stack([f.to_ndarray(format="rgb24") for f in box.decode(video=0)])
    meta = VideoMetadata(total_num_frames=len(frames), fps=rate)
    extra = {"do_sample_frames": True, "fps": fps} if fps else {"do_sample_frames": False}
    out = Qwen2VLVideoProcessor(size=dict(LIMITS))(
        [frames], video_metadata=[meta], return_metadata=True, return_tensors="pt", **extra)
    got = out["video_metadata"][0]
    taken = got.frames_indices
    taken = list(range(len(frames))) if taken is None else [int(i) for i in taken]
    return {"file": name, "fps": fps, "grid": out["video_grid_thw"][0].tolist(),
            "total": len(frames), "rate": rate, "indices": taken,
            "second_per_grid": 2 / (len(taken) / len(frames) * rate),
            "patches": patches(out["pixel_values_videos"])}


def resize_table():
    rng = np.random.default_rng(5)
    rows = []
    sizes = [(28, 28), (224, 224), (14, 1000), (13, 600), (42, 70), (98, 41), (1, 200), (1, 201),
             (3000, 4000), (5000, 5000), (100, 10000), (1, 1), (29, 4000)]
    sizes += [tuple(int(v) for v in np.exp(rng.uniform(1, 8.5, 2))) for _ in range(190)]
    for i, (h, w) in enumerate(sizes):
        lo, hi = [(3136, 12845056), (200704, 1003520), (3136, 50000)][i % 3]
        factor = [28, 28, 32, 28][i % 4]
        try:
            rows.append([h, w, factor, lo, hi, *smart_resize(h, w, factor, lo, hi)])
        except ValueError:
            rows.append([h, w, factor, lo, hi, 0, 0])
    return rows


def sampling_table():
    """[total, rate, fps, indices]; what transformers gets past the end (torch.arange takes one step
    too many for some lengths, and the index is then out of range) is left out."""
    rows = []
    p = Qwen2VLVideoProcessor()
    for total, rate, fps in [(300, 30, 2), (90, 30, 2), (30, 30, 2), (5, 30, 2), (101, 24, 2),
                             (7, 6, 2), (8, 4, 2), (3000, 25, 2), (123, 29.97, 2), (250, 23.976, 1),
                             (64, 8, 3), (77, 10, 4), (2, 2, 2), (1999, 60, 0.5), (4, 1, 2)]:
        meta = VideoMetadata(total_num_frames=total, fps=rate)
        got = [int(i) for i in p.sample_frames(meta, fps=fps)]
        if got[-1] < total and len(got) % 2 == 0:
            rows.append([total, rate, fps, got])
    return rows


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    save = pictures()
    for name, write in save.items():
        if not (ROOT / name).exists():
            write(ROOT / name)
    for name, (codec, frames, fps) in CLIPS.items():
        if not (ROOT / name).exists():
            write_clip(ROOT / name, codec, frames, fps)
    names = ["transformers", "torch", "torchvision", "pillow", "av", "numpy"]
    out = {"versions": {n: importlib.metadata.version(n) for n in names},
           "images": [image_case(n) for n in sorted(save)],
           "videos": [video_case("h264.mp4", 2), video_case("h264.mp4", 0),
                      video_case("h264.mp4", 5), video_case("mpeg4.mp4", 2)],
           "smart_resize": resize_table(), "sampling": sampling_table()}
    text = json.dumps(out, separators=(",", ":")).replace("},{", "},\n{").replace("],[", "],\n[")
    (ROOT / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
