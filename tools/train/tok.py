"""Builds the embedded model's tokenizer.json: byte-level BPE in Qwen2's style, trained on the tasks' own words."""
import json
import sys

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import scenes

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
ENGLISH = """The picture shows what is there. It is not easy to see how many of them are in this one, but we can look
again. When you ask about the left or the right side, say which object you mean; the answer will be short. A model
that is made small should still see what it saw before, and anyone can check that it does. Please write what the
first and the second picture have in common, then describe each of them with one sentence. Numbers such as 1, 25 and
317 are read digit by digit. Where does it go, up or down? This text is here so that common words and endings like
-ing, -ed, -tion and -ly are known to the tokenizer, and for nothing else. user system assistant You are a helpful
assistant. Hello! Yes. No. First. Second. Third. In which picture is it?"""


def corpus():
    rng = np.random.default_rng(7)
    for _ in range(1500):
        sc = scenes.draw_scene(rng, 168, 168, "train")
        for _, q, a, _ in scenes.questions(sc, rng):
            yield q
            yield a
    for _ in range(60):
        yield ENGLISH
        yield "\n".join(scenes.text_pairs(rng))
        yield "Which way does the object move? " + " ".join(scenes.DIRECTIONS)


def build(path):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=640, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=20))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    t.save(path)
    return t


if __name__ == "__main__":
    t = build(sys.argv[1])
    print(t.get_vocab_size(), [(s, t.token_to_id(s)) for s in SPECIAL])
    print(t.encode('{"bbox_2d": [12, 34, 156, 78], "label": "red circle"}').tokens)
    print(json.dumps(t.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n").tokens))
