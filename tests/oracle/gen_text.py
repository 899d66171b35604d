"""Writes tests/golden/text: small tokenizers of every published style with hard strings and what HF
tokenizers makes of them, and chat templates with what Jinja2 makes of them (gen_templates.py holds
the latter's inputs).

    python tests/oracle/gen_text.py            # from the root of the tree

Made with the versions recorded in tests/golden/text/VERSIONS."""
import json
import os
import sys
import unicodedata

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "text")

R2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
      r"|\s*[\r\n]+|\s+(?!\S)|\s+")
R3 = R2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
O200 = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CORPUS = """The picture shows a cat that sits on a red mat, and the dog's bowl is empty. What is this? It isn't clear; they're two.
We'll see 12 apples, 345 pears and 6789 grapes in 2024-11-23 at 10:04. I'd say you've got it: don't I'm sure.
def area(width, height):\n    return width * height  # a comment\n\nfor (int i = 0; i < n; i++) { sum += a[i]; }\n
Der Bär läuft über die Straße. L'été est fini. El niño pequeño. Привет, как дела? Что на картинке? 你好,世界。这是什么?
こんにちは世界。これは何ですか。안녕하세요 세계. مرحبا بالعالم. שלום עולם. नमस्ते दुनिया। สวัสดีชาวโลก Xin chào thế giới. Γειά σου Κόσμε.
    four spaces, \t a tab, and   runs    of     spaces.\r\nA line that ends so.\r\n\r\nAnd more: <b>bold</b> & {"key": [1, 2.5, null]}
user system assistant user assistant system tool image video the the the in in of of and and a a to to is is it it on on
"""


