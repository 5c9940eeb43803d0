"""The forms in which commands write what a model said of pictures: text lines, JSON, JSON lines."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Failure:
    """A picture that got no result, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        # Errors about a file mostly name it themselves.
        return self.reason if self.path in self.reason else f"{self.path}: {self.reason}"


class Writer:
    """Text: the lines of each result. Failures are not written."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def add(self, record: dict[str, Any], lines: Sequence[str]) -> None:
        """One result, as an object and as lines of text; each form takes its own."""
        for line in lines:
            print(line, file=self.stream, flush=True)

    def fail(self, failure: Failure, **fields: Any) -> None:
        """A picture without result; `fields` are those of a result, mostly None."""

    def close(self, complete: bool = True) -> None:
        """Writes what was kept back; `complete` says whether the command came to its end."""


class JsonLinesWriter(Writer):
    """One object a line, with ``error`` for a picture that failed."""

    def add(self, record: dict[str, Any], lines: Sequence[str]) -> None:
        self.write(record)

    def fail(self, failure: Failure, **fields: Any) -> None:
        self.write({"path": failure.path, **fields, "error": failure.reason})

    def write(self, record: dict[str, Any]) -> None:
        """Writes one object."""
        print(json.dumps(record, ensure_ascii=False), file=self.stream, flush=True)


class JsonWriter(JsonLinesWriter):
    """The same objects as one list, written at the end, an end by Ctrl-C included."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.records: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def close(self, complete: bool = True) -> None:
        if not self.records and not complete:
            return  # an error alone shall not look like an empty result
        json.dump(self.records, self.stream, ensure_ascii=False, indent=2)
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
