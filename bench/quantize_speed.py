"""Time and memory of quantization beside llm-compressor's, whole commands:

    python3 bench/quantize_speed.py SQUINT PEER_PYTHON [--reuse FOLDER] [--only squint|peer] [--methods awq,gptq,w8a8] [--rounds 2]
                                   [--dtype float32|bfloat16]

The model: two layers of Qwen2-VL-2B's language shape (hidden 1536, MLP 8960, 12 heads of 128, 2 of keys and values, biases of
q, k and v), random BF16 weights, one token a byte. Calibration: 32 sequences of 512 random bytes; 4 bits in groups of 128 with
zero points (AWQ, GPTQ), W8A8 (SmoothQuant, then GPTQ). What counts is the wall time of the whole process and its peak
resident memory: start, reading the model and the text, calibrating, quantizing, writing. Squint is given --no-verify, as the
other does not verify.

The two run in turn, A B A B; medians, and the median of the rounds' ratios. PEER_PYTHON: see quantize_quality.py. With --reuse
and --only squint the other's times are those kept in FOLDER, from another moment: a hint, not a comparison."""
import argparse
import json
import random
import shutil
import statistics
import tempfile
from pathlib import Path

import measure

SAMPLES, LENGTH, GROUP = 32, 512, 128
HIDDEN, MLP, HEADS, KV_HEADS, LAYERS, VOCAB = 1536, 8960, 12, 2, 2, 256
# name: the peer's method, Squint's flags, times faster wanted
METHODS = {
    "awq": ("awq-asym", ["--method", "awq", "--group-size", GROUP], 8),
    "gptq": ("gptq-asym", ["--method", "gptq", "--group-size", GROUP], 4),
    "w8a8": ("w8a8", ["--method", "awq+gptq", "--scheme", "w8a8"], 4),
}
MEMORY = 0.5  # of the peer's, wanted at most


def byte_letters():
    """GPT-2's letters of the 256 bytes: the printable ones stand for themselves."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def write_tokenizer(folder):
    letters = byte_letters()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": level, "post_processor": None, "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                           "vocab": {letters[b]: b for b in range(256)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def write_model(folder):
    import numpy as np
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    kv = KV_HEADS * HIDDEN // HEADS
    (folder / "config.json").write_text(json.dumps({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 32768, "vocab_size": VOCAB, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "use_sliding_window": False,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16"}))
    rng, tensors = np.random.default_rng(11), {}

    def add(name, *shape, std=0.02, mean=0.0):
        tensors[name] = (mean + std * rng.standard_normal(shape)).astype(np.float32)

    add("model.embed_tokens.weight", VOCAB, HIDDEN, std=1.0)
    add("model.norm.weight", HIDDEN, mean=1.0)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name, rows, columns in (("self_attn.q_proj", HIDDEN, HIDDEN), ("self_attn.k_proj", kv, HIDDEN),
                                    ("self_attn.v_proj", kv, HIDDEN), ("self_attn.o_proj", HIDDEN, HIDDEN),
                                    ("mlp.gate_proj", MLP, HIDDEN), ("mlp.up_proj", MLP, HIDDEN),
                                    ("mlp.down_proj", HIDDEN, MLP)):
            add(f"{at}{name}.weight", rows, columns)
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                add(f"{at}{name}.bias", rows)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{at}{norm}.weight", HIDDEN, std=0.3, mean=1.0)
    save_bf16(folder / "model.safetensors", tensors)


def save_bf16(path, tensors):
    """safetensors by hand: the program needs numpy alone. Truncated to BF16."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(x.shape), "data_offsets": [at, at + 2 * x.size]}
        at += 2 * x.size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        for x in tensors.values():
            f.write((x.view("<u4") >> 16).astype("<u2").tobytes())


def write_text(folder):
    """(calib.jsonl, ids): printable bytes, so that the text is its own ids."""
    letters = "".join(map(chr, range(32, 127)))
    text = "".join(random.Random(3).choices(letters, k=SAMPLES * LENGTH))
    (folder / "calib.jsonl").write_text(json.dumps({"text": text}) + "\n")
    ids = [[ord(c) for c in text[i * LENGTH:(i + 1) * LENGTH]] for i in range(SAMPLES)]
    (folder / "ids.json").write_text(json.dumps(ids))


def squint_run(args, work, name, flags):
    out = work / f"squint-{name}"
    shutil.rmtree(out, ignore_errors=True)
    return measure.run([args.squint, "quantize", work / "qwen2-2-layers", "-o", out, *flags, "--calib", work / "calib.jsonl",
                        "--samples", SAMPLES, "--seq", LENGTH, "--no-verify", "--no-resume", "-q"], f"{out}.log")


def method(args, work, name, kept):
    peer, flags, wanted = METHODS[name]
    mine, theirs = [], [] if args.only != "squint" else [tuple(x) for x in kept.get(name, [])]
    for _ in range(args.rounds):
        if args.only != "peer":
            mine.append(squint_run(args, work, name, flags))
        if args.only != "squint":
            theirs.append(measure.llmcompressor(args.peer, work / "qwen2-2-layers", work / "ids.json", peer, GROUP,
                                                work / f"lc-{name}", args.dtype))
            kept[name] = theirs
            (work / "speed.json").write_text(json.dumps(kept))
    median = statistics.median
    text = f"{name:6}"
    if mine:
        text += f" squint {median(s for s, _ in mine):7.1f} s {median(m for _, m in mine) / 1e6:6.0f} MB"
    if theirs:
        text += f"   llm-compressor {median(s for s, _ in theirs):7.1f} s {median(m for _, m in theirs) / 1e6:6.0f} MB"
    if mine and theirs:
        pairs = list(zip(mine, theirs)) if args.only is None else [(m, t) for m in mine for t in theirs]
        faster = median(t[0] / m[0] for m, t in pairs)
        memory = median(m[1] / t[1] for m, t in pairs)
        text += (f"   {faster:5.2f} times faster (wanted {wanted}: {'yes' if faster >= wanted else 'NO'}), {memory:.3f} of the "
                 f"memory (wanted {MEMORY}: {'yes' if memory <= MEMORY else 'NO'})")
    print(text, flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("squint", type=Path)
    ap.add_argument("peer")
    ap.add_argument("--reuse", type=Path)
    ap.add_argument("--only", choices=("squint", "peer"))
    ap.add_argument("--methods", default=",".join(METHODS))
    ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="what llm-compressor computes in")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        work = args.reuse or Path(tmp)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "qwen2-2-layers/model.safetensors").exists():
            write_model(work / "qwen2-2-layers")
        write_text(work)
        times = work / "speed.json"
        kept = json.loads(times.read_text()) if times.exists() else {}
        print(f"two layers of {HIDDEN} and {MLP} columns, {SAMPLES} x {LENGTH} tokens, group {GROUP}, whole commands, "
              f"{args.rounds} rounds; {measure.machine()}", flush=True)
        for name in args.methods.split(","):
            method(args, work, name, kept)
    print(measure.machine())


main()