def hard_strings():
    s = [
        "", " ", "  ", "\n", "\n\n", " \n \n", "\r\n", "\t", "\t\t x", "a", " a", "a ", " a ", "  a  b   c    ",
        "Hello, world!", "The cat's on the mat; they're NOT we'LL I'D 'S 'ſ 'T", "What is this?", "   leading", "trailing   ",
        "x\n\n\n  y \n", "a\u00a0b\u00a0\u00a0c", "a\u3000b \u2003 c\u2028d\u2029e", "\u0085x \u0085 y", "a\u180eb \u200b c\ufeff",
        "\x1c\x1d\x1e\x1f x", "\x00\x01\x02 \x7f", "tab\tand\vvt\ffeed", "1234567890", "12 345 6789 1,234.56", "٣٤٥ ४५६ ⅷ Ⅷ ½ ² ㊿ 𝟘𝟙",
        "3.14e-10 0xFF 1_000", "foo_bar fooBar FOOBar HTTPServer2", "def f(x):\n    return x*2\n", "if (a && b) { c = d->e; } // ok\r\n",
        "{\"key\": [1, 2, {\"n\": null}], 'x': \"\\n\"}", "<b>bold</b> & &amp; <!-- c -->", "http://example.org/a?b=c&d=%20#f",
        "!!!???...---===***", "«quoted» “double” ‘single’ — dash … ellipsis", "$100 €50 £20 ¥3 ₹7 ±5° ©®™ ∑∫√∞≠≤",
        "Der Bär läuft über die Straße. ẞ ÄÖÜ", "L'été où ça naît, cœur Œuvre", "El niño ¿Qué? ¡Sí!", "Привет, как дела? Ёж объём",
        "Γειά σου Κόσμε ΐ ς", "你好,世界。这是什么?𠀀𪛖", "繁體中文測試「引號」", "こんにちは世界カタカナガ", "안녕하세요 세계 한국어",
        "مرحبا بالعالم السَّلَام", "שלום עולם שָׁלוֹם", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก ที่นี่", "Xin chào thế giới việc",
        "வணக்கம் உலகம்", "తెలుగు లిపి", "ಕನ್ನಡ", "മലയാളം", "ગુજરાતી", "ਪੰਜਾਬੀ", "বাংলা ভাষা", "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ",
        "ភាសាខ្មែរ", "မြန်မာဘာသာ", "ພາສາລາວ", "བོད་སྐད།", "ᠮᠣᠩᠭᠣᠯ", "ᏣᎳᎩ", "𐎀𐎁𐎂 𒀀𒀁 𓀀𓀁", "😀", "😀😃 🎉🎊", "👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷", "❤️ ☺️ ✌🏿",
        "a😀b 你😀好", unicodedata.normalize("NFD", "Ångström café naïve Việt Nam"), "e\u0301 a\u0308\u0304 \u1e9b\u0323", "각 \u1100\u1161\u11a8",
        "ﬁ ﬂ ﬀ ㎏ ① Ａｂｃ ｶﾞ", "İstanbul ıI iİ", "Å Ω K (Ohm, Kelvin, Angstrom)", "Z̵̛͙a̸l̶g̷o̸", "\u0301leading mark", "a\u034fb", "\ufffd \uffff",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|><|im_start|>", "a<|im_start|>b", " <|im_end|> ", "<|im_start", "<|im_start|",
        "<|endoftext|>x<|endoftext|>", "<s>x</s> <s> y", "<x>", "<x>y", "a<x>yb", "a <l> b", "a  <l>  <l>b", "a <r> b", "<r>   <r>  c", "aab ab ab-ab (ab) äab 1ab",
        "<nrm> NORM norm Norm", "a<NRM>b", "é<Ö>É", "<img> <image>\nWhat is this?", "USER: <image>\nWhat is this? ASSISTANT:", "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
        "▁", "▁▁a", " ▁ b", "a▁b", "<0x41><0x0A>", "the the the the", "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "abababababababababababababababababababababababababababababababababababababababababababababab", " " * 40, " " * 41 + "x", "\n" * 50, "=" * 90, "-" * 33 + "\n" * 3,
        "in the in of and " * 12, "the cat " * 30, "x" * 500, "你好" * 60, "😀" * 40, "a b" * 50,
        "mixed 漢字kanji ひらがな123 кириллица٣ end", "tailing newline\n", "\nleading newline", "a\nb\r\nc\rd", "a \n b", " \t\n ", "\u2009thin", "No.5 ½cup x² H₂O",
        "don't DON'T Don’t it`s", "''s ''' 'll'll", "_under_ __dunder__", "@user #tag", "C++ C# F# .NET", "a.b.c...d", "I am 25yo", "(parens)[brackets]{braces}", "~`^|\\/", "ªº ʰ ǅ ǈ ʼ ˈ", "ß ŉ ǰ",
    ]
    # Lines that mix everything in a fixed order (a small congruential generator keeps them equal for ever).
    seed, pool = 12345, [x for x in s if x and len(x) < 60]
    for _ in range(60):
        line = ""
        for _ in range(6):
            seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
            line += pool[seed % len(pool)] + ["", " ", "\n", "  ", "'s", "7"][seed // 65536 % 6]
        s.append(line)
    return s


BROKEN = ["ff", "61ff62", "c3", "c328", "e282", "e28261", "f09f98", "f09f9861", "eda080", "f8888080", "c0af", "e080af", "f4908080", "80bf61",
          "20c3a9c320", "e4bda0e5a5", "61f0616263", "0a80200a", "f09f9880f09f98", "c2c2a0"]


def broken_text(hexa):
    return bytes.fromhex(hexa).decode("utf-8", errors="replace")


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def odd_tokens():
    return [AddedToken("<x>", normalized=False), AddedToken("<x>y", normalized=False), AddedToken("<l>", lstrip=True, normalized=False),
            AddedToken("<r>", rstrip=True, normalized=False), AddedToken("ab", single_word=True, normalized=False),
            AddedToken("<NRM>", normalized=True), AddedToken("<Ö>", normalized=True), AddedToken("norm", normalized=True, single_word=True, lstrip=True)]


def train(norm, pre, vocab, special=(), alphabet=None):
    t = Tokenizer(models.BPE())
    if norm:
        t.normalizer = norm
    t.pre_tokenizer = pre
    tr = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(special), show_progress=False,
                             initial_alphabet=alphabet or pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(CORPUS.split("\n"), tr)
    return t


def byte_level(pre, norm=None, vocab=620, special=SPECIALS):
    t = train(norm, pre, vocab)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, special=True, normalized=False) for x in special])
    return t


def seq(*a):
    return pre_tokenizers.Sequence(list(a))


def raw_byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(pattern if isinstance(pattern, str) else pattern, behavior, invert)


def regex(p):
    return tokenizers.Regex(p)


def edit(t, fn):
    d = json.loads(t.to_str())
    fn(d)
    return Tokenizer.from_str(json.dumps(d))


