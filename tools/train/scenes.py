"""Draws the scenes that the embedded model is trained and tested on, and writes their questions.

A scene is one picture (or a clip of frames) with labelled objects. Everything comes from a numpy Generator, so a
seed fixes all of it. Real handwritten digits come from scikit-learn.
"""
import io

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (205, 35, 40), "green": (40, 150, 55), "blue": (40, 70, 200), "yellow": (235, 215, 45),
    "purple": (130, 45, 160), "orange": (240, 130, 25), "white": (248, 248, 248), "black": (12, 12, 14),
}
SHAPES = ["circle", "square", "triangle", "cross"]
COLOR_NAMES = list(COLORS)
# Classes of the dense head: 0 nothing, then colour x shape, then the digits.
N_CLASSES = 1 + len(COLOR_NAMES) * len(SHAPES) + 10
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
REGIONS = [["top left", "top", "top right"], ["left", "center", "right"],
           ["bottom left", "bottom", "bottom right"]]
_digits = None
_noise = None


def digit_bank(split):
    """8x8 digits (values 0..16) and labels; the first 1,400 are for training, the rest for testing."""
    global _digits
    if _digits is None:
        from sklearn.datasets import load_digits
        d = load_digits()
        _digits = d.images.astype(np.float32), d.target
    images, labels = _digits
    return (images[:1400], labels[:1400]) if split == "train" else (images[1400:], labels[1400:])


def noise_bank():
    global _noise
    if _noise is None:
        _noise = np.random.default_rng(1).standard_normal((700, 700, 3)).astype(np.float32)
    return _noise


class Scene:
    """frames: list of [h, w, 3] uint8; objects: dicts with kind, color, shape, digit, box (x1, y1, x2, y2)."""

    def __init__(self, frames, objects, direction=None):
        self.frames, self.objects, self.direction = frames, objects, direction


