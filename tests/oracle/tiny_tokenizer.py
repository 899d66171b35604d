"""The small tokenizer and the chat template that all random-weight fixtures share.

A byte-level BPE with Qwen2's pre-tokenizer and special tokens, but 256 bytes and a few merges
only, so that embeddings stay small.
"""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]
# Added, but not "special": decoding keeps them (as in the published Qwen2.5 files).
PLAIN_ADDED = ["<tool_call>", "</tool_call>"]

WORDS = ["user", "assistant", "system", "helpful", " the", " is", " are", " picture", "You"]

SYSTEM = "You are a helpful assistant."

# Equal in effect to the published Qwen2-VL template (models.md 5.3).
TEMPLATE = """\
{%- set count = namespace(images=0, videos=0) %}
{%- if messages and messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\n""" + SYSTEM + """<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part %}
                {%- set count.images = count.images + 1 %}
                {%- if add_vision_id %}
                    {{- 'Picture ' ~ count.images ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part['type'] == 'video' or 'video' in part %}
                {%- set count.videos = count.videos + 1 %}
                {%- if add_vision_id %}
                    {{- 'Video ' ~ count.videos ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def byte_alphabet():
    """Byte -> character of the byte-level alphabet (models.md 5.1.3)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = {}, 0
    for b in range(256):
        if b in keep:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + extra)
            extra += 1
    return out


def build():
    """Returns (tokenizer.json text, ids by special token, size)."""
    alphabet = byte_alphabet()
    order = [alphabet[b] for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    order += [alphabet[b] for b in range(256) if alphabet[b] not in order]
    vocab = {c: i for i, c in enumerate(order)}
    merges = []
    for word in WORDS:
        pieces = [alphabet[b] for b in word.encode()]
        for a, b in list(merges):  # what earlier words' merges already join
            i = 0
            while i + 1 < len(pieces):
                if pieces[i] == a and pieces[i + 1] == b:
                    pieces[i : i + 2] = [a + b]
                i += 1
        for _ in range(3):
            if len(pieces) < 2:
                break
            a, b = pieces[0], pieces[1]
            if a + b not in vocab:
                vocab[a + b] = len(vocab)
                merges.append((a, b))
            pieces[0:2] = [a + b]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=False, fuse_unk=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN_ADDED])
    ids = {t: tok.token_to_id(t) for t in SPECIAL + PLAIN_ADDED}
    return tok.to_str(pretty=False), ids, tok.get_vocab_size()


def tokenizer_config(template=None):
    cfg = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 512,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if template is not None:
        cfg["chat_template"] = template
    return json.dumps(cfg, indent=2, ensure_ascii=False) + "\n"
