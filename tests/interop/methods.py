"""The methods beside the tools they come from, on the same weights and statistics. A part of run.py.

- Round-to-nearest: codes, scales and zero points of every linear of the embedded model equal those of compressed-tensors'
  calculate_qparams and quantize in float32, with the scale rounded to the stored type.
- GPTQ: the error tr(D X'X D') of every linear beside llm-compressor's quantize_weight on the same X'X (that of
  `squint calibrate`). Skipped without llmcompressor.
- A8W4DQ: logits of a model of one layer whose linears are torchao's Int8DynActInt4WeightLinear with the stored codes and
  scales, one token at a time (an input that falls to the other side of a step moves everything that is computed from it, so
  rows must not read each other's). Skipped without torchao.
- AWQ: the factors taken out of the norms' weights are those of AutoAWQ's formula, for the mean |x| of the statistics file, at one
  ratio of the grid of 1/20, with or without the weights' part (duo scaling); or no factor at all.
"""
import json
import math
import re

import torch
from safetensors.torch import load_file, save_file

from quantized import CALIB, dense_copy

GROUP = 32
ROUNDED = 2 ** -7      # two weights of a norm in BF16: their quotient's error
GPTQ_SUM, GPTQ_ONE = 1.0, 1.1   # of llm-compressor's error: all linears together, the worst of them
TORCHAO = 1e-3         # of the largest logit of the row
STEPWISE = 5e-2        # an input at the edge of two 8-bit steps may fall to the other side: these rows, at most a fifth
TAPS = {"q_proj": "self_attn.q_proj", "k_proj": "self_attn.q_proj", "v_proj": "self_attn.q_proj",
        "o_proj": "self_attn.o_proj", "gate_proj": "mlp.gate_proj", "up_proj": "mlp.gate_proj", "down_proj": "mlp.down_proj"}


def tensors(folder):
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out.update(load_file(file))
    return out


def quantized_names(t):
    return sorted(n[:-len(".weight_scale")] for n in t if n.endswith(".weight_scale"))


def unpack(packed, bits, count):
    """CT's pack-quantized I32 words, low bits first, along the last axis; codes from 0."""
    shifts = torch.arange(0, 32, bits)
    words = packed.to(torch.int64) & 0xFFFFFFFF
    return ((words[..., None] >> shifts) & (2 ** bits - 1)).flatten(-2)[..., :count]


def stored(t, name, bits):
    """(codes from 0, scales, zero points from 0 or None) as the folder holds them."""
    scale = t[f"{name}.weight_scale"].float()
    if f"{name}.weight_packed" not in t:
        return t[f"{name}.weight"].long() + 2 ** (bits - 1), scale, None
    columns = t[f"{name}.weight_shape"].tolist()[1]
    zero = t.get(f"{name}.weight_zero_point")
    zero = None if zero is None else unpack(zero.T, bits, scale.shape[0]).T
    return unpack(t[f"{name}.weight_packed"], bits, columns), scale, zero


# ---- round-to-nearest ----

