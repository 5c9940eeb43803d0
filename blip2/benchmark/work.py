"""What is measured: sizes from a preset or a config, generated pictures, random weights, a stand-in tokenizer."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from blip2.apis.config import load_config
from blip2.apis.hub import get_model
from blip2.models.blip2_generative import Options
from blip2.utils.suggest import did_you_mean

# Presets are the published models with other sizes, so that pictures go through the very same pipeline.
BASE_CONFIGS = {
    "caption": "blip2/blip2-opt2.7b_8xb32_caption.py",
    "vqa": "blip2/blip2-opt2.7b_8xb16_vqa.py",
    "retrieval": "blip2/blip2_8xb32_retrieval.py",
}
_PICTURE_SIZE = "test_dataloader.dataset.pipeline.1.scale"


@dataclass(frozen=True)
class Round:
    """How much is done in one round, and where."""

    task: ClassVar[str]
    batch_size: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name}={value} must be at least 1")


@dataclass(frozen=True)
class Work(Round):
    """Captioning: so many pictures, so many beams of each, exactly so many new tokens."""

    task = "caption"
    num_beams: int = 5
    max_new_tokens: int = 20
    precision: str = "fp32"
    device: str = "cpu"

    @property
    def answers(self) -> int:
        return self.batch_size

    def in_words(self) -> str:
        return f"pictures {self.batch_size}, beams {self.num_beams}, new tokens {self.max_new_tokens}"

    def options(self, options: Options) -> Options:
        """`options` changed to a plain search that ends after exactly `max_new_tokens`."""
        return replace(
            options,
            max_txt_len=self.max_new_tokens,
            min_length=self.max_new_tokens,
            num_beams=self.num_beams,
            num_captions=1,
            length_penalty=1.0,
            repetition_penalty=1.0,
            count_lengths="new",
            do_sample=False,
        )


@dataclass(frozen=True)
class VQAWork(Work):
    """Question answering: so many pictures, so many questions about each; the answers as captions in `Work`."""

    task = "vqa"
    batch_size: int = 4
    max_new_tokens: int = 10
    questions: int = 5

    @property
    def answers(self) -> int:
        return self.batch_size * self.questions

    def in_words(self) -> str:
        search = f"beams {self.num_beams}, new tokens {self.max_new_tokens}"
        return f"pictures {self.batch_size}, questions of each {self.questions}, {search}"


@dataclass(frozen=True)
class RetrievalWork(Round):
    """Retrieval: a gallery of so many pictures, so many texts, and how many of the most similar are ranked again."""

    task = "retrieval"
    batch_size: int = 16
    texts: int = 64
    topk: int = 8
    words: ClassVar[tuple[int, int]] = (6, 12)  # of a text: 8 to 14 tokens
    precision: str = "fp32"
    device: str = "cpu"

    def in_words(self) -> str:
        return f"pictures {self.batch_size}, texts {self.texts}, the {self.topk} most similar ranked again both ways"


WORKS: dict[str, type[Work] | type[RetrievalWork]] = {work.task: work for work in (Work, VQAWork, RetrievalWork)}


@dataclass(frozen=True)
class Preset:
    """Sizes by name: overrides of `BASE_CONFIGS` by dotted key, and the work that goes with them.

    Attributes:
        overrides: of all tasks.
        own: task → more of them.
        work: task → what is done in a round.
    """

    summary: str
    overrides: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]
    work: Mapping[str, Work | RetrievalWork]


_TINY_QFORMER = dict(
    vision_model_width=32,
    num_query_token=6,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
)
_MID_WRITER = {"model.vision_neck.num_classes": 768, "model.text_backbone.name_or_path": "facebook/opt-125m"}
_TINY_WRITER = {
    "model.multimodal_backbone": _TINY_QFORMER,
    "model.vision_neck": dict(in_channels=32, num_classes=32),
    "model.text_backbone": dict(
        name_or_path=None,
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
    ),
}
_TINY_RANKER = {
    "model.multimodal_backbone": {**_TINY_QFORMER, "vocab_size": 300, "max_position_embeddings": 40},
    "model.vision_neck": dict(in_channels=32, num_classes=16),
    "model.text_neck": dict(in_channels=32, num_classes=16),
    "model.multimodal_head.hidden_size": 32,
}

# As wide and as many patches as ViT-g's of 364 px, from one layer: what is compared behind it takes the time.
_WIDE = {
    "model.vision_backbone.arch": dict(embed_dims=1408, num_layers=1, num_heads=16, feedforward_channels=6144),
    "model.vision_backbone.img_size": 364,
    "model.vision_backbone.frozen_stages": 1,
    "model.multimodal_backbone.vision_model_width": 1408,
    _PICTURE_SIZE: (364, 364),
}

PRESETS = {
    "full": Preset(
        "the published sizes: ViT-g, OPT-2.7B; for GPUs",
        {},
        {"caption": {}, "vqa": {}, "retrieval": {}},
        {
            "caption": Work(batch_size=64),
            "vqa": VQAWork(batch_size=16),
            "retrieval": RetrievalWork(batch_size=64, texts=320, topk=32),
        },
    ),
    "wide": Preset(
        "mid behind patch features of 677×1408, as ViT-g's of 364 px are",
        _WIDE,
        {"caption": _MID_WRITER, "vqa": _MID_WRITER, "retrieval": {}},
        {"caption": Work(), "vqa": VQAWork(), "retrieval": RetrievalWork()},
    ),
    "mid": Preset(
        "12 layers 768 wide in all parts, 224 px, OPT's or BERT's vocabulary",
        {
            "model.vision_backbone.arch": dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
            "model.vision_backbone.img_size": 224,
            "model.vision_backbone.frozen_stages": 12,
            "model.multimodal_backbone.vision_model_width": 768,
            _PICTURE_SIZE: (224, 224),
        },
        {"caption": _MID_WRITER, "vqa": _MID_WRITER, "retrieval": {}},
        {"caption": Work(), "vqa": VQAWork(), "retrieval": RetrievalWork()},
    ),
    "tiny": Preset(
        "2 layers 32 wide, 28 px: to try the benchmark itself in seconds",
        {
            "model.vision_backbone.arch": dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64),
            "model.vision_backbone.img_size": 28,
            "model.vision_backbone.frozen_stages": 2,
            _PICTURE_SIZE: (28, 28),
        },
        {"caption": _TINY_WRITER, "vqa": _TINY_WRITER, "retrieval": _TINY_RANKER},
        {
            "caption": Work(batch_size=2, num_beams=3, max_new_tokens=5),
            "vqa": VQAWork(batch_size=2, questions=3, num_beams=3, max_new_tokens=5),
            "retrieval": RetrievalWork(batch_size=6, texts=12, topk=3),
        },
    ),
}


def preset(name: str, task: str = "caption") -> tuple[Config, Any]:
    """The config and the default work of a preset for a task; raises ValueError for an unknown name."""
    if task not in WORKS:
        raise ValueError(f"no task {task!r}.{did_you_mean(task, WORKS)} Tasks: {', '.join(WORKS)}")
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}.{did_you_mean(name, PRESETS)} Presets: {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    return load_config(BASE_CONFIGS[task], {**chosen.overrides, **chosen.own[task]}), chosen.work[task]


class StandInTokenizer:
    """Gives every word some id of a vocabulary: a benchmark needs the ids' number, not their meaning.

    So the full-size models can be timed where no tokenizer is at hand. As OPT's does, it puts one token before a text;
    with `closing`, as BERT's, one behind it too.
    """

    pad_token_id = 1
    bos_token_id = 2
    _line_feed, _first_word = 3, 4

    def __init__(self, vocab_size: int, closing: bool = False) -> None:
        self.vocab_size = vocab_size
        self._closing = [self._line_feed] if closing else []

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        # The last id of the vocabulary stays free: transformers marks the places of the queries with it.
        words = self.vocab_size - self._first_word - 1
        start = [self.bos_token_id] if add_special_tokens else []
        numbers = ([self._first_word + zlib.crc32(w.encode()) % words for w in text.split()] for text in texts)
        return [start + ids + self._closing for ids in numbers]

    def token_id(self, text: str) -> int:
        """The id of the line feed, which ends a caption."""
        assert text == "\n"
        return self._line_feed


def build_model(config: Config, device: torch.device, kind: str = "Blip2Caption", seed: int = 0) -> Any:
    """The model of `config` in eval mode, with random weights and a stand-in tokenizer.

    Raises ValueError if it is not of the type `kind`.
    """
    model = _bare_model(config, device, kind)
    language_model = getattr(model, "text_backbone", None)
    reader = StandInTokenizer(model.multimodal_backbone.config.vocab_size, closing=True)
    model.tokenizer = reader if language_model is None else StandInTokenizer(language_model.vocab_size)
    if getattr(model, "question_in_qformer", False):
        model.qformer_tokenizer = reader
    randomize(model, seed)
    return model.requires_grad_(False)


def count_parameters(config: Config, kind: str) -> int:
    """Of the model of `config`, tied ones once, without giving them memory; raises ValueError as `build_model`."""
    model = _bare_model(config, torch.device("meta"), kind)
    return sum(value.numel() for value in model.parameters())


def _bare_model(config: Config, device: torch.device, kind: str) -> Any:
    found = config.get("model", {}).get("type")
    if found != kind:
        others = ", ".join(WORKS)
        raise ValueError(f"this task's model is a {kind}, not {found}: give another config, or another task ({others})")
    config.model.tokenizer = None
    with device:
        return get_model(config)


@torch.no_grad()
def randomize(model: nn.Module, seed: int) -> None:
    """Draw weights that let activations keep their size through all layers.

    Freshly built models answer every picture alike, and nearly every token is as likely as the next: rounding would
    decide what they write, and two implementations could not be compared.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    done: set[int] = set()
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if id(value) in done:  # tied
                continue
            done.add(id(value))
            value.normal_(generator=generator).mul_(_scale(module, name, value))
            if isinstance(module, nn.LayerNorm) and name == "weight":
                value.add_(1)


