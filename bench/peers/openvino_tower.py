"""A checkpoint's vision tower as OpenVINO runs it: `convert MODEL OUT.xml WxH` (transformers' module traced for one picture size,
its weights in int8 by nncf), or `run FILE.xml THREADS`; seconds a picture after a warm-up, as one JSON line."""
import json
import sys
import time

import numpy as np
import openvino as ov


def convert(folder, target, size):
    import nncf
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = AutoConfig.from_pretrained(folder).vision_config
    tower = Qwen2VisionTransformerPretrainedModel(config).float().eval()
    with safe_open(f"{folder}/model.safetensors", "pt") as f:
        tower.load_state_dict({k[len("visual."):]: f.get_tensor(k).float() for k in f.keys() if k.startswith("visual.")})
    width, height = (int(x) // 28 * 2 for x in size.split("x"))
    grid = torch.tensor([[1, height, width]])

    class OneSize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower.requires_grad_(False)

        def forward(self, pixels):
            out = self.tower(pixels, grid_thw=grid)
            return getattr(out, "pooler_output", out)

    patch = config.in_channels * config.temporal_patch_size * config.patch_size ** 2
    model = ov.convert_model(OneSize().eval(), example_input=torch.zeros(height * width, patch))
    with open(target + ".json", "w", encoding="utf-8") as f:
        json.dump([height * width, patch], f)
    ov.save_model(nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM), target)


def run(path, threads):
    core = ov.Core()
    model = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    with open(path + ".json", encoding="utf-8") as f:
        pixels = np.random.default_rng().standard_normal(json.load(f), np.float32)
    request, seconds = model.create_infer_request(), []
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        request.infer([pixels])
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"vision_s": sorted(seconds[1:])[1]}))


if sys.argv[1] == "convert":
    convert(*sys.argv[2:5])
else:
    run(sys.argv[2], int(sys.argv[3]))
