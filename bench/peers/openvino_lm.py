"""OpenVINO's runtime on a stateful language model that optimum-intel exported: `FOLDER PROMPT DECODE THREADS`; one JSON
line. It is the runtime below openvino-genai, without its sampling and its cache of prefixes."""
import sys

import numpy as np
import openvino as ov

import rates


def main(folder, prompt, decode, threads):
    core = ov.Core()
    model = core.compile_model(f"{folder}/openvino_model.xml", "CPU",
                               {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    names = {x.get_any_name() for x in model.inputs}
    vocab = model.outputs[0].partial_shape[2].get_length()
    request = model.create_infer_request()
    rng = np.random.default_rng()

    def feed(n, at):
        inputs = {"input_ids": rng.integers(vocab // 4, vocab // 2, (1, n), dtype=np.int64),
                  "attention_mask": np.ones((1, at + n), np.int64), "position_ids": np.arange(at, at + n)[None].astype(np.int64),
                  "beam_idx": np.zeros(1, np.int32)}
        request.infer({k: v for k, v in inputs.items() if k in names})

    rates.report(request.reset_state, feed, prompt, decode)


main(sys.argv[1], *map(int, sys.argv[2:5]))
