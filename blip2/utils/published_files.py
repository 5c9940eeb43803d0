"""Published annotation files: where each comes from, and how much is in it.

The counts are the publishers' own; they serve to find a file that is cut off, or one of another split.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/"
_VQA = "https://visualqa.org/download.html (zip files; unpack them)"
_OKVQA = "https://okvqa.allenai.org/download.html (zip files; unpack them and put 'okvqa_' before the names)"
_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (unpack it)"
_VIZWIZ = "https://vizwiz.org/tasks-and-datasets/vqa/ (Annotations.zip; unpack it to data/vizwiz)"
_VISUAL_GENOME = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html (question_answers.json.zip; unpack it)"
_GQA = "https://cs.stanford.edu/people/dorarad/gqa/download.html (in questions1.2.zip)"


@dataclass(frozen=True)
class PublishedFile:
    """One published file, or one split of it.

    Attributes:
        source: where it comes from: an address or a page; a command in backquotes for a file that is written.
        pictures: how many pictures it names; None where that isn't known.
        texts: how many captions or questions; likewise.
    """

    source: str
    pictures: int | None = None
    texts: int | None = None

    @property
    def step(self) -> str:
        """What to do when it isn't there, as the end of an error message."""
        return f"Write it with {self.source}" if self.source.startswith("`") else f"Fetch it from {self.source}"


_Counts = dict[str, tuple[int | None, int | None]]
_COCO: _Counts = {"train": (113287, 566747), "val": (5000, 25010), "test": (5000, 25010)}
_FLICKR30K: _Counts = {"train": (29000, 145000), "val": (1014, 5070), "test": (1000, 5000)}
_NOCAPS: _Counts = {"val": (4500, None), "test": (10600, None)}
_OKVQA_COUNTS: _Counts = {"train2014": (8998, 9009), "val2014": (5033, 5046)}
_SCENES: _Counts = dict.fromkeys(("train", "val", "held_out", "test"), (None, None))

# (name, source, counts of the splits). The name has as many folders before it as it takes to tell it from others;
# without '{split}' the file holds all splits. In the source '{name}' is the file's.
_ROWS: list[tuple[str, str, _Counts]] = [
    ("coco_karpathy_{split}.json", f"{_LAVIS}datasets/{{name}}", _COCO),
    ("coco_karpathy_{split}_gt.json", f"{_LAVIS}datasets/{{name}}", {key: _COCO[key] for key in ("val", "test")}),
    (
        "caption_karpathy_{split}2014.json",
        "https://download.openmmlab.com/mmclassification/datasets/coco_retrieval/{name}",
        _COCO,
    ),
    ("dataset_coco.json", _KARPATHY, _COCO),
    ("dataset_flickr30k.json", _KARPATHY, _FLICKR30K),
    ("flickr30k_{split}.json", f"{_LAVIS}datasets/{{name}}", _FLICKR30K),
    ("flickr30k_{split}_gt.json", "`python tools/dataset_converters/karpathy.py`", _FLICKR30K),
    (
        "nocaps_{split}_4500_captions.json",
        "https://nocaps.s3.amazonaws.com/{name}",
        {"val": (4500, 45000)},
    ),
    ("nocaps_{split}_image_info.json", "https://s3.amazonaws.com/nocaps/{name}", _NOCAPS),
    ("nocaps_{split}.json", f"{_LAVIS}datasets/{{name}}", _NOCAPS),
    (
        "v2_OpenEnded_mscoco_{split}_questions.json",
        _VQA,
        {
            "train2014": (82783, 443757),
            "val2014": (40504, 214354),
            "test2015": (81434, 447793),
            "test-dev2015": (36807, 107394),
        },
    ),
    ("v2_mscoco_{split}_annotations.json", _VQA, {"train2014": (82783, 443757), "val2014": (40504, 214354)}),
    ("okvqa_OpenEnded_mscoco_{split}_questions.json", _OKVQA, _OKVQA_COUNTS),
    ("okvqa_mscoco_{split}_annotations.json", _OKVQA, _OKVQA_COUNTS),
    (
        "{split}_balanced_questions.json",
        f"{_LAVIS}LAVIS/datasets/gqa/{{name}}",
        {"train": (None, 943000), "testdev": (None, 12578), "test": (None, 95336)},
    ),
    ("{split}_balanced_questions.json", _GQA, {"val": (None, 132062)}),
    (
        "TextVQA_0.5.1_{split}.json",
        "https://dl.fbaipublicfiles.com/textvqa/data/{name}",
        {"train": (None, 34602), "val": (None, 5000), "test": (None, 5734)},
    ),
    (
        "vizwiz/Annotations/{split}.json",
        _VIZWIZ,
        {"train": (20523, 20523), "val": (4319, 4319), "test": (8000, 8000)},
    ),
    ("question_answers.json", _VISUAL_GENOME, {"": (None, None)}),
    ("vg_qa.json", f"{_LAVIS}LAVIS/datasets/visual_genome/{{name}}", {"": (None, None)}),
    *(
        (f"scenes/{name}.json", "`blip2 scenes data/scenes`", _SCENES)
        for name in (
            *("annotations/{split}", "annotations/{split}_gt", "annotations/retrieval_{split}"),
            *("scenes/{split}", "questions/{split}", "questions/{split}_answers"),
        )
    ),
    (
        "scenes/documents/{split}.jsonl",
        "`blip2 scenes data/scenes`",
        dict.fromkeys(("train", "train_counts", "val"), (None, None)),
    ),
]


def _files() -> Iterator[tuple[PurePosixPath, str, PublishedFile]]:
    """(end of the path, split, file); the split is empty for a file that holds one."""
    for pattern, source, splits in _ROWS:
        for split, counts in splits.items():
            path = PurePosixPath(pattern.replace("{split}", split))
            file = PublishedFile(source.replace("{name}", path.name), *counts)
            yield path, "" if "{split}" in pattern else split, file


def published_file(path: str, split: str = "") -> PublishedFile | None:
    """What is known of the file at `path`, told by its name and, where names are common, by the folders before it.

    Args:
        path: local or an address; upper and lower case of folders doesn't matter.
        split: of a file that holds several; without it such a file comes without counts.
    """
    wanted = PurePosixPath(path.replace("\\", "/"))
    known = {key: file for end, key, file in _files() if _ends_with(wanted, end)}
    if split in known or "" in known:
        return known.get(split) or known[""]
    return PublishedFile(next(iter(known.values())).source) if known else None


def _ends_with(path: PurePosixPath, end: PurePosixPath) -> bool:
    folders = [part.lower() for part in path.parts[-len(end.parts) : -1]]
    return path.name == end.name and folders == [part.lower() for part in end.parts[:-1]]
