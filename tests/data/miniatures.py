"""Miniatures of the published benchmarks below ``data/``, where the configs look for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reduced_recipes import PICTURES, TEXTS

ANSWERS = ["a star"] * 7 + ["blue"] * 3


def write_miniatures(root: Path) -> None:
    """NoCaps, Flickr30k, OK-VQA, TextVQA, VizWiz and Visual Genome, beside COCO (see `reduced_recipes.write_data`)."""
    data = root / "data"
    _write_nocaps(data / "nocaps")
    _write_flickr30k(data / "flickr30k")
    _write_okvqa(data / "coco/annotations")
    _write_textvqa(data / "textvqa")
    _write_vizwiz(data / "vizwiz")
    _write_visual_genome(data / "visual_genome")


def _write_nocaps(root: Path) -> None:
    domains = ("in-domain", "near-domain", "near-domain", "out-domain")
    images = [
        {"id": n, "open_images_id": f"{n:016x}", "file_name": f"{n:016x}.jpg", "domain": domains[n % 4]}
        for n in range(PICTURES)
    ]
    texts = [{"image_id": n, "id": 10 * n + k, "caption": TEXTS[(n + k) % 4]} for n in range(PICTURES) for k in (0, 1)]
    pictures(root / "images", *(image["file_name"] for image in images))
    write(root / "annotations/nocaps_val_4500_captions.json", {"images": images, "annotations": texts})


def _write_flickr30k(root: Path) -> None:
    images = []
    for n in range(3 * PICTURES):
        sentences = [{"raw": f"{TEXTS[(n + k) % 4]} {n}", "imgid": n, "sentid": 5 * n + k} for k in range(2)]
        split = ("train", "val", "test")[n % 3]
        images.append({"imgid": n, "split": split, "filename": f"{1000 + n}.jpg", "sentences": sentences})
    pictures(root / "images", *(image["filename"] for image in images))
    write(root / "annotations/dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    for split in ("val", "test"):
        chosen = [image for image in images if image["split"] == split]
        texts = [
            {"image_id": s["imgid"], "id": s["sentid"], "caption": s["raw"]} for i in chosen for s in i["sentences"]
        ]
        content = {"images": [{"id": image["imgid"]} for image in chosen], "annotations": texts}
        write(root / f"annotations/flickr30k_{split}_gt.json", content)


def _write_okvqa(folder: Path) -> None:
    for split in ("train2014", "val2014"):
        for kind in (f"OpenEnded_mscoco_{split}_questions", f"mscoco_{split}_annotations"):
            (folder / f"okvqa_{kind}.json").write_bytes((folder / f"v2_{kind}.json").read_bytes())


def _write_textvqa(root: Path) -> None:
    for number, split in enumerate(("train", "val")):
        rows = [
            {
                "question_id": 100 * number + n,
                "image_id": f"{split}{n:010x}",
                "question": "what does it say?",
                "answers": ANSWERS,
            }
            for n in range(PICTURES)
        ]
        pictures(root / "train_images", *(f"{row['image_id']}.jpg" for row in rows))
        write(root / f"TextVQA_0.5.1_{split}.json", {"data": rows})


def _write_vizwiz(root: Path) -> None:
    for split in ("train", "val"):
        rows: list[dict[str, Any]] = []
        for n in range(PICTURES):
            answers = ANSWERS if n else ["unanswerable"] * 10
            rows.append(
                {
                    "image": f"VizWiz_{split}_{n:08d}.jpg",
                    "question": "What is this?",
                    "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
                    "answer_type": "other" if n else "unanswerable",
                    "answerable": int(n > 0),
                }
            )
        pictures(root / split, *(row["image"] for row in rows))
        write(root / f"Annotations/{split}.json", rows)


def _write_visual_genome(root: Path) -> None:
    content = []
    for n in range(PICTURES):
        row = {"qa_id": n, "image_id": n + 10, "question": "Where is the star?", "answer": "Left."}
        pictures(root / ("VG_100K" if n % 2 else "VG_100K_2"), f"{n + 10}.jpg")
        content.append({"id": n + 10, "qas": [row]})
    write(root / "annotations/question_answers.json", content)


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
