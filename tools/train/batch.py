"""Turns scenes into training batches: one grid size a batch, several questions that share a picture as segments which
do not see each other (so each counts as a first question), positions as transformers' get_rope_index gives them."""
import numpy as np
import torch

import scenes

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]) * 255
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]) * 255
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


def patches(frames):
    """frames uint8 [b, t, h, w, 3] with t even -> [b * t/2, (h/28)*(w/28)*4, 1176] in HF's order (c, t, y, x)."""
    b, t, h, w, _ = frames.shape
    x = (frames.float() - MEAN) / STD
    x = x.view(b, t // 2, 2, h // 28, 2, 14, w // 28, 2, 14, 3).permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8)
    return x.reshape(b * t // 2, h * w // 196, 1176)


class Builder:
    """Token sequences. `tok` maps a text to ids; segments that repeat are cached."""

    def __init__(self, tok):
        self.tok, self.cache = tok, {}

    def ids(self, s):
        if s not in self.cache:
            self.cache[s] = self.tok.encode(s, add_special_tokens=False).ids
        return self.cache[s]


def vision_pos(start, t, gh, gw, step):
    tt, y, x = np.meshgrid(np.arange(t) * step, np.arange(gh), np.arange(gw), indexing="ij")
    return np.stack([tt, y, x]).reshape(3, -1) + start, start + max(gh, gw)


# A token of a one-word answer counts as many of a box or a caption, which would be most of the loss otherwise.
LONG, SHORT = ("bbox", "caption", "text"), 4.0


class Sequence:
    """Grows ids, positions, segment numbers and targets (-100 where nothing is learned)."""

    def __init__(self, b):
        self.b, self.id, self.pos, self.seg, self.target, self.where, self.kinds = b, [], [], [], [], [], []
        self.weight = []
        self.cur = 0

    def text(self, s, seg=0, learn=False, kind=None):
        ids = self.b.ids(s)
        if learn:
            self.kinds.append((kind, len(self.id), len(ids)))
        self.id += ids
        self.seg += [seg] * len(ids)
        self.target += ids if learn else [-100] * len(ids)
        self.weight += [1.0 if kind in LONG else SHORT] * len(ids)
        self.pos.append(np.tile(np.arange(self.cur, self.cur + len(ids)), (3, 1)))
        self.cur += len(ids)

    def vision(self, t, gh, gw, video):
        self.text("<|vision_start|>")
        n = t * gh * gw
        self.where += range(len(self.id), len(self.id) + n)
        self.id += self.b.ids("<|video_pad|>" if video else "<|image_pad|>") * n
        self.seg += [0] * n
        self.target += [-100] * n
        self.weight += [0.0] * n
        p, self.cur = vision_pos(self.cur, t, gh, gw, 2)
        self.pos.append(p)
        self.text("<|vision_end|>")

    def turn(self, kind, q, a, seg):
        self.text(q + "<|im_end|>\n<|im_start|>assistant\n", seg)
        self.text(a + "<|im_end|>", seg, True, kind)


def dense_labels(objects, slot, gh, gw):
    """Class and box (pixels / 280) of the object that covers each 28-pixel cell."""
    cls, box = np.zeros((gh, gw), np.int64), np.zeros((gh, gw, 4), np.float32)
    best = np.zeros((gh, gw))
    for o in objects:
        b = o["boxes"][2 * slot] if "boxes" in o else o["box"]
        y, x = np.arange(gh) * 28, np.arange(gw) * 28
        ox = np.clip(np.minimum(x + 28, b[2]) - np.maximum(x, b[0]), 0, None)
        oy = np.clip(np.minimum(y + 28, b[3]) - np.maximum(y, b[1]), 0, None)
        a = oy[:, None] * ox[None, :]
        hit = (a > best) & ((a > 200) | (a > 0.4 * (b[2] - b[0]) * (b[3] - b[1])))
        k = 1 + len(scenes.COLORS) * len(scenes.SHAPES) + o["digit"] if o["kind"] == "digit" else \
            1 + scenes.COLOR_NAMES.index(o["color"]) * len(scenes.SHAPES) + scenes.SHAPES.index(o["shape"])
        cls[hit], box[hit], best[hit] = k, np.array(b, np.float32) / 280, a[hit]
    return cls.reshape(-1), box.reshape(-1, 4)


# How often a kind is asked in training, against the others: what must be found in the picture is learned last.
SHARE = {"color": 0.7, "where": 4.0, "digit": 3.0, "bbox": 1.5, "which": 4.0, "caption": 0.5}
# The colour of a named shape beside others of another colour: the whole scene's, so that answers differ by the name alone.
CONTESTED = 4.0


def share(q, qs):
    if q[0] == "color" and len({o[3]["color"] for o in qs if o[0] == "color"}) > 1:
        return CONTESTED
    return SHARE.get(q[0], 1.0)


def pick(qs, rng, k):
    p = np.array([share(q, qs) for q in qs])
    order = rng.choice(len(qs), min(k, len(qs)), replace=False, p=p / p.sum())
    return [qs[i] for i in order]


def one(b, rng, split, mode, sizes, t, tower_only):
    """One sample: Sequence, list of frames per vision input, dense labels per slot."""
    s = Sequence(b)
    frames, cls, box, way = [], [], [], []

    def still(gw, gh):
        w, h = gw * 28, gh * 28
        size = (w + int(rng.integers(-13, 14)), h + int(rng.integers(-13, 14))) if rng.random() < 0.35 else None
        sc = scenes.draw_scene(rng, w, h, split, size, digit_share=0.5 if tower_only else 0.35, many=tower_only)
        frames.append(np.stack([sc.frames[0]] * 2))
        c, x = dense_labels(sc.objects, 0, gh, gw)
        cls.append(c), box.append(x), way.append(np.full(len(c), -100))
        return sc

    s.text(SYSTEM)
    if mode == "video":
        (gw, gh), = sizes
        sc = scenes.draw_clip(rng, gw * 28, gh * 28, 2 * t)
        frames.append(np.stack(sc.frames))
        for i in range(t):
            c, x = dense_labels(sc.objects, i, gh, gw)
            cls.append(c), box.append(x)
            way.append(np.where(c > 0, list(scenes.DIRECTIONS).index(sc.direction), -100))
        s.vision(t, gh, gw, True)
        for i, (kind, q, a, _) in enumerate(pick(scenes.clip_questions(sc), rng, 3)):
            s.turn(kind, q, a, 1 + i)
    elif mode == "two":
        scs = [still(*sz) for sz in sizes]
        for gw, gh in sizes:
            s.vision(1, gh, gw, False)
        qs, names = [], [[scenes.name_of(o) for o in sc.objects] for sc in scs]
        for i, own in enumerate(names):
            for n in set(own) - set(names[1 - i]):
                qs.append(("which", f"In which picture is the {n}?", ("first", "second")[i], None))
            k = len(scs[i].objects)
            qs.append(("count2", f"How many objects are in the {('first', 'second')[i]} picture?", str(k), None))
        for i, (kind, q, a, _) in enumerate(pick(qs, rng, 4)):
            s.turn(kind, q, a, 1 + i)
    elif mode == "second":
        q, a = scenes.text_pairs(rng)
        s.turn("text", q, a, 0)
        s.text("\n<|im_start|>user\n")
        sc = still(*sizes[0])
        s.vision(1, sizes[0][1], sizes[0][0], False)
        for i, (kind, q, a, _) in enumerate(pick(scenes.questions(sc, rng), rng, 4)):
            s.turn(kind, q, a, 1 + i)
    else:
        sc = still(*sizes[0])
        s.vision(1, sizes[0][1], sizes[0][0], False)
        chain = mode == "chain"
        for i, (kind, q, a, _) in enumerate(pick(scenes.questions(sc, rng), rng, 5)):
            if chain and i:
                s.text("\n<|im_start|>user\n")
            s.turn(kind, q, a, 0 if chain else 1 + i)
    if mode != "chain" and mode != "second" and s.seg[-1] > 0:
        fix_positions(s)
    elif mode == "second":
        fix_positions(s)
    return s, frames, np.stack(cls) if len({len(c) for c in cls}) == 1 else cls, box, way


def fix_positions(s):
    """Every isolated segment starts at the position where the shared prefix ends."""
    pos, seg = np.concatenate(s.pos, 1), np.array(s.seg)
    end = pos[:, seg == 0].max() + 1 if (seg == 0).any() else 0
    # The prefix ends with text, so its last position is the largest one that matters.
    end = pos[0, np.nonzero(seg == 0)[0][-1]] + 1
    for k in range(1, seg.max() + 1):
        m = seg == k
        pos[:, m] += end - pos[0, m][0]
    s.pos = [pos]


def make(b, rng, split, tower_only=False, mode=None):
    mode = mode or rng.choice(["still", "video", "two", "second", "chain"], p=[0.64, 0.15, 0.1, 0.04, 0.07])
    if tower_only and mode != "video":
        mode = "still"
    t = 1
    if mode == "video":
        sizes, t = [tuple(int(v) for v in rng.integers(3, 7, 2))], int(rng.integers(2, 5))
    elif mode == "two":
        sizes = [tuple(int(v) for v in rng.integers(3, 7, 2)) for _ in range(2)]
    else:
        top = 7 if rng.random() < 0.7 else 11
        sizes = [tuple(int(v) for v in rng.integers(3, top, 2))]
    cells = t * sum(a * c for a, c in sizes)
    n = int(np.clip((900 if tower_only else 2400) // (2.2 * cells + (0 if tower_only else 160)), 4, 24))
    samples = [one(b, rng, split, mode, sizes, t, tower_only) for _ in range(n)]
    longest = max(len(s.id) for s, *_ in samples)
    ids = np.full((n, longest), 0)
    target, seg = np.full((n, longest), -100), np.full((n, longest), 99)
    pos, weight = np.zeros((n, 3, longest), np.int64), np.zeros((n, longest), np.float32)
    for i, (s, *_) in enumerate(samples):
        m = len(s.id)
        ids[i, :m], target[i, :m], seg[i, :m], weight[i, :m] = s.id, s.target, s.seg, s.weight
        pos[i, :, :m] = np.concatenate(s.pos, 1)
    T = torch.from_numpy
    return dict(
        mode=mode, sizes=sizes, t=t, ids=T(ids), target=T(target), seg=T(seg), pos=T(pos), weight=T(weight),
        where=torch.tensor(samples[0][0].where), kinds=[s.kinds for s, *_ in samples],
        frames=[T(np.stack([smp[1][j] for smp in samples])) for j in range(len(sizes))],
        cls=[T(np.stack([np.stack(smp[2][j * t:(j + 1) * t]) for smp in samples])) for j in range(len(sizes))],
        box=[T(np.stack([np.stack(smp[3][j * t:(j + 1) * t]) for smp in samples])) for j in range(len(sizes))],
        way=[T(np.stack([np.stack(smp[4][j * t:(j + 1) * t]) for smp in samples])) for j in range(len(sizes))])


def attention_mask(seg):
    """[b, 1, n, n] bool: causal, and a segment sees the prefix (0) and itself."""
    n = seg.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    same = (seg[:, None, :] == seg[:, :, None]) | (seg[:, None, :] == 0)
    return (causal & same)[:, None]


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, tokenizer_path, seed, split, tower_only):
        self.path, self.seed, self.split, self.tower_only = tokenizer_path, seed, split, tower_only

    def __iter__(self):
        from tokenizers import Tokenizer
        b, i = Builder(Tokenizer.from_file(self.path)), 0
        while True:
            yield make(b, np.random.default_rng([self.seed, i]), self.split, self.tower_only)
            i += 1