def sentencepiece(shape):
    """A SentencePiece-like BPE: <unk> <s> </s>, 256 bytes, characters, merges over the marked text."""
    alphabet = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!'\"()<>-_/▁äöüéпривет你好世界")
    t = train(None, pre_tokenizers.Metaspace(), 420, alphabet=alphabet)
    d = json.loads(t.to_str())
    old = sorted(d["model"]["vocab"].items(), key=lambda x: x[1])
    keep = [w for w, _ in old if len(w) > 1 or w in alphabet]
    merges = [m for m in d["model"]["merges"] if all(c in alphabet for c in m[0] + m[1])]
    keep = [w for w in keep if all(c in alphabet for c in w)]
    words = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + keep
    d["model"]["vocab"] = {w: i for i, w in enumerate(words)}
    d["model"]["merges"] = merges
    d["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    d["added_tokens"] = [dict(id=i, content=w, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
                         for i, w in enumerate(words[:3])]
    d["added_tokens"].append(dict(id=len(words), content="<image>", single_word=False, lstrip=False, rstrip=False,
                                  normalized=False, special=True))
    d["added_tokens"].append(dict(id=len(words) + 1, content="<img>", single_word=False, lstrip=False, rstrip=False,
                                  normalized=True, special=False))
    d["post_processor"] = {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    tail = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    d["normalizer"] = d["pre_tokenizer"] = None
    d["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}] + tail +
                    [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    if shape == "classic":
        d["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    elif shape == "first":
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    elif shape == "always":
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        d["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        d["model"].update(byte_fallback=False)
    elif shape == "nofuse":
        d["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[ \\u00a0]"}, "content": "▁"}
        d["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}]}
        d["model"].update(fuse_unk=False)
        del d["model"]["vocab"]["<0xF0>"]  # some characters now fall through to <unk>
        d["model"]["vocab"]["<gone>"] = 3 + 0xF0
    elif shape == "odd":
        d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
        d["decoder"] = {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": "_"},
                                                         {"type": "Strip", "content": "_", "start": 2, "stop": 0}]}
    return Tokenizer.from_str(json.dumps(d))


def word_style():
    """Prefixes, suffixes, an unknown token, and normalizers in a row."""
    norm = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip(),
                                 normalizers.Replace(regex(r"\d{2,}"), "#")])
    t = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    t.normalizer = norm
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(CORPUS.split("\n"), trainers.BpeTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False,
                          continuing_subword_prefix="##", limit_alphabet=60))
    t.post_processor = tokenizers.processors.RobertaProcessing(sep=("[SEP]", 2), cls_token=("[CLS]", 1))
    t.add_tokens(odd_tokens())
    return t


def suffix_style():
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=False))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    t.pre_tokenizer = seq(pre_tokenizers.WhitespaceSplit(), split(regex(r"[\p{L}]+|[^\s\p{L}]"), "removed", True))
    t.train_from_iterator(CORPUS.split("\n"), trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>"], show_progress=False,
                          end_of_word_suffix="</w>", limit_alphabet=70))
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    return t


def string_merges(t):
    def fn(d):
        d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
    d = json.loads(t.to_str())
    fn(d)
    return d


