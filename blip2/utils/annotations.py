"""Files of captions, read for a dataset and for its metric alike, so that both know a picture by the same
``image_id``."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmengine import fileio

from blip2.utils.errors import AnnotationError, MissingAnnotationError
from blip2.utils.published_files import published_file

_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class CaptionEntry:
    """One entry of a file of captions.

    Attributes:
        image: the picture's path as the file has it, empty if it has none.
        image_id: a number where there is one, else a text (see `read_captions`).
        caption: one text, several, or ``None``, as the file has it.
    """

    image: str
    image_id: int | str
    caption: str | list[str] | None

    @property
    def captions(self) -> list[str]:
        if self.caption is None:
            return []
        return [self.caption] if isinstance(self.caption, str) else self.caption


def read_captions(
    path: str | Path,
    *,
    image_key: str = "image",
    caption_key: str = "caption",
    id_key: str = "image_id",
    folder_from_url: bool = False,
    captions_optional: bool = False,
    split: str | None = None,
) -> list[CaptionEntry]:
    """The entries of a file of captions, in the file's order.

    Forms, told apart by suffix and content:

    - COCO (``.json``): ``{images: [{id, file_name}], annotations: [{image_id, caption}]}``; an entry for each of
      ``images``, with its captions in a list. Reference files without file names are COCO form as well, and, where
      `captions_optional` says so, lists of pictures without ``annotations``. With `folder_from_url` a picture lies in
      the folder that its ``coco_url`` ends with (``…/val2014/x.jpg`` → ``val2014/x.jpg``), if it has one.
    - Karpathy's splits as LAVIS has them (``.json``): ``[{image, caption, image_id}]``, the caption one text or a list.
      ``image_id`` is the entry's own if it is a number, else the number that ends the file name
      (``COCO_val2014_000000391895.jpg`` → 391895, as in mmpretrain), else the entry's own text, else the file's stem.
    - Karpathy's own files (``dataset_coco.json``, ``dataset_flickr30k.json``): ``{images: [{split, filepath, filename,
      cocoid, sentences: [{raw}]}]}``, of which `split` says the part: 'train' (with 'restval'), 'val' or 'test'; only
      who gives a `split` can read them.
    - a table of one's own (``.csv``, ``.tsv``, ``.jsonl``) with the columns named by the arguments; without an id, the
      picture's path is its ``image_id``.

    Raises:
        MissingAnnotationError: there is no such file; where to get it, if it is a published one.
        AnnotationError: unreadable, of another form, or without entries.
    """
    keys = (image_key, caption_key, id_key)
    suffix = PurePosixPath(str(path)).suffix.lower()
    if suffix not in (".json", ".jsonl", *_TABLES):
        raise AnnotationError(f"annotation file {path}: suffix {suffix!r} is unknown; use .json, .jsonl, .csv or .tsv")
    text = _read_text(path)
    if suffix in _TABLES:
        entries = _table_entries(_csv_rows(text, path, _TABLES[suffix], keys), keys)
    elif suffix == ".jsonl":
        entries = _table_entries(_jsonl_rows(text, path), keys)
    else:
        content = _parse_json(text, str(path))
        if captions_optional and isinstance(content, dict) and "images" in content:
            content.setdefault("annotations", [])
        if _is_karpathys_own(content):
            entries = _karpathys_own_entries(content["images"], path, split)
        else:
            entries = _json_entries(content, path, keys, folder_from_url)
    if not entries:
        raise AnnotationError(f"annotation file {path} is empty: it holds no pictures")
    return entries


def group_by_image(entries: Iterable[CaptionEntry]) -> list[CaptionEntry]:
    """One entry a picture, in order of first appearance, with all its captions in a list.

    Raises:
        AnnotationError: two different pictures have one ``image_id``.
    """
    groups: dict[int | str, CaptionEntry] = {}
    for entry in entries:
        known = groups.get(entry.image_id)
        if known is not None and known.image != entry.image:
            raise AnnotationError(
                f"two pictures have the image_id {entry.image_id}: {known.image} and {entry.image}. "
                "Give each entry of the annotation file a number of its own as 'image_id'"
            )
        captions = (known.captions if known else []) + entry.captions
        groups[entry.image_id] = CaptionEntry(entry.image, entry.image_id, captions)
    return list(groups.values())


def normalise_image_id(value: Any) -> int | str:
    """An ``image_id`` in the form by which dataset and metric know it: '000042' and a tensor of 42 become 42."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"an image_id is a number or a text, not {value!r}")