def _scale(module: nn.Module, name: str, value: torch.Tensor) -> float:
    if isinstance(module, nn.Embedding):
        # As a head on a normalised state it makes logits with a deviation of 3.
        return 3 / value.shape[1] ** 0.5
    if name == "query_tokens":
        return 1.0
    if isinstance(module, nn.Linear | nn.Conv2d) and name == "weight":
        # Attention averages differences away; this gain brings enough of them through for captions to differ.
        return 1.6 * value[0].numel() ** -0.5
    return 0.1


def draw_texts(count: int, seed: int = 0, words: tuple[int, int] = (4, 12)) -> list[str]:
    """`count` texts of made-up words, as many as `words` says: at least, at most."""
    random = np.random.default_rng(seed)
    lengths = (random.integers(words[0], words[1] + 1) for _ in range(count))
    return [" ".join(f"w{word}" for word in random.integers(0, 1000, length)) for length in lengths]


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (640, 480), seed: int = 0) -> list[Path]:
    """`count` different JPEG files of `size` (width, height), with gradients, edges and grain as photographs have."""
    random = np.random.default_rng(seed)
    files = []
    for index in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        blocks = np.asarray(Image.fromarray(coarse[::-1]).resize(size, Image.Resampling.NEAREST), dtype=np.int16)
        grain = random.integers(-8, 9, smooth.shape, dtype=np.int16)
        pixels = np.clip((2 * smooth + blocks) // 3 + grain, 0, 255).astype(np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files.append(folder / f"{index:04d}.jpg")
        files[-1].write_bytes(buffer.getvalue())
    return files
