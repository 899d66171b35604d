"""The random-weight checkpoints: how each is configured and how its files are laid out.

Dimensions are odd on purpose: no width is a multiple of 16 in all of them, query heads do not
divide the width of a vector register, MLP widths are 20, 44, 52.
"""
from dataclasses import dataclass, field

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass
class Spec:
    name: str
    config: dict            # config.json without vocabulary and token ids
    nested: bool            # text keys in text_config
    new_names: bool         # model.visual. / model.language_model., else visual. / model.
    dtype: str              # F32, BF16, F16
    shards: int = 1
    template: str = ""      # where the chat template lives: jinja, json, tokenizer
    processor: str = "old"  # old: published keys; video: and a video file; new: one file for all
    seed: int = 0
    head_gain: float = 3.0  # standard deviation of the logits, about
    extra: dict = field(default_factory=dict)


def text(hidden, inter, layers, heads, kv, **kw):
    return {
        "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": "silu",
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "use_cache": True, **kw,
    }


SPECS = [
    # Qwen2.5-VL as transformers 5 writes it: nested, rope_parameters, module names.
    Spec("qwen25vl-nested-f32", {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": False,
        "text_config": text(
            40, 52, 2, 5, 1, model_type="qwen2_5_vl_text",
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0, "type": "mrope",
                             "mrope_section": [2, 1, 1]}),
        "vision_config": {
            "model_type": "qwen2_5_vl_vision", "depth": 3, "hidden_size": 20, "num_heads": 5,
            "intermediate_size": 20, "out_hidden_size": 40, "hidden_act": "silu", "in_channels": 3,
            "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
        },
    }, nested=True, new_names=True, dtype="F32", template="jinja", processor="new", seed=11),
    # Qwen2.5-VL as published: flat, three shards; tokens_per_second absent: the class default 4.
    Spec("qwen25vl-flat-bf16", {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **text(48, 44, 3, 6, 2, use_sliding_window=False, sliding_window=32768,
               max_window_layers=3, attention_dropout=0.0, initializer_range=0.02,
               rope_theta=1000000.0,
               rope_scaling={"type": "mrope", "mrope_section": [1, 2, 1]}),
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.41.2",
        "vision_config": {
            "depth": 2, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 28,
            "num_heads": 2, "in_chans": 3, "out_hidden_size": 48, "patch_size": 14,
            "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
            "fullatt_block_indexes": [0], "temporal_patch_size": 2,
        },
    }, nested=False, new_names=False, dtype="BF16", shards=3, template="tokenizer", seed=22),
    # Qwen2-VL as published: flat, F16, one head a key/value head.
    Spec("qwen2vl-flat-f16", {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        **text(32, 40, 2, 4, 4, use_sliding_window=False, sliding_window=32768,
               max_window_layers=2, attention_dropout=0.0, initializer_range=0.02,
               rope_theta=1000000.0,
               rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]}),
        "tie_word_embeddings": True, "torch_dtype": "float16", "transformers_version": "4.41.2",
        "vision_config": {
            "depth": 2, "embed_dim": 24, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3,
            "hidden_size": 32, "patch_size": 14, "spatial_merge_size": 2,
            "spatial_patch_size": 14, "temporal_patch_size": 2,
        },
    }, nested=False, new_names=False, dtype="F16", template="json", processor="video", seed=33),
    # Qwen2-VL nested, as 4.52 to 4.57 wrote it (rope_scaling), module names, GQA 4/2.
    Spec("qwen2vl-nested-f32", {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "text_config": text(
            48, 36, 2, 4, 2, model_type="qwen2_vl_text", tie_word_embeddings=False,
            rms_norm_eps=1e-5, rope_theta=50000.0,
            rope_scaling={"type": "default", "rope_type": "default",
                          "mrope_section": [2, 2, 2]}),
        "vision_config": {
            "model_type": "qwen2_vl", "depth": 3, "embed_dim": 16, "mlp_ratio": 3,
            "num_heads": 1, "in_channels": 3, "hidden_size": 48, "hidden_act": "quick_gelu",
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
    }, nested=True, new_names=True, dtype="F32", template="jinja", seed=44),
    Spec("qwen2-text-f32", {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        **text(42, 30, 2, 3, 3, rope_theta=1000000.0, use_sliding_window=False,
               sliding_window=32768, max_window_layers=2),
        "tie_word_embeddings": True, "torch_dtype": "float32",
    }, nested=False, new_names=False, dtype="F32", template="tokenizer", seed=55),
    # head_dim is not hidden_size / heads; llama3 scaling whose three bands all occur.
    Spec("llama-llama3-f32", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        **text(36, 28, 2, 3, 1, head_dim=16, rms_norm_eps=1e-5, rope_theta=10000.0,
               attention_bias=False, mlp_bias=False,
               rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
        "tie_word_embeddings": False, "torch_dtype": "float32",
    }, nested=False, new_names=False, dtype="F32", template="tokenizer", seed=66),
]


def is_vlm(spec):
    return "vision_config" in spec.config


def full_config(spec, ids, vocab):
    """config.json with the vocabulary and the token ids where each layout has them."""
    import copy
    cfg = copy.deepcopy(spec.config)
    inner = cfg["text_config"] if spec.nested else cfg
    inner["vocab_size"] = vocab
    inner["bos_token_id"] = ids["<|endoftext|>"]
    inner["eos_token_id"] = ids["<|im_end|>"]
    if is_vlm(spec):
        for key, token in (("vision_start_token_id", "<|vision_start|>"),
                           ("vision_end_token_id", "<|vision_end|>"),
                           ("image_token_id", "<|image_pad|>"),
                           ("video_token_id", "<|video_pad|>")):
            cfg[key] = ids[token]
        if not spec.nested:
            cfg["vision_token_id"] = ids["<|vision_pad|>"]
    return cfg


def preprocessor(spec):
    """File name -> content of the processor's files."""
    family = "Qwen2_5_VLProcessor" if "2_5" in spec.config["model_type"] else "Qwen2VLProcessor"
    base = {"image_mean": MEAN, "image_std": STD, "patch_size": 14, "temporal_patch_size": 2,
            "merge_size": 2}
    old = {"min_pixels": 3136, "max_pixels": 12845056, **base,
           "image_processor_type": "Qwen2VLImageProcessor", "processor_class": family}
    if spec.processor == "old":
        return {"preprocessor_config.json": old}
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    common = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
              "resample": 3, "rescale_factor": 1 / 255, "size": size, **base}
    video = {**common, "video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False,
             "min_frames": 4, "max_frames": 768, "processor_class": family}
    if spec.processor == "video":
        video["size"] = {"shortest_edge": 3136, "longest_edge": 200704}
        return {"preprocessor_config.json": old, "video_preprocessor_config.json": video}
    return {"processor_config.json": {
        "image_processor": {**common, "image_processor_type": "Qwen2VLImageProcessor"},
        "processor_class": family,
        "video_processor": {**video, "do_sample_frames": True, "fps": 2.0,
                            "max_video_tokens": 128000, "return_metadata": False}}}
