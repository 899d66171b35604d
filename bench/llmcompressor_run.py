"""One oneshot() of llm-compressor 0.14: PEER_PYTHON bench/llmcompressor_run.py MODEL IDS.json METHOD GROUP OUT [DTYPE]

IDS.json: a list of token sequences. METHOD: rtn-asym, awq-asym, gptq-sym, gptq-asym, w8a8 (SmoothQuant 0.8, then GPTQ), or
awq-gptq-asym. Everything else is the tool's default (AWQ: duo scaling, 20 ratios; GPTQ: block 128, damping 0.01, static
activation order; lm_head kept). DTYPE: what the weights are widened to, float32 (the default: the more exact one, and the quicker
one without AVX-512 or AMX, where torch multiplies BF16 matrices several times slower) or bfloat16. Run by quantize_quality.py and quantize_speed.py."""
import json
import sys

model_path, ids_path, method, group, out = sys.argv[1:6]
dtype = (sys.argv[6:] or ["float32"])[0]

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from llmcompressor import oneshot  # noqa: E402
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402
from llmcompressor.modifiers.quantization import QuantizationModifier  # noqa: E402
from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: E402
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier  # noqa: E402
from llmcompressor.pipelines.cache import IntermediatesCache  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

if not torch.cuda.is_available():  # its AWQ pins memory for a GPU even where there is none, and fails
    IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None


def four_bits(symmetric):
    return {"ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
        "num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": int(group)}}}}


def recipe():
    return {
        "rtn-asym": lambda: [QuantizationModifier(**four_bits(False))],
        "rtn-sym": lambda: [QuantizationModifier(**four_bits(True))],
        "awq-asym": lambda: [AWQModifier(), QuantizationModifier(**four_bits(False))],
        "gptq-sym": lambda: [GPTQModifier(**four_bits(True))],
        "gptq-asym": lambda: [GPTQModifier(**four_bits(False))],
        "awq-gptq-asym": lambda: [AWQModifier(), GPTQModifier(**four_bits(False))],
        "w8a8": lambda: [SmoothQuantModifier(smoothing_strength=0.8),
                         GPTQModifier(scheme="W8A8", targets=["Linear"], ignore=["lm_head"])],
    }[method]()


def main():
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))
    with open(ids_path, encoding="utf-8") as f:
        ids = json.load(f)
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(x) for x in ids]})
    with torch.no_grad():
        oneshot(model=model, processor=AutoTokenizer.from_pretrained(model_path), dataset=data, recipe=recipe(),
                num_calibration_samples=len(ids), max_seq_length=max(map(len, ids)), shuffle_calibration_samples=False,
                output_dir=out)


main()
