"""Trains the embedded model. Stage 1: the tower alone, with a throw-away head on every merged token (class of the
object that covers it, its box, its direction). Stage 2: everything, on answers, with the head at a small weight.

  python train.py --out DIR [--stage1 S] [--stage2 S] [--threads 2]

S are seconds; the learning rate follows the clock as a cosine. DIR/last.pt allows a restart at any time; log.csv grows.
"""
import argparse
import csv
import math
import os
import re
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import Tokenizer

import batch as B
import scenes
import tok
from net import CFG, VL


class Head(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.cls, self.box, self.way = nn.Linear(hidden, scenes.N_CLASSES), nn.Linear(hidden, 4), nn.Linear(hidden, 4)
        self.color, self.shape = nn.Linear(hidden, len(scenes.COLORS)), nn.Linear(hidden, len(scenes.SHAPES))


def dense_loss(head, feats, bt, j):
    f = feats.float().reshape(-1, feats.shape[-1])
    cls, box, way = bt["cls"][j].reshape(-1), bt["box"][j].reshape(-1, 4), bt["way"][j].reshape(-1)
    on = cls > 0
    w = torch.ones(scenes.N_CLASSES)
    w[0] = 0.3
    logits = head.cls(f)
    loss = F.cross_entropy(logits, cls, w) + 10 * F.smooth_l1_loss(head.box(f[on]), box[on], beta=0.02)
    shaped = on & (cls <= len(scenes.COLORS) * len(scenes.SHAPES))
    if shaped.any():  # colour and shape each by itself: a key of the language model reads one of them linearly
        c, s = (cls[shaped] - 1) // len(scenes.SHAPES), (cls[shaped] - 1) % len(scenes.SHAPES)
        loss = loss + F.cross_entropy(head.color(f[shaped]), c) + F.cross_entropy(head.shape(f[shaped]), s)
    if (way >= 0).any():
        loss = loss + F.cross_entropy(head.way(f), way)
    with torch.no_grad():
        acc = (logits.argmax(-1)[on] == cls[on]).float().mean().item()
        px = (head.box(f[on]) - box[on]).abs().mean().item() * 280
        m = way >= 0
        wa = (head.way(f[m]).argmax(-1) == way[m]).float().mean().item() if m.any() else float("nan")
    return loss, acc, px, wa


def tower(model, bt):
    out = []
    for j, fr in enumerate(bt["frames"]):
        gw, gh = bt["sizes"][j]
        out.append(model.visual(B.patches(fr), gh, gw))
    return out


def forward(model, head, bt, aux):
    feats = tower(model, bt)
    n = bt["ids"].shape[0]
    flat = torch.cat([f.reshape(n, -1, f.shape[-1]) for f in feats], 1)
    h = model(bt["ids"], flat, bt["where"], bt["pos"], B.attention_mask(bt["seg"]))
    goal = bt["target"][:, 1:]
    m = goal >= 0
    logits = model.logits(h[:, :-1][m]).float()
    w = bt["weight"][:, 1:][m]
    ce = (F.cross_entropy(logits, goal[m], reduction="none") * w).sum() / w.sum()
    d = dense_loss(head, feats[0], bt, 0) if aux else None
    return ce, d, logits, m


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, w) * max(0, h)
    area = lambda r: max(0, r[2] - r[0]) * max(0, r[3] - r[1])
    return inter / max(1e-6, area(a) + area(b) - inter)


@torch.no_grad()
def evaluate(model, head, t, seed=10**6, n=10):
    """Share of answers whose every token is the arg-max (what greedy decoding gives), by kind; IoU of boxes."""
    import numpy as np
    b, hits, ious = B.Builder(t), {}, []
    modes = ["still"] * 6 + ["video", "video", "two", "second"]
    for i in range(n):
        bt = B.make(b, np.random.default_rng([seed, i]), "test", mode=modes[i % len(modes)])
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            _, _, logits, m = forward(model, head, bt, False)
        guess = torch.full(bt["ids"].shape, -1)
        guess[:, 1:][m] = logits.argmax(-1)
        for r, kinds in enumerate(bt["kinds"]):
            for kind, at, n_tok in kinds:
                g, y = guess[r, at:at + n_tok].tolist(), bt["target"][r, at:at + n_tok].tolist()
                hits.setdefault(kind, []).append(g == y)
                if kind == "bbox":
                    nums = [list(map(int, re.findall(r"\d+", t.decode(v).split("]")[0])))[-4:] for v in (g, y)]
                    ious.append(iou(*nums) if all(len(v) == 4 for v in nums) else 0.0)
    r = {k: sum(v) / len(v) for k, v in sorted(hits.items())}
    r["iou"] = sum(ious) / max(1, len(ious))
    return r