def read_json(path: str | Path, argument: str = "ann_file") -> Any:
    """The content of a JSON file; `argument` is the name that its user knows it by.

    Raises:
        MissingAnnotationError: there is no such file; where to get it, if it is a published one.
        AnnotationError: it is not JSON.
    """
    return _parse_json(_read_text(path, argument), str(path))


def _read_text(path: str | Path, argument: str = "ann_file") -> str:
    try:
        data = fileio.get(str(path)) if "://" in str(path) else Path(path).expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        known = published_file(str(path))
        step = known.step if known else f"Check {argument} and data_root"
        raise MissingAnnotationError(f"there is no annotation file {path}. {step}") from None
    except IsADirectoryError:
        raise AnnotationError(f"annotation file {path} is a folder; give the file in it") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"annotation file {path} is not UTF-8 text ({error}); save it as UTF-8") from None


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(f"annotation file {where} is not valid JSON ({error}); fetch or write it again") from None


def _json_entries(
    content: Any, path: str | Path, keys: tuple[str, str, str], folder_from_url: bool
) -> list[CaptionEntry]:
    if isinstance(content, list):
        return [_karpathy_entry(row, f"{path}, entry {i}", keys) for i, row in enumerate(content)]
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return _coco_entries(content, path, folder_from_url)
    found = f"an object with the keys {sorted(content)}" if isinstance(content, dict) else type(content).__name__
    raise AnnotationError(
        f"annotation file {path} holds {found}; it should be a list of {{image, caption}} "
        "or COCO's object with 'images' and 'annotations'"
    )


def _coco_entries(content: dict[str, Any], path: str | Path, folder_from_url: bool) -> list[CaptionEntry]:
    try:
        captions: dict[int | str, list[str]] = {}
        for annotation in content["annotations"]:
            image_id = normalise_image_id(annotation["image_id"])
            captions.setdefault(image_id, []).append(str(annotation["caption"]))
        images = content.get("images") or [{"id": image_id} for image_id in captions]
        names = {normalise_image_id(image["id"]): _coco_name(image, folder_from_url) for image in images}
    except (KeyError, TypeError) as error:
        raise AnnotationError(
            f"annotation file {path} is not COCO's caption form ({type(error).__name__}: {error}); it needs "
            "images: [{id, file_name}] and annotations: [{image_id, caption}]"
        ) from None
    unknown = [image_id for image_id in captions if image_id not in names]
    if unknown:
        raise AnnotationError(
            f"annotation file {path}: {len(unknown)} image_id(s) of 'annotations' are not among 'images', "
            f"the first is {unknown[0]}; check that both belong to one split"
        )
    return [CaptionEntry(name, image_id, captions.get(image_id)) for image_id, name in names.items()]


def _coco_name(image: dict[str, Any], folder_from_url: bool) -> str:
    url = str(image.get("coco_url") or "") if folder_from_url else ""
    return "/".join(url.rsplit("/", 2)[-2:]) if url else str(image.get("file_name", ""))


