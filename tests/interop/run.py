#!/usr/bin/env python3
"""Compares squint with transformers, live: the same checkpoints, the same messages.

    python tests/interop/run.py [--squint build/squint] [--model models/squint-vl-5m]
                                [--quantized DIR] [--keep]
                                [--only fixtures,model,quantized,methods,layouts,theirs,gguf,tokenizers,perplexity]

Every row of the logits is compared (float32, eager attention) and the greedy continuation. The
last line is 'N passed, N failed, N skipped'; the exit status is 1 when something failed.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "oracle"))
os.environ["TQDM_DISABLE"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import media  # noqa: E402
from layouts import check_layouts  # noqa: E402
from llamacpp import check_gguf  # noqa: E402
from methods import check_methods  # noqa: E402
from oracle import Oracle, load_json  # noqa: E402
from quantized import check_quantized  # noqa: E402
from real_tokenizers import check_tokenizers  # noqa: E402
from theirs import check_theirs  # noqa: E402

TOLERANCE = 1e-3   # of the largest logit of the row
NEW_TOKENS = 64


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, ok, detail=""):
        self.passed += bool(ok)
        self.failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {name}  {detail}", flush=True)
        return ok

    def note(self, text):
        print(f"     {text}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"skip {name}  {why}", flush=True)

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


class Squint:
    """The program, by its command line alone."""

    def __init__(self, path, work):
        self.path, self.work, self.count = str(path), Path(work), 0

    def call(self, *args):
        done = subprocess.run([self.path, *map(str, args)], capture_output=True, text=True,
                              timeout=600)
        if done.returncode:
            raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def _messages(self, messages, base):
        """A file with absolute paths: where it lies does not matter then."""
        def absolute(part):
            for key in ("image", "video"):
                if key in part:
                    part = {**part, key: str((Path(base) / part[key]).resolve())}
            return part
        out = [m if isinstance(m["content"], str) else
               {**m, "content": [absolute(p) for p in m["content"]]} for m in messages]
        self.count += 1
        path = self.work / f"messages-{self.count}.json"
        path.write_text(json.dumps(out, ensure_ascii=False), encoding="utf-8")
        return path

    def logits(self, model, messages, base):
        out = self.work / "logits.safetensors"
        self.call("logits", model, "--messages", self._messages(messages, base), "-o", out)
        t = load_file(out)
        return t["input_ids"].tolist(), t["logits"]

    def logits_of_tokens(self, model, ids):
        out = self.work / "logits.safetensors"
        self.call("logits", model, "--tokens", ",".join(map(str, ids)), "-o", out)
        return load_file(out)["logits"]

    def greedy(self, model, messages, base, *flags):
        text = self.call("run", model, "--messages", self._messages(messages, base),
                         "--max-new-tokens", NEW_TOKENS, "--json", *flags)
        return json.loads(text)


def difference(got, want):
    """(largest difference over the largest logit of its row, row)."""
    if got.shape != want.shape:
        return float("inf"), f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    rel = (got - want).abs().amax(-1) / want.abs().amax(-1)
    if not torch.isfinite(rel).all():
        return float("inf"), "not finite"
    row = int(rel.argmax())
    return float(rel[row]), row


def strip_eos(ids, eos):
    ids = list(ids)
    while ids and ids[-1] in eos:
        ids.pop()
    return ids


def compare(report, squint, oracle, name, model, messages, base):
    """One conversation through both."""
    try:
        inputs = oracle.prepare(messages, base)
        want = oracle.logits(inputs)
        ids, got = squint.logits(model, messages, base)
        if report.check(f"{name}: input ids", ids == inputs.ids,
                        f"{len(ids)} tokens" if ids == inputs.ids else explain(ids, inputs.ids)):
            rel, row = difference(got, want)
            report.check(f"{name}: logits", rel <= TOLERANCE, f"{rel:.2e} at row {row}")
        new, margins = oracle.greedy(inputs, NEW_TOKENS)
        eos = oracle.eos()
        want_new = strip_eos(new, eos)
        for label, flags in (("greedy", ()), ("greedy without cache", ("--no-cache",))):
            result = squint.greedy(model, messages, base, *flags)
            got_new = strip_eos(result["tokens"], eos)
            same = got_new == want_new
            detail = f"{len(new)} tokens {result['text'][:40]!r}" if same else \
                explain(got_new, want_new, margins)
            report.check(f"{name}: {label}", same, detail)
    except Exception as e:  # a broken case must not hide the others
        report.check(name, False, f"{type(e).__name__}: {e}")


def explain(got, want, margins=None):
    for i, (a, b) in enumerate(zip(got, want)):
        if a != b:
            near = f", margin there {margins[i]:.2e}" if margins and i < len(margins) else ""
            return f"index {i}: {a} instead of {b}{near}"
    return f"{len(got)} instead of {len(want)}"


def run_fixtures(report, squint):
    """Those of gen_models.py; the other families' recorded values are compared by the unit tests alone."""
    from model_specs import SPECS
    for folder in (ROOT / "tests/golden/models" / spec.name for spec in SPECS):
        oracle = Oracle(folder)
        for case in load_json(folder / "expected.json")["cases"]:
            compare(report, squint, oracle, f"{folder.name}/{case['name']}", folder,
                    case["messages"], folder)


