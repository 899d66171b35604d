"""Checkpoints by llm-compressor, for theirs.py. In a process of its own: it wants another transformers.

python llmcompressor_write.py --version
python llmcompressor_write.py JOBS.json

JOBS.json: a list of {source, out, recipe, ids, inputs, judge, unit}. `ids`: sequences to calibrate with; `inputs`: safetensors
of what the model is called with afterwards. `judge`: safetensors that get the logits of the model that oneshot leaves, weights and
inputs rounded by compressed-tensors in float32: codes times their stored scales, exactly; `unit`: not 0, and all that
stepwise.record says. A line of JSON for each job: {out, error}.
"""
import copy
import json
import os
import sys
import traceback

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
out = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # logs go to standard error, from the first import on

import torch  # noqa: E402
import transformers  # noqa: E402
from compressed_tensors.quantization.lifecycle.forward import dequantize, forward_quantize, quantize  # noqa: E402
from datasets import Dataset  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: E402
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: E402
from llmcompressor.pipelines.cache import IntermediatesCache  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from stepwise import record  # noqa: E402

if not torch.cuda.is_available():  # its AWQ pins memory for a GPU even where there is none, and fails
    IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None

TOWER = ["re:.*visual.*", "re:.*lm_head"]
TOKENS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}


def scheme(ignore, bits=4, symmetric=True, group=32, act=None, **weights):
    w = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel", **weights}
    if group:
        w["group_size"] = group
    g = {"targets": ["Linear"], "weights": w}
    if act is not None:
        g["input_activations"] = {**TOKENS, "symmetric": act}
    return {"ignore": ignore, "config_groups": {"group_0": g}}


def two_schemes(ignore):
    """4 bits, but 8 bits with rounded inputs in down_proj: two groups of two formats."""
    s = scheme(ignore)
    s["config_groups"]["group_0"]["targets"] = ["re:.*[qkvo]_proj$", "re:.*(gate|up)_proj$"]
    s["config_groups"]["group_1"] = {**scheme(ignore, 8, group=0, act=True)["config_groups"]["group_0"], "targets": ["re:.*down_proj$"]}
    return s


RECIPES = {
    "W4A16": lambda skip: [QuantizationModifier(scheme="W4A16", targets="Linear", ignore=skip)],
    "W4A16_ASYM": lambda skip: [QuantizationModifier(scheme="W4A16_ASYM", targets="Linear", ignore=skip)],
    "W4A16, groups of 32": lambda skip: [QuantizationModifier(**scheme(skip))],
    "W4A16, one group a row": lambda skip: [QuantizationModifier(**scheme(skip, symmetric=False, group=0))],
    "W8A16, asymmetric": lambda skip: [QuantizationModifier(**scheme(skip, 8, False))],
    "W8A8": lambda skip: [QuantizationModifier(scheme="W8A8", targets="Linear", ignore=skip)],
    "W8A8, asymmetric inputs": lambda skip: [QuantizationModifier(**scheme(skip, 8, group=0, act=False))],
    "W8A8, asymmetric": lambda skip: [QuantizationModifier(**scheme(skip, 8, False, 0, act=True))],
    "W4A8": lambda skip: [QuantizationModifier(scheme="W4A8", targets="Linear", ignore=skip)],
    "W4A8, asymmetric, groups of 32": lambda skip: [QuantizationModifier(**scheme(skip, symmetric=False, act=True))],
    "two schemes": lambda skip: [QuantizationModifier(**two_schemes(skip))],
    "GPTQ, symmetric": lambda skip: [GPTQModifier(**scheme(skip))],
    "GPTQ, asymmetric": lambda skip: [GPTQModifier(**scheme(skip, symmetric=False))],
    "GPTQ, act-order": lambda skip: [GPTQModifier(**scheme(skip, symmetric=False, actorder="static"))],
    "SmoothQuant, GPTQ W8A8": lambda skip: [SmoothQuantModifier(smoothing_strength=0.8),
                                            GPTQModifier(scheme="W8A8", targets="Linear", ignore=skip)],
    "AWQ, asymmetric": lambda skip: [AWQModifier(), QuantizationModifier(**scheme(skip, symmetric=False))],
    "AWQ, symmetric": lambda skip: [AWQModifier(), QuantizationModifier(**scheme(skip))],
}


def load(path):
    config = transformers.AutoConfig.from_pretrained(path)
    cls = {"qwen2_vl": transformers.Qwen2VLForConditionalGeneration}.get(config.model_type, transformers.AutoModelForCausalLM)
    return cls.from_pretrained(path, dtype=torch.bfloat16)


def rounded(net):
    """The model in float32, each weight what its code stands for and inputs rounded, by compressed-tensors' functions. Codes are
    those of the stored type's arithmetic, which is what its compressor does: float32 would round some weights the other way."""
    modules = [m for m in net.modules() if getattr(getattr(m, "quantization_scheme", None), "weights", None) is not None]
    codes = [quantize(m.weight.data, m.weight_scale, getattr(m, "weight_zero_point", None), m.quantization_scheme.weights,
                      dtype=torch.int8) for m in modules]
    net.float().eval()
    for m, q in zip(modules, codes):
        s = m.quantization_scheme
        m.weight.data = dequantize(q, m.weight_scale, getattr(m, "weight_zero_point", None), s.weights, dtype=torch.float32)
        m.quantization_enabled = False
        if s.input_activations is not None:
            m.register_forward_pre_hook(lambda m, a: (forward_quantize(m, a[0], "input", m.quantization_scheme.input_activations),))
    return net


def run(job):
    net = load(job["source"])
    skip = TOWER if job.get("tower") == "kept" else ["re:.*lm_head"]
    ids = job["ids"]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(x) for x in ids]})
    net = oneshot(model=net, processor=transformers.AutoTokenizer.from_pretrained(job["source"]), dataset=data,
                  recipe=RECIPES[job["recipe"]](skip), num_calibration_samples=len(ids), max_seq_length=max(map(len, ids)),
                  shuffle_calibration_samples=False, batch_size=1)
    wide = rounded(copy.deepcopy(net))
    inputs = load_file(job["inputs"])
    judge = record(wide, inputs, job["unit"]) if job["unit"] else {"logits": wide(**inputs, use_cache=False).logits.flatten(0, 1).float()}
    save_file({k: v.contiguous() for k, v in judge.items()}, job["judge"])
    net.save_pretrained(job["out"], save_compressed=True)


def main():
    if sys.argv[1] == "--version":
        import compressed_tensors
        import llmcompressor
        print(f"llmcompressor {llmcompressor.__version__}, compressed-tensors {compressed_tensors.__version__}, "
              f"transformers {transformers.__version__}, torch {torch.__version__}", file=out)
        return
    torch.set_num_threads(1)  # small matrices
    with open(sys.argv[1], encoding="utf-8") as f:
        jobs = json.load(f)
    for job in jobs:
        error = None
        try:
            with torch.no_grad():
                run(job)
        except Exception as e:  # one recipe that its version refuses must not hide the others
            traceback.print_exc()
            error = f"{type(e).__name__}: {str(e)[:300]}"
        print(json.dumps({"out": job["out"], "error": error}), file=out, flush=True)


main()
