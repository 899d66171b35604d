"""Models whose inputs are rounded to 8 bits (W8A8, W4A8) beside squint. Imported by llmcompressor_write.py too: torch alone.

A number between two steps goes up or down by the last bit of the sum that it comes from, and moves what follows by a whole step.
Over the layers this grows until nothing of the bits is left: embeddings that are off by one unit in the last place move
transformers' own logits of SmolLM2-135M in W8A8 by 0.07 of the largest on average, and 25 % of its first choices. No fixed bound on
logits means anything there. What must hold instead:

- each decoder layer, given exactly the judge's input of that layer: half of all rows within EQUAL, and on average no further from
  the judge than FACTOR times as far as it is from itself when that input is off by one unit in the last place;
- the whole model, in the same way: the judge is called again with inputs off by one unit in the last place.

Sequences are short, since one number on another side moves every row behind it. Layers of 4 bits whose inputs stay as they are
lose 2^-16 in squint (SQ_ROUND_16): where a model has such layers too, that is the unit. The attention of a W8A8 tower multiplies
in bf16, where the CPU does: its unit. With zero points of the inputs squint takes the zero point's part off in f32: beside an outlier
that leaves 4.5e-6 of a row's largest, and is the unit of such models.
"""
import json
import shutil

import torch
from safetensors.torch import load_file, save_file

NUDGES = 3
UNIT, UNIT_ZERO, UNIT_16, UNIT_BF16 = 2.0 ** -23, 2.0 ** -18, 2.0 ** -16, 2.0 ** -9
ROWS = 8               # tokens of a sequence
LAYER_ROWS = 256       # about so many are compared of all layers together
EQUAL = 1e-5           # a layer's rows in which no input fell to another side; at least 8 units
FACTOR = 2
LEAST = 1e-3           # on average, where a nudge changes next to nothing
CHOICES = 0.15         # share of first choices: fewer than after a nudge by at most this; of 96 rows that is three deviations


def nudged(x, seed, unit):
    """Every number up or down by one unit of itself."""
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return x * (1 + signs * unit)


def decoder_layers(net):
    return next(m for name, m in net.named_modules() if name.endswith("layers") and "vis" not in name)


def first(x):
    return x[0] if isinstance(x, tuple) else x


@torch.no_grad()
def record(net, inputs, unit=UNIT):
    """What `compare_*` want of the judge: logits [tokens, vocab], hidden [layers + 1, tokens, width], and the same of nudged
    inputs: `logits_nudged` [NUDGES, ...], `layers_nudged` [layers, tokens, width]. Tokens of all sequences, one after another."""
    layers, calls, out = decoder_layers(net), [], {"unit": torch.tensor(unit)}
    hooks = [m.register_forward_hook(lambda m, a, k, y: calls.append((m, a, k, first(y))), with_kwargs=True) for m in layers]
    out["logits"] = net(**inputs, use_cache=False).logits.flatten(0, 1).float()
    for h in hooks:
        h.remove()
    flat = lambda x: x.flatten(0, -2).float()  # noqa: E731
    out["hidden"] = torch.stack([flat(a[0]) for _, a, _, _ in calls] + [flat(calls[-1][3])])
    out["layers_nudged"] = torch.stack([flat(first(m(nudged(a[0], i, unit), *a[1:], **k))) for i, (m, a, k, _) in enumerate(calls)])
    rows = []
    for seed in range(NUDGES):
        hook = layers[0].register_forward_pre_hook(lambda m, a, seed=seed: (nudged(a[0], seed, unit), *a[1:]))
        given = {k: nudged(v, seed, unit) if k.startswith("pixel_values") else v for k, v in inputs.items()}
        rows.append(net(**given, use_cache=False).logits.flatten(0, 1).float())
        hook.remove()
    out["logits_nudged"] = torch.stack(rows)
    return {k: v.contiguous() for k, v in out.items()}


def distance(got, want, of=None):
    return (got - want).abs().amax(-1) / (want if of is None else of).abs().amax(-1)


def mean_bound(own):
    return max(LEAST, FACTOR * float(own.mean()))


def compare_logits(report, name, got, judge):
    want, own = judge["logits"], distance(judge["logits_nudged"], judge["logits"])
    rel, choices = distance(got, want), lambda x: float((x.argmax(-1) == want.argmax(-1)).float().mean())
    least = choices(judge["logits_nudged"]) - CHOICES
    ok = float(rel.mean()) <= mean_bound(own) and choices(got) >= least
    report.check(f"{name}: logits no further than from itself", ok,
                 f"mean {rel.mean():.1e} largest {rel.max():.1e} equal first choices {choices(got):.3f}; the judge off by one unit: "
                 f"mean {own.mean():.1e} largest {own.max():.1e} equal {choices(judge['logits_nudged']):.3f}")


def one_layer(folder, tensors, i, hidden, out):
    """Layer i of a text model as a model: token t is row t of `hidden`, the logits are the normed output."""
    config = json.loads((folder / "config.json").read_text())
    width = config["hidden_size"]
    assert len(hidden) <= width
    config |= {"num_hidden_layers": 1, "vocab_size": width, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None}
    rows = torch.zeros(width, width)
    rows[:len(hidden)] = hidden
    keep = {k.replace(f".layers.{i}.", ".layers.0."): v for k, v in tensors.items() if f".layers.{i}." in k}
    keep |= {"model.embed_tokens.weight": rows, "lm_head.weight": torch.eye(width), "model.norm.weight": torch.ones(width)}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    save_file(keep, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    shutil.copy(folder / "tokenizer.json", out)
    return config["rms_norm_eps"]


def compare_layers(report, squint, name, folder, judge, work):
    """Every layer of the folder by itself. Distances are relative to what the layer adds."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    layers = len(judge["layers_nudged"])
    rows = min(-(-LAYER_ROWS // layers // ROWS) * ROWS, judge["hidden"].shape[1])
    hidden, ours, own = judge["hidden"][:, :rows], [], []
    for i, nudge in enumerate(judge["layers_nudged"][:, :rows]):
        eps = one_layer(folder, tensors, i, hidden[i], work / "one-layer-of")
        norm = lambda x: (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()  # noqa: E731
        want, added = hidden[i + 1] * norm(hidden[i + 1]), (hidden[i + 1] - hidden[i]) * norm(hidden[i + 1])
        got = torch.cat([squint.logits_of_tokens(work / "one-layer-of", range(t, t + ROWS)) for t in range(0, len(want), ROWS)])
        ours.append(distance(got, want, added))
        own.append(distance(nudge * norm(nudge), want, added))
    ours, own = torch.cat(ours), torch.cat(own)
    ok = float(ours.median()) <= max(EQUAL, 8 * float(judge["unit"])) and float(ours.mean()) <= mean_bound(own)
    text = lambda x: f"median {x.median():.1e} mean {x.mean():.1e} largest {x.max():.1e}"  # noqa: E731
    report.check(f"{name}: {layers} layers, each given the judge's input", ok, f"{text(ours)}; the judge off by one unit: {text(own)}")


def compare_text(report, squint, name, folder, judge, ids, work):
    """Both comparisons, of a model that was given `ids` in sequences of ROWS."""
    got = torch.cat([squint.logits_of_tokens(folder, ids[t:t + ROWS]) for t in range(0, len(ids), ROWS)])
    compare_logits(report, name, got, judge)
    compare_layers(report, squint, name, folder, judge, work)