def background(rng, w, h):
    kind = rng.integers(4)
    base = rng.uniform(85, 175) + rng.uniform(-14, 14, 3)
    y, x = np.mgrid[0:h, 0:w]
    if kind == 0:
        t = np.zeros((h, w))
        other = base
    elif kind == 1:
        other = base + rng.uniform(-40, 40)
        t = x / w if rng.random() < 0.5 else y / h
    else:
        step = int(rng.integers(6, 22))
        other = base + rng.uniform(-24, 24)
        if kind == 2:
            t = ((x if rng.random() < 0.5 else y) // step) % 2
        else:
            t = ((x // step) + (y // step)) % 2
    bg = (base + (other - base) * t[..., None]).astype(np.float32)
    # A thin dark frame, as prints have: without any mark at the border, nothing tells a tower with relative positions
    # alone where in the picture a patch lies.
    f = 3
    bg[:f], bg[-f:], bg[:, :f], bg[:, -f:] = 35, 35, 35, 35
    return bg


def polygon(shape, cx, cy, r):
    if shape == "triangle":
        return [(cx - r, cy + r), (cx, cy - r), (cx + r, cy + r)]
    t = 0.36 * r
    return [(cx - t, cy - r), (cx + t, cy - r), (cx + t, cy - t), (cx + r, cy - t), (cx + r, cy + t),
            (cx + t, cy + t), (cx + t, cy + r), (cx - t, cy + r), (cx - t, cy + t), (cx - r, cy + t),
            (cx - r, cy - t), (cx - t, cy - t)]


def tint(rng, color):
    c = np.array(COLORS[color], np.float32) + rng.uniform(-14, 14, 3)
    return tuple(int(v) for v in np.clip(c, 0, 255))


def paint(draw, shape, color, cx, cy, r):
    """Draws and returns the box that the pixels cover."""
    if shape in ("circle", "square"):
        box = [cx - r, cy - r, cx + r, cy + r]
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=color)
        return box
    pts = polygon(shape, cx, cy, r)
    draw.polygon(pts, fill=color)
    xs, ys = zip(*pts)
    return [min(xs), min(ys), max(xs), max(ys)]


def place(rng, boxes, w, h, r, tries=40):
    for _ in range(tries):
        cx, cy = rng.uniform(r + 4, w - r - 4), rng.uniform(r + 4, h - r - 4)
        if all(cx + r + 3 < b[0] or cx - r - 3 > b[2] or cy + r + 3 < b[1] or cy - r - 3 > b[3] for b in boxes):
            return round(cx), round(cy)
    return None


def finish(rng, arr, out_w, out_h, sigma, jpeg):
    """Noise, an optional JPEG round trip, and the resize that the processor would do."""
    h, w = arr.shape[:2]
    y0, x0 = int(rng.integers(0, 700 - h)), int(rng.integers(0, 700 - w))
    im = Image.fromarray(np.clip(arr + sigma * noise_bank()[y0:y0 + h, x0:x0 + w], 0, 255).astype(np.uint8))
    if jpeg:
        buf = io.BytesIO()
        im.save(buf, "JPEG", quality=int(rng.integers(75, 95)))
        im = Image.open(buf).convert("RGB")
    if (out_w, out_h) != im.size:
        im = im.resize((out_w, out_h), Image.BICUBIC)
    return np.asarray(im)


def paste_digit(rng, im, split, boxes):
    """A handwritten digit as an object, or None when there is no room."""
    side = min(im.size)
    images, labels = digit_bank(split)
    i = int(rng.integers(len(labels)))
    s = int(rng.uniform(30, max(34, min(110, 0.6 * side))))
    at = place(rng, boxes, *im.size, s / 2)
    if at is None:
        return None, None
    g = Image.fromarray((images[i] * 15.9).astype(np.uint8)).resize((s, s), Image.BILINEAR)
    x0, y0 = int(at[0] - s / 2), int(at[1] - s / 2)
    im.paste(Image.new("RGB", (s, s), tint(rng, "black" if rng.random() < 0.5 else "white")), (x0, y0), g)
    ys, xs = np.nonzero(np.asarray(g) > 60)
    box = [int(x0 + xs.min()), int(y0 + ys.min()), int(x0 + xs.max()), int(y0 + ys.max())]
    return {"kind": "digit", "digit": int(labels[i]), "box": box}, [x0, y0, x0 + s, y0 + s]


def draw_scene(rng, w, h, split, draw_size=None, clean=False, digit_share=0.22, many=False):
    """A still scene of w x h pixels. With draw_size it is drawn at that size and resized; boxes follow. clean leaves out
    noise and JPEG traces; digit_share of the scenes hold a digit, with many several of them."""
    dw, dh = draw_size or (w, h)
    im = Image.fromarray(background(rng, dw, dh).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(im)
    side = min(dw, dh)
    n = int(rng.integers(1, 5)) if side >= 112 else int(rng.integers(1, 3))
    objects, boxes, used = [], [], set()
    if rng.random() < digit_share:
        for _ in range(int(rng.integers(1, 4)) if many else 1):
            o, outer = paste_digit(rng, im, split, boxes)
            if o:
                objects.append(o), boxes.append(outer)
        if objects:
            n = int(rng.integers(0, 3))
    for _ in range(n):
        color, shape = COLOR_NAMES[rng.integers(len(COLOR_NAMES))], SHAPES[rng.integers(len(SHAPES))]
        if (color, shape) in used and rng.random() < 0.7:
            continue
        r = rng.uniform(12, max(15, min(44, 0.27 * side)))
        at = place(rng, boxes, dw, dh, r)
        if at is None:
            continue
        box = paint(draw, shape, tint(rng, color), at[0], at[1], round(r))
        used.add((color, shape)), boxes.append(box)
        objects.append({"kind": "shape", "color": color, "shape": shape, "box": box})
    if not objects:
        return draw_scene(rng, w, h, split, draw_size, clean, digit_share, many)
    sigma, jpeg = rng.uniform(0, 9), rng.random() < 0.2
    arr = finish(rng, np.asarray(im, np.float32), w, h, 0 if clean else sigma, jpeg and not clean)
    sx, sy = w / dw, h / dh
    for o in objects:
        b = o["box"]
        o["box"] = [b[0] * sx, b[1] * sy, (b[2] + 1) * sx, (b[3] + 1) * sy]
    return Scene([arr], objects)


def draw_clip(rng, w, h, n_frames):
    """A shape that moves in one of four directions over n_frames frames."""
    color, shape = COLOR_NAMES[rng.integers(len(COLOR_NAMES))], SHAPES[rng.integers(len(SHAPES))]
    name = list(DIRECTIONS)[rng.integers(4)]
    dx, dy = DIRECTIONS[name]
    r = round(rng.uniform(11, max(12, 0.18 * min(w, h))))
    along = w if dx else h
    room = along - 2 * r - 10
    step = rng.uniform(min(5, room / n_frames), room / (n_frames - 1))
    start = rng.uniform(r + 4, along - r - 5 - step * (n_frames - 1))
    across = round(rng.uniform(r + 4, (h if dx else w) - r - 4))
    bg, ink = background(rng, w, h).clip(0, 255).astype(np.uint8), tint(rng, color)
    sigma = rng.uniform(0, 6)
    frames, boxes = [], []
    for i in range(n_frames):
        t = round(start + step * (i if dx + dy > 0 else n_frames - 1 - i))
        cx, cy = (t, across) if dx else (across, t)
        im = Image.fromarray(bg)
        boxes.append(paint(ImageDraw.Draw(im), shape, ink, cx, cy, r))
        frames.append(finish(rng, np.asarray(im, np.float32), w, h, sigma, False))
    return Scene(frames, [{"kind": "shape", "color": color, "shape": shape, "box": boxes[0], "boxes": boxes}], name)


def name_of(o):
    return "digit" if o["kind"] == "digit" else f"{o['color']} {o['shape']}"


def center(o):
    b = o["box"]
    return (b[0] + b[2]) / 2, (b[1] + b[3]) / 2


def region(o, w, h):
    """The ninth of the picture that the centre lies in; None when it is too near a border between two."""
    out = []
    for v, n in zip(center(o), (w, h)):
        t = v / n * 3
        if min(abs(t - 1), abs(t - 2)) < 0.15:
            return None
        out.append(int(min(2, t)))
    return REGIONS[out[1]][out[0]]


def caption(objects):
    parts = []
    for o in sorted(objects, key=lambda o: center(o)[0]):
        n = name_of(o)
        parts.append(f"the digit {o['digit']}" if o["kind"] == "digit" else ("an " if n[0] in "aeiou" else "a ") + n)
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return text[0].upper() + text[1:] + "."


def box_json(o):
    return '{"bbox_2d": [%d, %d, %d, %d], "label": "%s"}' % (*(int(round(v)) for v in o["box"]), name_of(o))


def questions(scene, rng):
    """All sensible (kind, question, answer, object) of a still scene; boxes and digits count twice."""
    h, w = scene.frames[0].shape[:2]
    objs = scene.objects
    shapes = [o for o in objs if o["kind"] == "shape"]
    digits = [o for o in objs if o["kind"] == "digit"]
    qs, by_shape, by_color = [], {}, {}
    for o in shapes:
        by_shape.setdefault(o["shape"], []).append(o)
        by_color.setdefault(o["color"], []).append(o)
    qs += [("color", f"What color is the {s}?", v[0]["color"], v[0]) for s, v in by_shape.items() if len(v) == 1]
    qs += [("shape", f"What shape is the {c} object?", v[0]["shape"], v[0]) for c, v in by_color.items() if len(v) == 1]
    qs.append(("count", "How many objects are there?", str(len(objs)), None))
    s = SHAPES[rng.integers(len(SHAPES))] if rng.random() < 0.4 or not shapes else shapes[rng.integers(len(shapes))]["shape"]
    qs.append(("count", f"How many {'crosses' if s == 'cross' else s + 's'} are there?", str(len(by_shape.get(s, []))), None))
    for o in (o for o in objs if sum(name_of(p) == name_of(o) for p in objs) == 1):
        g = region(o, w, h)
        if g:
            qs.append(("where", f"Where is the {name_of(o)}?", g, o))
        qs += [("bbox", f"Locate the {name_of(o)} and give its box as JSON.", box_json(o), o)] * 2
    if len(shapes) >= 2 and not digits:
        xs = sorted(shapes, key=lambda o: center(o)[0])
        if center(xs[1])[0] - center(xs[0])[0] > 12:
            qs.append(("color", "What color is the leftmost object?", xs[0]["color"], xs[0]))
        if center(xs[-1])[0] - center(xs[-2])[0] > 12:
            qs.append(("shape", "What shape is the rightmost object?", xs[-1]["shape"], xs[-1]))
    qs += [("digit", "Which digit is in the picture?", str(o["digit"]), o) for o in digits for _ in range(2)]
    qs.append(("caption", "Describe the picture in one sentence.", caption(objs), None))
    return qs


def clip_questions(scene):
    o = scene.objects[0]
    return [("direction", f"Which way does the {o['shape']} move?", scene.direction, o),
            ("direction", "Which way does the object move?", scene.direction, o),
            ("color", f"What color is the {o['shape']}?", o["color"], o),
            ("shape", f"What shape is the {o['color']} object?", o["shape"], o)]


def text_pairs(rng):
    """A few words without a picture."""
    a, b = int(rng.integers(0, 10)), int(rng.integers(0, 10))
    fixed = [("Who are you?", "I am a small model that looks at pictures."),
             ("Hello!", "Hello! Show me a picture."),
             ("What can you do?", "I can name colors and shapes, count, read a digit and find boxes.")]
    pairs = fixed + [(f"What is {a} plus {b}?", str(a + b))] * 3
    return pairs[rng.integers(len(pairs))]