def _karpathy_entry(row: Any, where: str, keys: tuple[str, str, str]) -> CaptionEntry:
    image_key, caption_key, id_key = keys
    own_id = _field(row, where, id_key, row.get("img_id")) if isinstance(row, dict) else None
    image = str(_field(row, where, image_key, ""))
    if not image and own_id is None:
        raise AnnotationError(f"annotation file {where} has neither {image_key!r} nor {id_key!r}: {row}")
    image_id = _image_id(own_id, where) if own_id is not None else PurePosixPath(image).stem
    ending = PurePosixPath(image).stem.split("_")[-1]
    if isinstance(image_id, str) and ending.isascii() and ending.isdigit():
        image_id = int(ending)
    return CaptionEntry(image, image_id, _caption(row, where, caption_key))


def _is_karpathys_own(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "sentences" in images[0]


def _karpathys_own_entries(images: list[Any], path: str | Path, split: str | None) -> list[CaptionEntry]:
    if split is None:
        raise AnnotationError(
            f"annotation file {path} is Karpathy's own, with all splits in one, which COCORetrieval(split=…) reads; "
            "take a file for each split, such as coco_karpathy_val.json, which "
            "`python tools/dataset_converters/karpathy.py` writes"
        )
    parts = (split, "restval") if split == "train" else (split,)
    entries = []
    for number, image in enumerate(images):
        where = f"{path}, picture {number}"
        if _field(image, where, "split", None) not in parts:
            continue
        try:
            name = str(PurePosixPath(image.get("filepath", "")) / image["filename"])
            texts = [str(sentence["raw"]) for sentence in image["sentences"]]
            image_id = image["cocoid"] if "cocoid" in image else image["imgid"]
        except (KeyError, TypeError) as error:
            raise AnnotationError(
                f"annotation file {where} is not of Karpathy's form ({type(error).__name__}: {error}); it needs "
                "{split, filename, cocoid or imgid, sentences: [{raw}]}"
            ) from None
        entries.append(CaptionEntry(name, _image_id(image_id, where), texts))
    if not entries:
        found = sorted({str(image.get("split")) for image in images if isinstance(image, dict)})
        raise AnnotationError(f"annotation file {path} has no split {split!r}; give one of {found} as split")
    return entries


def _table_entries(rows: Iterator[tuple[str, Any]], keys: tuple[str, str, str]) -> list[CaptionEntry]:
    image_key, caption_key, id_key = keys
    entries = []
    for where, row in rows:
        image = _field(row, where, image_key, None)
        if not image:
            raise AnnotationError(f"annotation file {where} names no picture in {image_key!r}: {row}")
        image_id = _field(row, where, id_key, None)
        known_as = str(image) if image_id in (None, "") else _image_id(image_id, where)
        entries.append(CaptionEntry(str(image), known_as, _caption(row, where, caption_key)))
    return entries


def _csv_rows(text: str, path: str | Path, delimiter: str, keys: tuple[str, str, str]) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if keys[0] not in (reader.fieldnames or []):
        raise AnnotationError(
            f"annotation file {path} has no column {keys[0]!r}, only {list(reader.fieldnames or [])}; "
            "name the columns in its first line, or tell which holds the pictures (image_key)"
        )
    for row in reader:
        yield f"{path}, line {reader.line_num}", row


def _jsonl_rows(text: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): a caption may hold U+2028 and its like, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parse_json(line, f"{path}, line {number}")


def _image_id(value: Any, where: str) -> int | str:
    try:
        return normalise_image_id(value)
    except TypeError as error:
        raise AnnotationError(f"annotation file {where}: {error}") from None


def _field(row: Any, where: str, key: str, default: Any) -> Any:
    if not isinstance(row, dict):
        raise AnnotationError(f"annotation file {where} is {row!r}; it should be an object such as {{image, caption}}")
    return row.get(key, default)


def _caption(row: dict[str, Any], where: str, key: str) -> str | list[str] | None:
    caption = row.get(key)
    if caption is None or caption == "":
        return None
    if isinstance(caption, str) or (isinstance(caption, list) and all(isinstance(text, str) for text in caption)):
        return caption
    raise AnnotationError(f"annotation file {where}: {key!r} is {caption!r}; it should be a text or a list of texts")