def draw_media(work):
    """Larger pictures of odd sizes and a lossless clip, for the embedded model. No height shrinks
    much more than its width (Pillow 13 swaps its passes there)."""
    from PIL import Image
    for name, h, w, seed in (("a.png", 150, 207, 7), ("b.png", 187, 93, 8), ("c.png", 112, 140, 9)):
        Image.fromarray(media.draw(h, w, seed)).save(work / name)
    media.write_clip(work / "d.mp4", 12, 4, 84, 112, 10, "libx264rgb", "rgb24")


def model_cases():
    def text(t):
        return {"type": "text", "text": t}

    def image(f):
        return {"type": "image", "image": f}

    def user(*parts):
        return {"role": "user", "content": list(parts)}

    return {
        "text": [{"role": "user", "content": "What colour is the sky? It's 25 degrees."}],
        "image": [user(image("c.png"), text("Which shape is in the middle?"))],
        "two images of odd sizes": [user(image("a.png"), text("and "), image("b.png"),
                                         text("How many circles are there?"))],
        "video": [user({"type": "video", "video": "d.mp4"}, text("Which way does it move?"))],
        "image in the second turn": [
            user(text("Hello.")), {"role": "assistant", "content": "Hello!"},
            user(image("b.png"), text("Describe the picture."))],
    }


def run_model(report, squint, model, work):
    if not (model / "config.json").exists():
        report.skip(str(model), "not there")
        return
    draw_media(work)
    oracle = Oracle(model)
    default = Oracle(model, backend="torchvision")
    for name, messages in model_cases().items():
        compare(report, squint, oracle, f"{model.name}/{name}", model, messages, work)
        inputs = oracle.prepare(messages, work)
        if any(i.kind == "image" for i in inputs.media):
            other = default.logits(default.prepare(messages, work))
            rel, _ = difference(oracle.logits(inputs), other)
            report.note(f"transformers with its torchvision backend differs from its Pillow "
                        f"backend by {rel:.2e}")
    forced(report, squint, oracle, model)


def forced(report, squint, oracle, model):
    """64 tokens even when the answer ends early: transformers goes on past the end token, and
    squint must choose the same token at every one of these places."""
    inputs = oracle.prepare(model_cases()["text"], ".")
    new, margins = oracle.greedy(inputs, NEW_TOKENS, ignore_eos=True)
    logits = squint.logits_of_tokens(model, inputs.ids + new)
    got = logits[len(inputs.ids) - 1 : -1].argmax(-1).tolist()
    report.check(f"{model.name}/text: 64 tokens past the end", got == new,
                 f"{len(set(new))} distinct, margin >= {min(margins):.2e}" if got == new
                 else explain(got, new, margins))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--squint", default=ROOT / "build/squint", type=Path)
    ap.add_argument("--model", default=ROOT / "models/squint-vl-5m", type=Path)
    ap.add_argument("--quantized", type=Path, help="a folder that squint quantize wrote of --model")
    ap.add_argument("--only", default="fixtures,model,quantized,methods,layouts,theirs,gguf,tokenizers,perplexity")
    ap.add_argument("--keep", action="store_true", help="keep the work folder")
    args = ap.parse_args()
    torch.set_num_threads(2)
    report = Report()
    if not args.squint.exists():
        print(f"no program at {args.squint}: build it, or name it with --squint")
        return 2
    work = Path(tempfile.mkdtemp(prefix="squint-interop-"))
    try:
        squint = Squint(args.squint.resolve(), work)
        only = args.only.split(",")
        if "fixtures" in only:
            run_fixtures(report, squint)
        if "model" in only:
            run_model(report, squint, args.model.resolve(), work)
        if "quantized" in only:
            check_quantized(report, squint, args, work, model_cases(), draw_media, difference)
        if "methods" in only:
            check_methods(report, squint, args.model, work)
        if "layouts" in only:
            check_layouts(report, squint, args.model, work, model_cases(), draw_media)
        if "theirs" in only:
            check_theirs(report, squint, args.model.resolve(), work, draw_media)
        if "gguf" in only:
            check_gguf(report, squint, args.model.resolve(), work)
        if "tokenizers" in only:
            check_tokenizers(report, squint.path, work)
        if "perplexity" in only:
            from perplexity import check_perplexity  # imports the vocabulary's script
            check_perplexity(report, squint.path, work)
    finally:
        if args.keep:
            print(f"work folder: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