def reference_codes(w, bits, group, symmetric, scale_type):
    """compressed-tensors' own functions, in float32."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    grouped = w.reshape(w.shape[0], -1, group or w.shape[1])
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group" if group else "channel",
                            group_size=group)
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    scale = scale.to(scale_type).float()
    if not symmetric:  # of the scale that is stored
        low = -(2 ** (bits - 1))
        zero = (low - torch.round(grouped.amin(-1).clamp(max=0) / scale)).clamp(low, -low - 1)
    codes = quantize(w, scale, zero.float(), args)
    half = 2 ** (bits - 1)
    return codes.long() + half, scale, None if symmetric else zero.long() + half


def check_rtn(report, squint, model, work):
    original = tensors(model)
    for title, flags, bits, group, symmetric in (
            ("W4 symmetric", ("--group-size", GROUP, "--sym"), 4, GROUP, True),
            ("W4 asymmetric", ("--group-size", GROUP), 4, GROUP, False),
            ("W8A16 symmetric, groups", ("--group-size", GROUP, "--sym", "--scheme", "w8a16"), 8, GROUP, True),
            ("W8A8, one scale a row", ("--scheme", "w8a8"), 8, None, True)):
        folder = work / ("rtn-" + re.sub(r"\W+", "-", title))
        squint.call("quantize", model, "-o", folder, "--method", "rtn", "--no-verify", *flags)
        t, count, off = tensors(folder), 0, {"codes": 0, "scales": 0, "zero points": 0}
        names = quantized_names(t)
        for name in names:
            got = stored(t, name, bits)
            want = reference_codes(original[f"{name}.weight"].float(), bits, group, symmetric, t[f"{name}.weight_scale"].dtype)
            for key, a, b in zip(off, got, want):
                off[key] += 0 if a is None and b is None else int((a != b).sum())
            count += got[0].numel()
        report.check(f"round-to-nearest, {title}: as compressed-tensors", names and not any(off.values()),
                     f"{len(names)} linears, {count} codes; unequal: {off}")


# ---- GPTQ ----

def peer_gptq(w, xx, symmetric):
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
    args = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP, actorder="static")
    grouped = w.reshape(w.shape[0], -1, GROUP)
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    scale = scale.bfloat16().float()
    return quantize_weight(weights=w[None].clone(), hessians=xx[None].clone(), scale=scale[None], zero_point=zero[None],
                           global_scale=None, quant_args=args)[0][0]


def error(d, xx):
    return float(((d.double() @ xx.double()) * d.double()).sum())


def check_gptq(report, squint, model, stats, work):
    try:
        import llmcompressor  # noqa: F401
    except ImportError:
        report.skip("GPTQ beside llm-compressor", "no llmcompressor")
        return
    original, s = tensors(model), load_file(stats)
    for title, flags, symmetric in (("asymmetric", (), False), ("symmetric", ("--sym",), True)):
        folder = work / f"gptq-{title}"
        squint.call("quantize", model, "-o", folder, "--method", "gptq", "--group-size", GROUP, "--stats", stats, "--no-verify",
                    *flags)
        names = [n for n in quantized_names(tensors(folder)) if ".layers." in n]
        mine = tensors(dense_copy(folder, work / "dense-gptq"))
        rows = []
        for name in names:
            layer, last = re.match(r"(.*\.layers\.\d+)\..*\.(\w+)$", name).groups()
            xx, w = s[f"{layer}.{TAPS[last]}.xx"], original[f"{name}.weight"].float()
            rows.append((error(mine[f"{name}.weight"].float() - w, xx), error(peer_gptq(w, xx, symmetric) - w, xx), name))
        total = sum(a for a, _, _ in rows) / sum(b for _, b, _ in rows)
        worst = max((a / b, n) for a, b, n in rows)
        report.check(f"GPTQ, {title}: errors of {len(rows)} linears beside llm-compressor's",
                     total <= GPTQ_SUM and worst[0] <= GPTQ_ONE, f"sum {total:.3f} of theirs, worst {worst[0]:.3f} ({worst[1]})")


# ---- A8W4DQ ----

SMALL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 288,
         "intermediate_size": 768, "num_hidden_layers": 1, "num_attention_heads": 6, "num_key_value_heads": 3,
         "max_position_embeddings": 1024, "vocab_size": 648, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "torch_dtype": "bfloat16"}


def small_model(out, model):
    """One random layer of Llama with the embedded model's vocabulary."""
    import shutil
    import transformers
    torch.manual_seed(3)
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{k: v for k, v in SMALL.items() if k != "torch_dtype"}))
    for p in net.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.08)
    out.mkdir()
    save_file({k: v.bfloat16().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors",
              metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(SMALL))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, out)
    net.load_state_dict({k: v.float() for k, v in load_file(out / "model.safetensors").items()})
    return net.float().eval()


def with_torchao(net, t):
    from torchao.quantization.linear_quant_modules import Int8DynActInt4WeightLinear
    for name in quantized_names(t):
        codes, scale, _ = stored(t, name, 4)
        linear = Int8DynActInt4WeightLinear(codes.shape[1], codes.shape[0], bias=False, groupsize=GROUP)
        linear.weight, linear.scales = (codes - 8).to(torch.int8), scale
        net.set_submodule(name, linear)
    return net


