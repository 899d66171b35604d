"""Draws the test split and the calibration conversations (JSON lines beside their pictures and clips)."""
import argparse
import json
import os
from fractions import Fraction

import av
import numpy as np
from PIL import Image

import scenes

MIN_PIXELS, MAX_PIXELS = 84 * 84, 280 * 280


def write_image(rng, image, path):
    picture = Image.fromarray(image)
    if path.endswith(".png"):
        picture.save(path, optimize=True)
    elif path.endswith(".webp"):
        picture.save(path, "WEBP", quality=int(rng.integers(80, 93)), method=6)
    else:
        picture.save(path, "JPEG", quality=int(rng.integers(82, 94)), optimize=True)


def write_clip(frames, fps, codec, path):
    with av.open(path, "w") as box:
        stream = box.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17", "preset": "slow"} if codec == "libx264" else {"qscale": "4"}
        if codec == "mpeg4":
            stream.bit_rate = 600000
        for f in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(f, format="rgb24")):
                box.mux(packet)
        for packet in stream.encode():
            box.mux(packet)


def smart_resize(height, width, lo=MIN_PIXELS, hi=MAX_PIXELS, factor=28):
    """As transformers computes it for the limits of this model's processor (round half to even)."""
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > hi:
        beta = (height * width / hi) ** 0.5
        h, w = (max(factor, int(v / beta / factor) * factor) for v in (height, width))
    elif h * w < lo:
        beta = (lo / (height * width)) ** 0.5
        h, w = (-int(-v * beta // factor) * factor for v in (height, width))
    return h, w


def draw_size(rng, gw, gh, exact):
    """Width and height in pixels that the processor resizes to gw x gh merged tokens."""
    w, h = gw * 28, gh * 28
    for _ in range(20 if rng.random() > exact else 0):
        x, y = w + int(rng.integers(-13, 14)), h + int(rng.integers(-13, 14))
        if smart_resize(y, x) == (h, w):
            return x, y
    return w, h


def image_item(name):
    return {"type": "image", "image": name}


def user(items, question):
    return {"role": "user", "content": items + [{"type": "text", "text": question}]}


def one_image(rng, folder, name, split, want=None, top=None):
    """Draws until the scene has what is wanted: "digit", "shapes" or anything."""
    while True:
        top_now = top or (7 if rng.random() < 0.7 else 11)
        w, h = draw_size(rng, *(int(v) for v in rng.integers(3, top_now, 2)), 0.55)
        s = scenes.draw_scene(rng, w, h, split, clean=name.endswith((".png", ".jpg")) and rng.random() < 0.7)
        if want is None or (want == "digit") == any(o["kind"] == "digit" for o in s.objects):
            break
    write_image(rng, s.frames[0], os.path.join(folder, name))
    return s


# Frames, frames a second, frames taken: the processor takes two a second but at least four.
CLIPS = [(4, 2, 4), (6, 2, 6), (8, 4, 4), (4, 2, 4), (16, 8, 4)]


def one_clip(rng, folder, name, i):
    total, fps, taken = CLIPS[i % len(CLIPS)]
    while True:     # time positions stay below the largest side, so that every version of the rule says the same
        gw, gh = (int(v) for v in rng.integers(3, 7, 2))
        if taken - 2 < max(gw, gh):
            break
    w, h = draw_size(rng, gw, gh, 0.6)
    w, h = w + w % 2, h + h % 2
    if smart_resize(h, w) != (gh * 28, gw * 28):
        w, h = gw * 28, gh * 28
    s = scenes.draw_clip(rng, w, h, total)
    write_clip(s.frames, fps, "mpeg4" if i % 3 == 2 else "libx264", os.path.join(folder, name))
    return s


def pair_questions(rng, scs):
    """As batch.py asks over two pictures."""
    qs, names = [], [[scenes.name_of(o) for o in sc.objects] for sc in scs]
    for i, own in enumerate(names):
        for n in sorted(set(own) - set(names[1 - i])):
            qs.append(("which", f"In which picture is the {n}?", ("first", "second")[i], None))
        qs.append(("count2", f"How many objects are in the {('first', 'second')[i]} picture?", str(len(own)), None))
    return [qs[i] for i in rng.permutation(len(qs))]


def shuffled(rng, qs):
    """Each question once, in a random order."""
    seen = {}
    for q in qs:
        seen.setdefault(q[1], q)
    qs = list(seen.values())
    return [qs[i] for i in rng.permutation(len(qs))]


def test_split(folder, seed):
    rng, lines = np.random.default_rng(seed), []

    def add(items, q):
        line = {"messages": [user(items, q[1])], "kind": q[0]}
        if q[0] == "bbox":
            line["bbox"] = [round(float(v), 2) for v in q[3]["box"]]
        elif q[0] == "caption":
            line["reference"] = q[2]
        else:
            line["answer"] = q[2]
        lines.append(line)

    for i in range(100):
        name = f"test-{i:03d}." + ("png" if i % 10 in (0, 3, 6) else "webp" if i % 10 == 9 else "jpg")
        s = one_image(rng, folder, name, "test", "digit" if i % 10 in (2, 5, 6) else "shapes")
        qs = shuffled(rng, scenes.questions(s, rng))
        by = lambda *kinds: [q for q in qs if q[0] in kinds]
        digits = by("digit")[:1]
        picked = digits + by("color", "shape", "count", "where")[:2 if digits else 3] + by("bbox")[:1]
        for q in picked + (by("caption") if i % 5 == 0 else []):
            add([image_item(name)], q)
    for i in range(8):
        names = [f"pair-{i}a.jpg", f"pair-{i}b.png"]
        both = [one_image(rng, folder, n, "test", "shapes", 7) for n in names]
        for q in pair_questions(rng, both)[:3]:
            add([image_item(n) for n in names], q)
    for i in range(40):
        name = f"clip-{i:02d}.mp4"
        qs = scenes.clip_questions(one_clip(rng, folder, name, i))
        item = {"type": "video", "video": name}
        add([item], qs[i % 2])
        if i % 4 == 0:
            add([item], qs[2 + i // 4 % 2])
    for _ in range(4):
        q, a = scenes.text_pairs(rng)
        lines.append({"messages": [{"role": "user", "content": q}], "kind": "text", "answer": a})
    return lines


def resized(q, s):
    """The answer with its box in pixels of what the processor makes of the picture."""
    if q[0] != "bbox":
        return q[2]
    h, w = s.frames[0].shape[:2]
    rh, rw = smart_resize(h, w)
    b = q[3]["box"]
    return scenes.box_json(dict(q[3], box=[b[0] * rw / w, b[1] * rh / h, b[2] * rw / w, b[3] * rh / h]))


def calibration(folder, seed):
    rng, lines = np.random.default_rng(seed), []

    def talk(items, pairs):
        messages = []
        for i, (q, a) in enumerate(pairs):
            messages.append(user(items, q) if i == 0 and items else {"role": "user", "content": q})
            messages.append({"role": "assistant", "content": a})
        lines.append({"messages": messages})

    for i in range(44):
        name = f"calib-{i:02d}." + ("png" if i % 8 == 0 else "jpg")
        s = one_image(rng, folder, name, "train", "digit" if i % 4 == 1 else "shapes")
        qs = shuffled(rng, scenes.questions(s, rng))
        boxes, rest = [q for q in qs if q[0] == "bbox"], [q for q in qs if q[0] != "bbox"]
        qs = boxes[:1] + rest if i % 2 else rest[:1] + boxes[:1] + rest[1:]
        talk([image_item(name)], [(q[1], resized(q, s)) for q in qs[:[1, 1, 2, 4][i % 4]]])
    for i in range(8):
        name = f"calib-clip-{i}.mp4"
        qs = shuffled(rng, scenes.clip_questions(one_clip(rng, folder, name, i)))
        talk([{"type": "video", "video": name}], [(q[1], q[2]) for q in qs[:1 + i % 3]])
    for i in range(4):
        names = [f"calib-pair-{i}a.jpg", f"calib-pair-{i}b.jpg"]
        both = [one_image(rng, folder, n, "train", "shapes", 7) for n in names]
        talk([image_item(n) for n in names], [q[1:3] for q in pair_questions(rng, both)[:2]])
    for i in range(8):
        talk([], [scenes.text_pairs(rng) for _ in range(1 + i % 2)])
    return [lines[i] for i in rng.permutation(len(lines))]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for name, lines in (("test.jsonl", test_split(a.out, 20261)), ("calib.jsonl", calibration(a.out, 40771))):
        with open(os.path.join(a.out, name), "w") as f:
            f.writelines(json.dumps(x) + "\n" for x in lines)
        print(name, len(lines))


if __name__ == "__main__":
    main()
