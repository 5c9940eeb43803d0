"""A report of predictions as HTML that opens from the disk, without a server or a network."""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

SIDE = 320  # pixels of a shown picture's longer edge
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Line:
    """A line of text; `right` marks it as right or wrong, None as neither."""

    text: str
    right: bool | None = None


@dataclass(frozen=True)
class ReportItem:
    """One prediction.

    Attributes:
        name: of the picture.
        picture: its file, None for none.
        said: what the model said.
        question: what it was asked.
        score: the more the better; None for none.
        heading: stands above `lines`, which are references, true answers, or what was found.
        groups: what the reader may filter by.
    """

    name: str
    picture: Path | None
    said: str
    question: str = ""
    score: float | None = None
    heading: str = ""
    lines: Sequence[Line] = ()
    groups: Sequence[str] = field(default_factory=list)


def write_report(items: Sequence[ReportItem], out: str | Path, title: str, measure: str) -> list[str]:
    """Writes the report, whole or not at all.

    Args:
        out: a name that ends in .html for one file with small pictures in it; another for a folder with
            ``index.html`` and ``pictures/``, which suits many pictures.
        title: stands above, and in the browser's tab.
        measure: the name of the scores.

    Returns:
        What is wrong with pictures that cannot be read, one text each; their place stays empty.

    Raises:
        ValueError: nothing to show. FileExistsError: `out` is a folder with other things in it. OSError: it cannot be
            written.
    """
    out = Path(out)
    if not items:
        raise ValueError("there are no predictions to show")
    single = out.suffix.lower() in (".html", ".htm")
    page = out if single else out / "index.html"
    if not single and out.exists() and not page.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is no report: name another folder, or a file ending in .html")
    pictures: dict[Path, str] = {}
    problems: list[str] = []
    folder = page.parent / "pictures"
    (page.parent if single else folder).mkdir(parents=True, exist_ok=True)
    for path in dict.fromkeys(item.picture for item in items if item.picture is not None):
        try:
            small = _small(path)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
            continue
        if single:
            pictures[path] = "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")
        else:
            name = f"{len(pictures):06d}.jpg"
            (folder / name).write_bytes(small)
            pictures[path] = f"pictures/{name}"
    places = {path: place for place, path in enumerate(pictures)}  # a picture may have many questions
    rows = [{**asdict(item), "picture": places.get(item.picture) if item.picture else None} for item in items]
    content = {"items": rows, "pictures": list(pictures.values()), "measure": measure}
    data = json.dumps(content, ensure_ascii=False, allow_nan=False)
    # Inside a script element only "</script" and "<!--" mean something; no "<" is left.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    before, after = _TEMPLATE.read_text(encoding="utf-8").split("@DATA@")
    whole = before.replace("@TITLE@", html.escape(title)) + data + after
    part = page.with_name(page.name + ".part")
    part.write_text(whole, encoding="utf-8", errors="replace")
    part.replace(page)
    return problems


def _small(path: Path) -> bytes:
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    upright.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    upright.save(file, "JPEG", quality=82)
    return file.getvalue()
