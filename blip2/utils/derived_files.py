"""Published annotation files in the forms that LAVIS and mmpretrain derive from them.

Each function gives the contents of the derived files by name; `write_files` writes them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blip2.utils.annotations import CaptionEntry, read_captions, read_json
from blip2.utils.errors import AnnotationError
from blip2.utils.files import written_whole
from blip2.utils.question_annotations import read_gqa, read_vqa

SPLITS = ("train", "val", "test")


def karpathy_coco(source: str | Path) -> dict[str, Any]:
    """``dataset_coco.json`` as LAVIS's and mmpretrain's files.

    ``coco_karpathy_{train,val,test}.json`` (LAVIS, captions: an entry a caption in train, an entry a picture in the
    others), ``coco_karpathy_{val,test}_gt.json`` (references in COCO's form), and
    ``caption_karpathy_{train,val,test}2014.json`` (mmpretrain, retrieval: COCO's form, the folder in ``coco_url``).

    Raises:
        AnnotationError: as `read_captions` with a `split`.
    """
    files: dict[str, Any] = {}
    for split in SPLITS:
        entries = read_captions(source, split=split)
        rows: list[dict[str, Any]]
        if split == "train":
            rows = [
                {"caption": text, "image": entry.image, "image_id": f"coco_{entry.image_id}"}
                for entry in entries
                for text in entry.captions
            ]
        else:
            rows = [{"image": entry.image, "caption": entry.captions} for entry in entries]
            files[f"coco_karpathy_{split}_gt.json"] = _references(entries)
        files[f"coco_karpathy_{split}.json"] = rows
        files[f"caption_karpathy_{split}2014.json"] = _with_pictures(entries)
    return files


def karpathy_flickr30k(source: str | Path) -> dict[str, Any]:
    """``dataset_flickr30k.json`` as ``flickr30k_{train,val,test}_gt.json``: references in COCO's form, one a split.

    (mmpretrain's converter puts the pictures of all splits before it into a file as well.)

    Raises:
        AnnotationError: as `read_captions` with a `split`.
    """
    return {f"flickr30k_{split}_gt.json": _references(read_captions(source, split=split)) for split in SPLITS}


def karpathy(source: str | Path) -> dict[str, Any]:
    """The files of Karpathy's COCO or Flickr30k, whichever `source` says that it is (``dataset``)."""
    content = read_json(source)
    name = content.get("dataset") if isinstance(content, dict) else None
    known = {"coco": karpathy_coco, "flickr30k": karpathy_flickr30k}
    if name not in known:
        raise AnnotationError(
            f"{source} is of the dataset {name!r}; it should be dataset_coco.json or dataset_flickr30k.json out of "
            "Karpathy's caption_datasets.zip, which name theirs 'coco' and 'flickr30k'"
        )
    return known[name](source)


def vqa(question_file: str | Path, ann_file: str | Path, split: str) -> dict[str, Any]:
    """VQAv2's or OK-VQA's pair of files as LAVIS's one: ``[{question_id, question, answer: [text], image, dataset}]``.

    Args:
        question_file, ann_file: as published.
        split: the folder of COCO's pictures, 'train2014' or 'val2014', which the files don't name.

    Raises:
        AnnotationError: as `read_vqa`.
    """
    rows = [
        {
            "question_id": entry.question_id,
            "question": entry.question,
            "answer": list(entry.answers or ()),
            "image": f"{split}/COCO_{split}_{entry.image_id:012d}.jpg",
            "dataset": "vqa",
        }
        for entry in read_vqa(question_file, ann_file)
    ]
    return {f"vqa_{split.removesuffix('2014')}.json": rows}


def gqa(source: str | Path) -> dict[str, Any]:
    """GQA's own questions (an object by id) as LAVIS's list ``[{question_id, image, question, answer}]``.

    Raises:
        AnnotationError: as `read_gqa`.
    """
    read_gqa(source)  # says what is wrong with a file of another form
    content = read_json(source)
    if isinstance(content, list):
        raise AnnotationError(f"{source} is in LAVIS's form already")
    rows = []
    for question_id, row in content.items():  # ids as they are: some begin with zeros
        answer = {"answer": row["answer"]} if "answer" in row else {}
        image = f"{row['imageId']}.jpg"
        rows.append({"image": image, "question": row["question"], **answer, "question_id": question_id})
    return {Path(source).name: rows}


def nocaps(source: str | Path, pictures: str = "") -> dict[str, Any]:
    """NoCaps's image info or captions as LAVIS's list ``[{image, img_id}]``; `pictures` is put before the file names.

    Raises:
        AnnotationError: as `read_captions`.
    """
    entries = read_captions(source, captions_optional=True)
    split = next((split for split in ("val", "test") if split in Path(source).name), "pictures")
    before = f"{pictures.rstrip('/')}/" if pictures else ""
    return {f"nocaps_{split}.json": [{"image": f"{before}{e.image}", "img_id": e.image_id} for e in entries]}


def write_files(folder: str | Path, files: Mapping[str, Any], *, replace: bool = False) -> list[Path]:
    """Writes each content as JSON below `folder`, which is made; a file appears whole or not at all.

    Raises:
        FileExistsError: one of the files is there already and `replace` is off; then nothing is written.
    """
    paths = {Path(folder).expanduser() / name: content for name, content in files.items()}
    there = [str(path) for path in paths if path.exists()]
    if there and not replace:
        raise FileExistsError(f"{', '.join(there)} would be written over; choose another folder, or say --force")
    Path(folder).expanduser().mkdir(parents=True, exist_ok=True)
    for path, content in paths.items():
        with written_whole(path) as partial:
            partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return list(paths)


def _references(entries: list[CaptionEntry]) -> dict[str, Any]:
    """COCO's form without file names, as the caption metric reads it."""
    return {"annotations": _annotations(entries), "images": [{"id": entry.image_id} for entry in entries]}


def _with_pictures(entries: list[CaptionEntry]) -> dict[str, Any]:
    images = [
        {
            "id": entry.image_id,
            "file_name": entry.image.rsplit("/", 1)[-1],
            "coco_url": f"http://images.cocodataset.org/{entry.image}",
        }
        for entry in entries
    ]
    return {"images": images, "annotations": _annotations(entries)}


def _annotations(entries: list[CaptionEntry]) -> list[dict[str, Any]]:
    texts = [(entry.image_id, text) for entry in entries for text in entry.captions]
    return [{"image_id": image_id, "caption": text, "id": number} for number, (image_id, text) in enumerate(texts)]
