"""Writing a data set of drawn scenes: pictures, annotations in COCO's forms, scene graphs, and text documents.

::

    images/<split>/<id>.jpg (every tenth a .png)
    annotations/<split>.json          captions as in Karpathy's splits: [{image, image_id, caption: [five]}]
    annotations/<split>_gt.json       the same in COCO form, for the metric
    annotations/train_places.json     as train.json, with sentences that give every object its place besides
    annotations/retrieval_{val,test}.json   a gallery: the split's first pictures, each with five captions that are true
                                      of no other picture of the gallery
    questions/<split>.json            VQAv2's questions: {questions: [{question_id, image_id, question}]}
    questions/<split>_answers.json    VQAv2's annotations, ten answers each
    scenes/<split>.json               scene graphs by image_id
    documents/train.jsonl             text alone, for the language model; without questions about numbers
    documents/train_counts.jsonl      as many documents with them, to go on with
    documents/val.jsonl               documents to judge by
"""

import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from blip2.datasets.scenes.documents import document, validation_document
from blip2.datasets.scenes.gallery import gallery_captions
from blip2.datasets.scenes.grammar import captions, located_caption
from blip2.datasets.scenes.questions import Question, questions
from blip2.datasets.scenes.render import draw_scene
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene import Scene

# A split's number opens its image ids, and a picture depends on nothing but seed, split and place in the split.
SPLITS = {"train": 0, "val": 1, "test": 2, "held_out": 3}
IDS_PER_SPLIT = 10_000_000
DEFAULT_COUNTS = {"train": 60_000, "val": 500, "test": 2_000, "held_out": 1_000, "documents": 200_000}
LOCATED_CAPTIONS = 3
GALLERIES = {"val": 200, "test": 500}
QUESTIONS_PER_PICTURE = 10  # room for as many ids