@torch.no_grad()
def check_a8w4dq(report, squint, model, work):
    try:
        import torchao  # noqa: F401
    except ImportError:
        report.skip("A8W4DQ beside torchao", "no torchao")
        return
    source, folder = work / "one-layer", work / "one-layer-w4a8"
    net = small_model(source, model)
    ids = torch.randperm(SMALL["vocab_size"], generator=torch.Generator().manual_seed(5))[:80, None]
    plain = net(ids).logits[:, 0]
    squint.call("quantize", source, "-o", folder, "--method", "rtn", "--scheme", "w4a8", "--group-size", GROUP, "--no-verify")
    want = with_torchao(net, tensors(folder))(ids).logits[:, 0]
    got = torch.cat([squint.logits_of_tokens(folder, i.tolist()) for i in ids])
    rel = (got - want).abs().amax(-1) / want.abs().amax(-1)
    apart = float(((plain - want).abs().amax(-1) / want.abs().amax(-1)).median())
    close = float((rel <= TORCHAO).float().mean())
    report.check("A8W4DQ: outputs as torchao's", close >= 0.8 and float(rel.median()) <= TORCHAO / 100 and float(rel.max()) <= STEPWISE
                 and apart > 10 * TORCHAO,
                 f"{100 * close:.1f} % of {len(ids)} rows within {TORCHAO}, median {rel.median():.1e}, largest {rel.max():.1e} "
                 f"(unquantized: {apart:.1e})")


# ---- AWQ ----

def weight_mean(weights):
    """AutoAWQ: |w| over its group's largest, mean over the rows of all linears that read the input."""
    w = torch.cat(weights)
    grouped = w.abs().reshape(w.shape[0], -1, GROUP)
    return (grouped / (grouped.amax(-1, keepdim=True) + 1e-6)).reshape(w.shape).mean(0)


def formula(x, w, ratio, duo):
    s = (x.pow(ratio) / (w.pow(1 - ratio) + 1e-4) if duo else x.pow(ratio)).clamp(min=1e-4)
    return s / (s.max() * s.min()).sqrt()


def nearest(found, x, w):
    """(largest relative distance, ratio, duo) of the nearest candidate."""
    table = [(float((found - 1).abs().max()), None, None)]
    for i in range(20):
        for duo in (True, False):
            s = formula(x, w, i / 20, duo)
            table.append((float((found / s - 1).abs().max()), i / 20, duo))
    return min(table, key=lambda row: row[0])


def check_awq(report, squint, model, stats, work):
    folder = work / "awq"
    squint.call("quantize", model, "-o", folder, "--method", "awq", "--group-size", GROUP, "--stats", stats, "--no-verify")
    original, t, s = tensors(model), tensors(folder), load_file(stats)
    layers = sorted({m[0] for n in t for m in [re.match(r"model\.layers\.\d+", n)] if m})
    used, worst = [], 0.0
    for layer in layers:
        for norm, parts in (("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))):
            found = original[f"{layer}.{norm}.weight"].double() / t[f"{layer}.{norm}.weight"].double()
            x = s[f"{layer}.{parts[0]}.sum_abs"] / float(s[f"{layer}.{parts[0]}.rows"])
            w = weight_mean([original[f"{layer}.{p}.weight"].double() for p in parts])
            off, ratio, duo = nearest(found, x, w)
            worst = max(worst, off if math.isfinite(off) else math.inf)
            used.append("none" if ratio is None else f"{ratio:.2f}{'' if duo else ' x alone'}")
    report.check(f"AWQ: factors of {len(used)} norms on AutoAWQ's grid", used and worst <= ROUNDED,
                 f"ratios {', '.join(used)}; largest distance {worst:.1e}")


def check_methods(report, squint, model, work):
    model = model.resolve()
    stats = work / "stats.safetensors"
    squint.call("calibrate", model, "-o", stats, "--calib", CALIB)
    for check in (lambda: check_rtn(report, squint, model, work), lambda: check_gptq(report, squint, model, stats, work),
                  lambda: check_a8w4dq(report, squint, model, work), lambda: check_awq(report, squint, model, stats, work)):
        try:
            check()
        except Exception as e:  # a broken case must not hide the others
            report.check("methods", False, f"{type(e).__name__}: {str(e)[-300:]}")
