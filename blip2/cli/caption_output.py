"""The forms in which ``blip2 caption`` writes its captions."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Failure:
    """A picture that got no caption, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        # Errors about a file mostly name it themselves.
        return self.reason if self.path in self.reason else f"{self.path}: {self.reason}"


class Writer:
    """``path: caption`` lines; a picture with several captions has a line for each. Failures are not written."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def add(self, path: str, pred_caption: str | list[str], pred_score: Any = None) -> None:
        """One picture's caption or captions."""
        captions = [pred_caption] if isinstance(pred_caption, str) else pred_caption
        for caption in captions:
            print(f"{path}: {caption}", file=self.stream, flush=True)

    def fail(self, failure: Failure) -> None:
        """A picture without caption."""

    def close(self, complete: bool = True) -> None:
        """Writes what was kept back; `complete` says whether the command came to its end."""


class JsonLinesWriter(Writer):
    """One object a line: path, caption, score, and ``error`` for a picture that failed."""

    def add(self, path: str, pred_caption: str | list[str], pred_score: Any = None) -> None:
        self.record({"path": path, "caption": pred_caption, "score": pred_score})

    def fail(self, failure: Failure) -> None:
        self.record({"path": failure.path, "caption": None, "score": None, "error": failure.reason})

    def record(self, entry: dict[str, Any]) -> None:
        """Writes one picture's object."""
        print(json.dumps(entry, ensure_ascii=False), file=self.stream, flush=True)


class JsonWriter(JsonLinesWriter):
    """The same objects as one list, written at the end, an end by Ctrl-C included."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.entries: list[dict[str, Any]] = []

    def record(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)

    def close(self, complete: bool = True) -> None:
        if not self.entries and not complete:
            return  # an error alone shall not look like an empty result
        json.dump(self.entries, self.stream, ensure_ascii=False, indent=2)
        print(file=self.stream, flush=True)


@contextmanager
def open_writer(out: str | None, *, json: bool = False, jsonl: bool = False) -> Iterator[Writer]:
    """The writer for the chosen form, onto the file `out` or standard output.

    Args:
        out: a file, whose folders are made; its suffix .json or .jsonl chooses the form if no flag does.
        json, jsonl: the form.
    """
    suffix = Path(out).suffix.lower() if out else ""
    if jsonl or (suffix == ".jsonl" and not json):
        kind: type[Writer] = JsonLinesWriter
    elif json or suffix == ".json":
        kind = JsonWriter
    else:
        kind = Writer
    with ExitStack() as stack:
        if out is None:
            stream: TextIO = sys.stdout
        else:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(open(out, "w", encoding="utf-8"))
        writer = kind(stream)
        try:
            yield writer
        except BaseException:
            writer.close(complete=False)
            raise
        writer.close()
