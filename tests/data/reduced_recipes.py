"""The full-size recipes at a size that a test can run, and random data in the places where they look for theirs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image

from blip2.apis.config import load_config
from blip2.registry import HOOKS
from blip2.utils.resources import resources_root

PIXELS = 28  # 2 × 2 patches of the recipes' own size
WIDTH, LAYERS, WORDS = 32, 2, 1200
PICTURES = 6
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
TEXTS = [
    "a red square above a blue circle",
    "there is a green star",
    "two dogs, one of them small",
    "a street at night",
]


def reduced(name: str, work_dir: Path, **changes: Any) -> Config:
    """The bundled config `name`, two layers deep and 32 wide, in batches of 3, without its starting weights."""
    cfg = load_config(name)
    tokenizers = resources_root() / "configs/blip2_tiny"
    _reduce_model(cfg.model, tokenizers)
    _reduce_pictures(cfg)
    for stage, size in (("train", 3), ("val", 4), ("test", 4)):
        if cfg.get(f"{stage}_dataloader"):
            cfg[f"{stage}_dataloader"].update(batch_size=size, num_workers=0, persistent_workers=False)
    for stage in ("val", "test"):
        evaluators = cfg.get(f"{stage}_evaluator") or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            if evaluator.type in ("COCOCaption", "NocapsCaption"):
                evaluator.metrics = ["CIDEr"]
    cfg.load_from, cfg.custom_hooks, cfg.work_dir = None, [], str(work_dir)
    cfg.randomness = {"seed": 0}
    cfg.merge_from_dict(changes)
    return cfg


def _reduce_model(model: Any, tokenizers: Path) -> None:
    vision = model.vision_backbone
    vision.frozen_stages = LAYERS if vision.get("frozen_stages", -1) == vision.arch.num_layers else -1
    vision.arch = {"embed_dims": WIDTH, "num_layers": LAYERS, "num_heads": 4, "feedforward_channels": 64}
    vision.img_size = PIXELS
    model.multimodal_backbone.update(SIZES, intermediate_size=64, vocab_size=WORDS, vision_model_width=WIDTH)
    words = {"type": "Blip2Tokenizer", "name_or_path": str(tokenizers / "qformer_tokenizer")}
    if "text_backbone" in model:
        model.text_backbone.update(SIZES, name_or_path=None, vocab_size=WORDS, ffn_dim=64, max_position_embeddings=96)
        model.tokenizer.name_or_path = str(tokenizers / "tokenizer")
        model.vision_neck.update(in_channels=WIDTH, num_classes=WIDTH)
    else:
        model.tokenizer = words
        for neck in (model.vision_neck, model.text_neck):
            neck.update(in_channels=WIDTH, num_classes=16)
        model.multimodal_head.hidden_size = WIDTH
    if "qformer_tokenizer" in model:
        model.qformer_tokenizer = words


def _reduce_pictures(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") in ("RandomResizedCrop", "Resize"):
            node["scale"] = PIXELS if node["type"] == "RandomResizedCrop" else (PIXELS, PIXELS)
        for value in node.values():
            _reduce_pictures(value)
    elif isinstance(node, list | tuple):
        for item in node:
            _reduce_pictures(item)


def write_data(root: Path) -> None:
    """Random pictures, captions, questions and answers below ``root/data``, as the recipes' configs name them."""
    generator = np.random.default_rng(0)
    coco, notes = root / "data/coco", root / "data/coco/annotations"
    notes.mkdir(parents=True)
    for split in ("train2014", "val2014", "test2015"):
        (coco / split).mkdir()
        for number in range(PICTURES):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(coco / split / f"COCO_{split}_{number:012d}.jpg")
        _write_questions(notes, split)
    for split in ("train", "val"):
        entries = [_caption(f"{split}2014/COCO_{split}2014_{number:012d}.jpg", number) for number in range(PICTURES)]
        single = [{**entry, "caption": entry["caption"][0]} for entry in entries]
        _write(notes / f"coco_karpathy_{split}.json", single if split == "train" else entries)
        _write(notes / f"caption_karpathy_{split}2014.json", entries)
    _write(notes / "caption_karpathy_test2014.json", entries)
    _write(notes / "coco_karpathy_val_gt.json", _references(entries))
    for folder in ("cc3m", "cc12m", "sbu", "laion400m"):
        _write_table(root / "data" / folder, generator)
    _write_visual_genome(root / "data/visual_genome", generator)


def _caption(image: str, number: int) -> dict[str, Any]:
    return {"image": image, "image_id": number, "caption": [f"{TEXTS[number % 4]} {number}", TEXTS[(number + 1) % 4]]}


def _references(entries: list[dict]) -> dict[str, Any]:
    texts = [(entry["image_id"], text) for entry in entries for text in entry["caption"]]
    notes = [{"id": number, "image_id": image, "caption": text} for number, (image, text) in enumerate(texts)]
    return {"images": [{"id": entry["image_id"]} for entry in entries], "annotations": notes}


def _write_questions(notes: Path, split: str) -> None:
    questions = [
        {"question_id": 10 * number, "image_id": number, "question": f"what is number {number}?"}
        for number in range(PICTURES)
    ]
    _write(notes / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
    answers = [
        {
            "question_id": question["question_id"],
            "image_id": question["image_id"],
            "question_type": "what is",
            "answer_type": "other",
            "multiple_choice_answer": "a star",
            "answers": [{"answer": "a star" if number < 7 else "blue", "answer_id": number} for number in range(10)],
        }
        for question in questions
    ]
    if split != "test2015":
        _write(notes / f"v2_mscoco_{split}_annotations.json", {"annotations": answers})


def _write_table(folder: Path, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    rows = [{"image": "a.png", "caption": TEXTS[0]}, {"image": "gone.png", "caption": TEXTS[1]}]
    Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _write_visual_genome(folder: Path, generator: np.random.Generator) -> None:
    (folder / "annotations").mkdir(parents=True)
    (folder / "VG_100K").mkdir()
    Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(folder / "VG_100K/2.jpg")
    question = {"question_id": 5, "question": "Where is the star?", "answer": "left", "dataset": "vg"}
    _write(folder / "annotations/vg_caption.json", [{"image": "VG_100K/2.jpg", "image_id": 2, "caption": TEXTS[2]}])
    _write(folder / "annotations/vg_qa.json", [{"image": "VG_100K/2.jpg", **question}])


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


@HOOKS.register_module(force=True)
class Snapshots(Hook):
    """Keeps the weights before training and after each iteration, in ``kept``."""

    priority = "LOWEST"
    kept: list[dict[str, torch.Tensor]]

    def before_train(self, runner: Any) -> None:
        self.kept = [weights(runner)]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.kept.append(weights(runner))


def weights(runner: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def snapshots(runner: Any) -> list[dict[str, torch.Tensor]]:
    return next(hook for hook in runner.hooks if isinstance(hook, Snapshots)).kept