def make_all():
    yield "gpt2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), string_merges
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), vocab=560)
    t.add_tokens(odd_tokens())
    yield "gpt2_space", t, None
    qwen = byte_level(seq(split(regex(R2)), raw_byte_level()), normalizers.NFC())
    qwen.add_tokens(odd_tokens())
    yield "qwen2", qwen, None
    t = byte_level(seq(split(regex(R3)), raw_byte_level()), vocab=600, special=["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>"])
    bos = t.token_to_id("<s>")
    t.post_processor = tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(trim_offsets=False), tokenizers.processors.TemplateProcessing(
        single="<s> $A <|endoftext|>", special_tokens=[("<s>", bos), ("<|endoftext|>", t.token_to_id("<|endoftext|>"))])])
    d = json.loads(t.to_str())
    d["model"]["ignore_merges"] = True
    top = max(d["model"]["vocab"].values())
    for i, w in enumerate(["Ġviá»ĩc", "antidis", "Ġpictures", "!!!"]):  # words that no merges make
        d["model"]["vocab"][w] = 700 + i
    yield "llama3", Tokenizer.from_str(json.dumps(d)), None
    yield "smollm2", byte_level(seq(pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False))), None
    yield "gpt4o", byte_level(seq(split(regex(O200)), raw_byte_level()), vocab=500), None
    yield "deepseek", byte_level(seq(split(regex(r"[\r\n]")), split(regex(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+")), split(regex(r"\s?[!-/:-~！-／：-～‘-‟　-。]+")),
                                     split(regex(r"\s+$")), split(regex(r"[一-龥ࠀ-一가-퟿]+")), pre_tokenizers.Digits(individual_digits=True),
                                     raw_byte_level()), vocab=500), None
    yield "behaviors", byte_level(seq(split("an", "merged_with_next"), split(regex(r"[aeiou]"), "merged_with_previous"), split(regex(r"\s"), "contiguous"),
                                      split(regex(r"\w+"), "isolated", True), pre_tokenizers.Digits(individual_digits=False),
                                      pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.CharDelimiterSplit("q"), raw_byte_level()),
                                  normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=True, right=False)]), vocab=420), None
    yield "bert", byte_level(seq(pre_tokenizers.BertPreTokenizer(), raw_byte_level()), normalizers.NFD(), vocab=420), None
    t = byte_level(raw_byte_level(), vocab=420)  # no splitting at all: long words
    t.pre_tokenizer = raw_byte_level()
    yield "whole", t, None
    for shape in ("classic", "first", "always", "nofuse", "odd"):
        yield "sp_" + shape, sentencepiece(shape), None
    yield "prefix", word_style(), None
    yield "suffix", suffix_style(), None


def cases(t, texts):
    out = []
    for s in texts:
        t.encode_special_tokens = False
        e = t.encode(s, add_special_tokens=False)
        row = {"text": s, "ids": e.ids, "decoded": t.decode(e.ids, skip_special_tokens=False),
               "shown": t.decode(e.ids, skip_special_tokens=True)}
        post = t.encode(s, add_special_tokens=True).ids
        if post != e.ids:
            row["post"] = post
        t.encode_special_tokens = True
        plain = t.encode(s, add_special_tokens=False).ids
        if plain != e.ids:
            row["plain"] = plain
        if row["shown"] == row["decoded"]:
            del row["shown"]
        if row["decoded"] == s:
            del row["decoded"]
        out.append(row)
    t.encode_special_tokens = False
    return out


def write(path, value):
    with open(path, "w", encoding="utf-8") as f:
        if isinstance(value, dict) and "cases" in value:
            rows = ",\n".join(json.dumps(r, ensure_ascii=True, separators=(",", ":")) for r in value.pop("cases"))
            head = json.dumps(value, ensure_ascii=True, separators=(",", ":"))[1:-1]
            f.write("{" + (head + "," if head else "") + "\"cases\":[\n" + rows + "\n]}\n")
        else:
            json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    texts = hard_strings()
    names = []
    for name, t, shape in make_all():
        d = shape(t) if shape else json.loads(t.to_str())
        write(os.path.join(OUT, name + ".tokenizer.json"), d)
        t = Tokenizer.from_str(json.dumps(d))
        rows = cases(t, texts)
        broken = [{"hex": h, "ids": t.encode(broken_text(h), add_special_tokens=False).ids} for h in BROKEN]
        # Ids in an order that no text gives: half characters, stray continuation bytes, unknown ids.
        seed, odd = 99, []
        for _ in range(40):
            ids = []
            for _ in range(12):
                seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
                ids.append(seed // 8 % t.get_vocab_size())
            odd.append({"ids": ids, "decoded": t.decode(ids, skip_special_tokens=False), "shown": t.decode(ids, skip_special_tokens=True)})
        write(os.path.join(OUT, name + ".cases.json"), {"broken": broken, "odd": odd, "cases": rows})
        names.append(name)
        print(name, t.get_vocab_size(), os.path.getsize(os.path.join(OUT, name + ".tokenizer.json")))
    write(os.path.join(OUT, "tokenizers.json"), names)
    with open(os.path.join(OUT, "VERSIONS"), "w") as f:
        f.write("python %s\ntokenizers %s\nunicode %s\n" % (sys.version.split()[0], tokenizers.__version__, unicodedata.unidata_version))


if __name__ == "__main__":
    main()