def generate(
    root: str | Path,
    counts: Mapping[str, int] | None = None,
    size: int = 96,
    seed: int = 0,
    workers: int | None = None,
) -> Iterator[tuple[str, int, int]]:
    """Write the data set below `root`; yields (what, done, total) as it goes on.

    Args:
        root: a folder that does not exist yet, or is empty.
        counts: pictures a split ('train', 'val', 'test', 'held_out') and 'documents'; others as in `DEFAULT_COUNTS`.
        size: side of the pictures in pixels.
        seed: the same seed gives the same files, whatever `workers` is.
        workers: processes; default: one a core.

    Raises:
        FileExistsError: `root` holds something.
        ValueError: an unknown name in `counts`.
    """
    root = Path(root)
    unknown = set(counts or {}) - set(DEFAULT_COUNTS)
    if unknown:
        raise ValueError(f"no split is called {', '.join(sorted(unknown))}; there are {', '.join(DEFAULT_COUNTS)}")
    if root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty: name a new folder, or remove it first")
    totals = {**DEFAULT_COUNTS, **(counts or {})}
    for folder in ("annotations", "questions", "scenes", "documents"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    # Forked children start at once, and from an interactive session too; other systems than Linux have to spawn them.
    with get_context("fork" if sys.platform == "linux" else "spawn").Pool(workers or os.cpu_count()) as pool:
        for split in SPLITS:
            (root / "images" / split).mkdir(parents=True, exist_ok=True)
            records = []
            make = partial(_write_picture, root, split, size, seed)
            for record in pool.imap(make, range(totals[split]), chunksize=64):
                records.append(record)
                if len(records) % 500 == 0 or len(records) == totals[split]:
                    yield split, len(records), totals[split]
            _write_annotations(root, split, records)
            _write_questions(root, split, records, seed)
            if split in GALLERIES:
                _write_gallery(root, split, records[: GALLERIES[split]], seed)
        _write_documents(root, seed, totals["documents"], pool)
        yield "documents", totals["documents"], totals["documents"]


def picture_of(split: str, index: int, seed: int = 0) -> random.Random:
    """The source of randomness of one picture of a split."""
    return random.Random(f"{seed}/{split}/{index}")


def _write_picture(root: Path, split: str, size: int, seed: int, index: int) -> dict[str, Any]:
    rng = picture_of(split, index, seed)
    scene = random_scene(rng, "held_out" if split == "held_out" else "seen")
    image_id = SPLITS[split] * IDS_PER_SPLIT + index
    name = f"images/{split}/{image_id:012d}.{'png' if index % 10 == 9 else 'jpg'}"
    draw_scene(scene, rng, size).save(root / name, quality=92)
    record = {"image": name, "image_id": image_id, "caption": captions(scene, rng), "scene": scene.to_dict()}
    if split == "train":
        record["places"] = [located_caption(scene, rng) for _ in range(LOCATED_CAPTIONS)]
    return record


def _write_annotations(root: Path, split: str, records: list[dict[str, Any]]) -> None:
    rows = [{key: record[key] for key in ("image", "image_id", "caption")} for record in records]
    _dump(root / f"annotations/{split}.json", rows)
    _dump(root / f"scenes/{split}.json", {record["image_id"]: record["scene"] for record in records})
    images = [{"id": record["image_id"], "file_name": record["image"]} for record in records]
    texts = [(record["image_id"], caption) for record in records for caption in record["caption"]]
    annotations = [{"id": i, "image_id": image_id, "caption": text} for i, (image_id, text) in enumerate(texts)]
    _dump(root / f"annotations/{split}_gt.json", {"images": images, "annotations": annotations})
    if split == "train":
        both = zip(rows, records, strict=True)
        located = [{**row, "caption": row["caption"] + record["places"]} for row, record in both]
        _dump(root / "annotations/train_places.json", located)


def _write_questions(root: Path, split: str, records: list[dict[str, Any]], seed: int) -> None:
    asked, answered = [], []
    for record in records:
        image_id, rng = record["image_id"], random.Random(f"{seed}/questions/{record['image_id']}")
        for number, question in enumerate(questions(Scene.from_dict(record["scene"]), rng)):
            question_id = image_id * QUESTIONS_PER_PICTURE + number
            asked.append({"question_id": question_id, "image_id": image_id, "question": question.text})
            answered.append({"question_id": question_id, "image_id": image_id, **_annotation(question, rng)})
    _dump(root / f"questions/{split}.json", {"questions": asked})
    _dump(root / f"questions/{split}_answers.json", {"annotations": answered})


def _annotation(question: Question, rng: random.Random) -> dict[str, Any]:
    return {
        "question_type": question.kind,
        "answer_type": question.answer_type,
        "multiple_choice_answer": question.answer,
        "answers": [{"answer": said, "answer_id": i} for i, said in enumerate(question.answers(rng), 1)],
    }


def _write_gallery(root: Path, split: str, records: list[dict[str, Any]], seed: int) -> None:
    scenes = [Scene.from_dict(record["scene"]) for record in records]
    texts = gallery_captions(scenes, random.Random(f"{seed}/gallery/{split}"))
    rows = [
        {"image": record["image"], "image_id": record["image_id"], "caption": captions_}
        for record, captions_ in zip(records, texts, strict=True)
    ]
    _dump(root / f"annotations/retrieval_{split}.json", rows)


def _write_documents(root: Path, seed: int, count: int, pool: Any) -> None:
    files = {
        "train": (partial(_document, seed, False), count),
        "train_counts": (partial(_document, seed, True), count),
        "val": (partial(_validation_document, seed), min(1000, count)),
    }
    for name, (make, number) in files.items():
        with (root / f"documents/{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in pool.imap(make, range(number), chunksize=500):
                file.write(json.dumps(row) + "\n")


def _document(seed: int, counts: bool, index: int) -> dict[str, Any]:
    return {"text": document(random.Random(f"{seed}/document/{index}"), counts)}


def _validation_document(seed: int, index: int) -> dict[str, Any]:
    return validation_document(random.Random(f"{seed}/validation document/{index}"))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
