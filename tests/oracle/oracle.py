"""transformers as the reference: prompts, pixels, positions, logits and greedy continuations.

Used by gen_models.py (fixtures) and by tests/interop (comparison of the program itself).
"""
import copy
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

import media as media_files  # noqa: E402

transformers.utils.logging.disable_progress_bar()

VLM = {"qwen2_vl": transformers.Qwen2VLForConditionalGeneration,
       "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration}
PROCESSOR = {"qwen2_vl": transformers.Qwen2VLProcessor,
             "qwen2_5_vl": transformers.Qwen2_5_VLProcessor}
VIDEO_FPS = 2  # frames a second asked of the video processor


@dataclass
class Item:
    kind: str      # image, video
    file: str
    key: str       # name in media/pixels.safetensors
    pixels: torch.Tensor
    grid: list
    second_per_grid: float = 0.0
    frames: int = 0


@dataclass
class Inputs:
    ids: list
    prompt: str
    messages: list
    media: list = field(default_factory=list)
    kwargs: dict = field(default_factory=dict)


def model_class(config):
    return VLM.get(config.model_type, transformers.AutoModelForCausalLM)


class Oracle:
    """One checkpoint folder, opened in float32 with eager attention.

    backend: "pil" resizes with Pillow (what squint reproduces bit for bit), "torchvision" is
    what transformers takes by default: it differs by one level in a few pixels of a resized
    picture.
    """

    def __init__(self, folder, backend="pil", **load):
        self.folder = Path(folder)
        self.config = AutoConfig.from_pretrained(folder)
        self.model, info = model_class(self.config).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
            **load)
        self.model.eval()
        lost = {k: sorted(v)[:3] for k, v in info.items() if v and not k.startswith("error")}
        if lost:  # transformers fills missing weights with random ones and goes on
            raise RuntimeError(f"tensors and modules do not match: {lost}")
        self.vlm = self.config.model_type in VLM
        self.double = None
        if self.vlm:
            # Not the processor's own file search: in one folder all three ways of storing the
            # template occur, and the image backend is chosen here.
            self.processor = PROCESSOR[self.config.model_type].from_pretrained(folder)
            self.processor.image_processor = AutoImageProcessor.from_pretrained(
                folder, backend=backend)
            self.tokenizer = self.processor.tokenizer
            self.template = self.processor.chat_template or self.tokenizer.chat_template
        else:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.template = self.tokenizer.chat_template

    @staticmethod
    def skeleton(folder):
        """The module tree alone, to name and shape random weights."""
        config = AutoConfig.from_pretrained(folder)
        cls = model_class(config)
        return cls(config) if cls in VLM.values() else cls.from_config(config)

    # Inputs

    def _video(self, path, key):
        frames, fps = media_files.read_clip(path)
        meta = VideoMetadata(total_num_frames=len(frames), fps=fps, height=frames.shape[1],
                             width=frames.shape[2], duration=len(frames) / fps)
        return frames, meta

    def prepare(self, messages, base, add_generation_prompt=True):
        """Messages with paths relative to `base` -> what the model takes."""
        prompt = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False,
            add_generation_prompt=add_generation_prompt)
        images, videos, order = [], [], []
        for m in messages:
            if isinstance(m["content"], str):
                continue
            for part in m["content"]:
                if part["type"] == "image":
                    order.append(("image", part["image"]))
                    images.append(media_files.read_image(Path(base) / part["image"]))
                elif part["type"] == "video":
                    order.append(("video", part["video"]))
                    videos.append(self._video(Path(base) / part["video"], part["video"]))
        if not order:
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            return Inputs(ids, prompt, messages,
                          kwargs={"input_ids": torch.tensor([ids])})
        extra = {}
        if images:
            extra["images"] = images
        if videos:
            extra["videos"] = [v for v, _ in videos]
            extra["video_metadata"] = [m for _, m in videos]
            extra["do_sample_frames"] = True
            extra["fps"] = VIDEO_FPS
        batch = self.processor(text=[prompt], return_tensors="pt", **extra)
        ids = batch["input_ids"][0].tolist()
        inputs = Inputs(ids, prompt, messages, kwargs=dict(batch))
        self._items(inputs, order, batch)
        return inputs

    def _items(self, inputs, order, batch):
        at = {"image": [0, 0], "video": [0, 0]}
        for kind, file in order:
            index, row = at[kind]
            grid = batch[f"{kind}_grid_thw"][index].tolist()
            rows = grid[0] * grid[1] * grid[2]
            values = batch["pixel_values" if kind == "image" else "pixel_values_videos"]
            item = Item(kind, file, Path(file).name, values[row : row + rows].clone(), grid)
            if kind == "video":
                item.frames = grid[0] * 2
                seconds = batch.get("second_per_grid_ts")
                # Qwen2-VL's processor gives none: the same figure by the same formula.
                item.second_per_grid = (float(seconds[index]) if seconds is not None
                                        else self._seconds(inputs, file, item.frames))
            inputs.media.append(item)
            at[kind] = [index + 1, row + rows]

    def _seconds(self, inputs, file, frames):
        all_frames, fps = media_files.read_clip(self.folder / file)
        return 2.0 / (frames / len(all_frames) * fps)

    # Outputs

    def positions(self, inputs):
        """[3, n] and the delta, from get_rope_index; arange and 0 for text."""
        n = len(inputs.ids)
        if not inputs.media:
            return torch.arange(n).expand(3, n).contiguous(), 0
        k = inputs.kwargs
        args = {a: k[a] for a in ("input_ids", "mm_token_type_ids", "image_grid_thw",
                                  "video_grid_thw", "second_per_grid_ts", "attention_mask")
                if a in k}
        pos, delta = self.model.model.get_rope_index(**args)
        return pos[:, 0], int(delta[0, 0])

    def _reset(self, model):
        if self.vlm:
            model.model.rope_deltas = None

    @torch.no_grad()
    def logits(self, inputs):
        self._reset(self.model)
        return self.model(**inputs.kwargs, use_cache=False).logits[0].float()

    @torch.no_grad()
    def float64_difference(self, inputs, logits):
        """How far float32 is from float64 here: max |difference| / max |logit|."""
        if self.double is None:
            self.double = copy.deepcopy(self.model).double()
        self._reset(self.double)
        exact = self.double(**inputs.kwargs, use_cache=False).logits[0]
        return float((exact - logits).abs().max() / exact.abs().max())

    @torch.no_grad()
    def vision(self, item):
        """Tower and merger on one picture or clip: [tokens, hidden]."""
        out = self.model.model.visual(item.pixels, grid_thw=torch.tensor([item.grid]))
        return out.pooler_output if hasattr(out, "pooler_output") else out

    def eos(self):
        eos = self.model.generation_config.eos_token_id
        return set(eos if isinstance(eos, list) else [eos])

    @torch.no_grad()
    def greedy(self, inputs, count, use_cache=True, ignore_eos=False):
        """(new token ids, margin between the best two logits of every step)."""
        self._reset(self.model)
        more = {"eos_token_id": -1, "pad_token_id": 0} if ignore_eos else {}
        out = self.model.generate(
            **inputs.kwargs, max_new_tokens=count, do_sample=False, use_cache=use_cache,
            repetition_penalty=1.0, output_logits=True, return_dict_in_generate=True, **more)
        new = out.sequences[0, len(inputs.ids):].tolist()
        margins = []
        for step in out.logits:
            top = step[0].float().topk(2).values
            margins.append(float(top[0] - top[1]))
        return new, margins

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