def run_stage(stage, model, head, opt, args, state, log, t):
    seconds = args.stage1 if stage == 1 else args.stage2
    peak = 2e-3 if stage == 1 else args.lr
    data = iter(B.Stream(args.tokenizer, 1000 * stage + 10 * state["restarts"] + args.rank, "train", stage == 1))
    start, t0, since, mark = state["elapsed"], time.time(), [], time.time()
    while True:
        clock = torch.tensor([start + time.time() - t0])
        if args.world > 1:
            dist.broadcast(clock, 0)  # both ranks stop at the same step
        el = clock.item()
        p = min(1.0, el / seconds)
        if p >= 1:
            break
        state["step"] += 1
        warm = min(1.0, (state["step"] - state["stage_start"]) / 100)
        lr = peak * warm * (0.5 * (1 + math.cos(math.pi * p)) * 0.98 + 0.02)
        for g in opt.param_groups:
            g["lr"] = lr
        bt = next(data)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            if stage == 1:
                d = dense_loss(head, tower(model, bt)[0], bt, 0)
                loss, ce = d[0], torch.tensor(float("nan"))
            else:
                ce, d, _, _ = forward(model, head, bt, True)
                loss = ce + args.aux * min(1.0, 2 * (1 - p)) * d[0]
        opt.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(opt, args.world)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            opt.step()
        since.append((loss.item(), ce.item(), d[1], d[2]))
        if state["step"] % 20 == 0 and args.rank == 0:
            m = [sum(v) / len(v) for v in zip(*since)]
            row = [stage, state["step"], round(el), f"{lr:.2e}", *(f"{v:.4f}" for v in m), f"{(time.time() - mark) / 20:.3f}"]
            mark, since = time.time(), []
            extra = ""
            if stage == 2 and state["step"] % args.eval_every == 0:
                model.eval()
                extra = " ".join(f"{k}={v:.3f}" for k, v in evaluate(model, head, t).items())
                model.train()
            log.writerow(row + [extra])
            args.log.flush()
            print(*row, extra, flush=True)
        if state["step"] % 100 == 0 and args.rank == 0:
            state["elapsed"] = start + time.time() - t0
            save(args, model, head, opt, state)
    state.update(stage=stage + 1, elapsed=0.0, stage_start=state["step"])
    if args.rank == 0:
        save(args, model, head, opt, state)


def average_gradients(opt, world):
    """One process a core, each with its own batches: no barrier inside a step, one sum of all gradients after it."""
    if world == 1:
        return
    params = [p for g in opt.param_groups for p in g["params"]]
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= world
    at = 0
    for p in params:
        p.grad.copy_(flat[at:at + p.numel()].view_as(p))
        at += p.numel()


def save(args, model, head, opt, state):
    path = os.path.join(args.out, "last.pt")
    torch.save(dict(model=model.state_dict(), head=head.state_dict(), opt=opt.state_dict(), state=state, cfg=CFG), path + ".tmp")
    os.replace(path + ".tmp", path)


def main(rank=0, world=1):
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True)
    a.add_argument("--stage1", type=float, default=540)
    a.add_argument("--stage2", type=float, default=5400)
    a.add_argument("--lr", type=float, default=1.2e-3)
    a.add_argument("--aux", type=float, default=0.3)
    a.add_argument("--processes", type=int, default=2)
    a.add_argument("--eval-every", type=int, default=250)
    a.add_argument("--weights", help="start stage 2 from the weights of another run's last.pt")
    a.add_argument("--bf16", action="store_true", help="autocast: only where the CPU has AVX-512 BF16")
    args = a.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if world == 1 and args.processes > 1:
        if not os.path.exists(os.path.join(args.out, "tokenizer.json")):
            tok.build(os.path.join(args.out, "tokenizer.json"))
        mp.spawn(main, (args.processes,), args.processes)
        return
    args.rank, args.world = rank, world
    if world > 1:
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29517", rank=rank, world_size=world)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(3)
    args.tokenizer = os.path.join(args.out, "tokenizer.json")
    t = Tokenizer.from_file(args.tokenizer) if os.path.exists(args.tokenizer) else tok.build(args.tokenizer)
    model, head = VL(t.get_vocab_size()), Head(CFG["hidden"])
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    params = list(model.parameters()) + list(head.parameters())
    opt = torch.optim.AdamW([{"params": [p for p in params if p.ndim > 1], "weight_decay": 0.02},
                             {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98), fused=True)
    state = dict(step=0, stage=1, elapsed=0.0, stage_start=0, restarts=0)
    last = os.path.join(args.out, "last.pt")
    if args.weights and not os.path.exists(last):
        c = torch.load(args.weights, weights_only=False)
        model.load_state_dict(c["model"]), head.load_state_dict(c["head"], strict=False)
        state.update(stage=2, step=c["state"]["step"], stage_start=c["state"]["step"])
    if os.path.exists(last):
        c = torch.load(last, weights_only=False)
        model.load_state_dict(c["model"]), head.load_state_dict(c["head"]), opt.load_state_dict(c["opt"])
        state = c["state"]
        state["restarts"] += 1
    args.log = open(os.path.join(args.out, "log.csv"), "a", newline="")
    log = csv.writer(args.log)
    while state["stage"] <= 2:
        run_stage(state["stage"], model, head, opt, args, state, log, t)


if __name__ == "__main__":
    main()
