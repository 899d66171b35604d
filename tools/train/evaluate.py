"""Scores a Hugging Face folder on the test split with transformers: greedy answers, exact match, IoU of boxes."""
import argparse
import json
import os
import re
from collections import defaultdict

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.image_utils import load_image
from transformers.video_utils import load_video


def absolute(messages, folder):
    """The messages in the processor's form, with paths that hold from anywhere."""
    out = []
    for m in messages:
        content = m["content"] if isinstance(m["content"], list) else [{"type": "text", "text": m["content"]}]
        out.append({"role": m["role"], "content": [
            {"type": c["type"], c["type"]: os.path.join(folder, c[c["type"]])} if c["type"] != "text" else c
            for c in content]})
    return out


def prepare(processor, messages):
    """What apply_chat_template with paths gives; clips are decoded by PyAV, so torchcodec is not needed."""
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    items = [c for m in messages for c in m["content"]]
    images = [load_image(c["image"]) for c in items if c["type"] == "image"]
    clips = [load_video(c["video"], backend="pyav") for c in items if c["type"] == "video"]
    extra = dict(videos=[c[0] for c in clips], video_metadata=[c[1] for c in clips]) if clips else {}
    return processor(text=[prompt], images=images or None, return_tensors="pt", **extra)


def normal(text):
    return re.sub(r"\s+", " ", text.lower().strip().rstrip(".!")).strip()


def read_box(text):
    m = re.search(r"\[\s*(-?\d+),\s*(-?\d+),\s*(-?\d+),\s*(-?\d+)\s*\]", text)
    return [float(v) for v in m.groups()] if m else None


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--task", required=True, help="test.jsonl")
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--every", type=int, default=1, help="only every n-th line")
    p.add_argument("--wrong", action="store_true", help="print what was wrong")
    a = p.parse_args()
    torch.set_num_threads(2)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(a.model, dtype=getattr(torch, a.dtype)).eval()
    processor = AutoProcessor.from_pretrained(a.model)
    right, words, boxes = defaultdict(list), [], []
    with open(a.task) as f:
        lines = [json.loads(x) for x in f][::a.every]
    for line in lines:
        messages = absolute(line["messages"], os.path.dirname(os.path.abspath(a.task)))
        inputs = prepare(processor, messages)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=72, do_sample=False)
        text = processor.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        if "bbox" in line:
            from PIL import Image
            w, h = Image.open(next(c["image"] for c in messages[0]["content"] if "image" in c)).size
            _, gh, gw = inputs["image_grid_thw"][0].tolist()
            box = read_box(text)
            box = box and [box[0] * w / gw / 14, box[1] * h / gh / 14, box[2] * w / gw / 14, box[3] * h / gh / 14]
            boxes.append(iou(box, line["bbox"]) if box else 0.0)
            good, want = boxes[-1] > .5, line["bbox"]
        elif "answer" in line:
            want = line["answer"]
            good = normal(text) == normal(want)
            right[line["kind"]].append(good)
        else:
            want = line["reference"]
            a_set, b_set = normal(want).replace(",", "").split(), normal(text).replace(",", "").split()
            words.append(sum(w in b_set for w in a_set) / len(a_set))
            good = words[-1] > .99
        if a.wrong and not good:
            print(line["kind"], messages[-1]["content"][-1]["text"], "| got", text, "| wanted", want, flush=True)
    every = [v for k in right for v in right[k]]
    print(json.dumps({
        "questions": len(every), "accuracy": round(sum(every) / len(every), 4),
        "direction": round(sum(right["direction"]) / max(1, len(right["direction"])), 4),
        "boxes": len(boxes), "mean_iou": round(sum(boxes) / max(1, len(boxes)), 4),
        "caption_words": round(sum(words) / max(1, len(words)), 4),
        "kinds": {k: [len(v), round(sum(v) / len(v), 4)] for k, v in sorted(right.items()) if v}}, indent=1))


if __name__ == "__main__":
    main()
