"""Text without pictures."""

import json
from pathlib import Path

from mmengine.dataset import BaseDataset

from blip2.registry import DATASETS
from blip2.structures import DataSample
from blip2.utils.errors import AnnotationError, MissingAnnotationError


@DATASETS.register_module()
class TextDocuments(BaseDataset):
    """Documents for a language model, one JSON object a line.

    ``{"text": …}`` is a text to learn. ``{"prompt": …}`` is one to continue, with what the continuation is judged by
    (``answer`` or ``scene``). Samples come as ``{'data_samples': DataSample}`` with these fields.

    Args:
        ann_file: the JSONL file, below `data_root` unless absolute.
        data_root: its folder.
        test_mode: mmengine's word for a data set that is not trained on.
    """

    def __init__(self, ann_file: str, data_root: str = "", test_mode: bool = False) -> None:
        super().__init__(ann_file=ann_file, data_root=data_root, test_mode=test_mode, pipeline=[_pack])

    def load_data_list(self) -> list[dict]:
        path = Path(self.ann_file)
        if not path.is_file():
            raise MissingAnnotationError(
                f"document file {self.ann_file!r} does not exist; `blip2 scenes FOLDER` writes the small model's"
            )
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        bad = next((i for i, row in enumerate(rows) if not {"text", "prompt"} & row.keys()), None)
        if bad is not None:
            raise AnnotationError(f"line {bad + 1} of {path} has neither 'text' nor 'prompt'")
        return rows


def _pack(row: dict) -> dict:
    fields = {key: row[key] for key in ("text", "prompt", "answer", "scene") if key in row}
    return {"data_samples": DataSample(**fields)}
