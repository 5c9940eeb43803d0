"""One's own pictures, with captions or without."""

from pathlib import Path
from typing import Any

from blip2.datasets.caption import CaptionDataset
from blip2.registry import DATASETS
from blip2.utils.annotations import CaptionEntry, read_captions
from blip2.utils.errors import AnnotationError
from blip2.utils.pictures import find_pictures


@DATASETS.register_module()
class ImageTextDataset(CaptionDataset):
    """Pictures named by a table (``.csv``, ``.tsv``, ``.jsonl``, ``.json``), or all pictures of a folder.

    Without `ann_file` every picture below the folder ``data_root/data_prefix`` is a sample, in natural order of the
    paths; the lines of a text file beside it (``x.jpg``, ``x.txt``) are its captions, if there is one.
    The ``image_id`` of a picture is the table's, or else its path as the table has it or below the folder, with '/'.

    Args:
        ann_file: the table, or empty.
        image_key, caption_key, id_key: names of the table's columns.
        Others as in `CaptionDataset` and `BaseImageDataset`.
    """

    def __init__(
        self,
        ann_file: str = "",
        *,
        image_key: str = "image",
        caption_key: str = "caption",
        id_key: str = "image_id",
        **arguments: Any,
    ) -> None:
        self.keys: dict[str, Any] = {"image_key": image_key, "caption_key": caption_key, "id_key": id_key}
        super().__init__(ann_file, **arguments)

    def read_entries(self) -> list[CaptionEntry]:
        if self.ann_file:
            return read_captions(self.ann_file, **self.keys)
        folder = self.data_prefix.get("img_path", "")
        if not folder:
            raise AnnotationError(
                "ImageTextDataset needs an ann_file, or a folder of pictures as data_root or data_prefix"
            )
        if not Path(folder).is_dir():
            raise AnnotationError(f"there is no folder {folder!r}; check data_root and data_prefix")
        return _folder_entries(Path(folder))


def _folder_entries(folder: Path) -> list[CaptionEntry]:
    entries = []
    for path in find_pictures(folder, recursive=True):
        name = path.relative_to(folder).as_posix()
        entries.append(CaptionEntry(name, name, _read_text_beside(path)))
    return entries


def _read_text_beside(picture: Path) -> str | list[str] | None:
    path = picture.with_suffix(".txt")
    if not path.is_file():
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise AnnotationError(f"caption file {path} is not UTF-8 text ({error}); save it as UTF-8") from None
    if len(lines) > 1:
        return lines
    return lines[0] if lines else None
