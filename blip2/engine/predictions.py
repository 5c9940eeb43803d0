"""Predictions written as they are made, so that an interrupted test goes on where it stopped."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, is_main_process

import blip2

FINISHED = "metrics.json"


class PredictionLog:
    """The predictions of one test in a folder: ``rank<n>.jsonl``, a line a sample, flushed after each batch.

    The folder is named after the `fingerprint` of everything that decides on a prediction. What an unfinished test
    left in it is in `done`; a finished one (it has ``metrics.json``), unless `keep_finished` says otherwise, and one
    that is not to be resumed are begun anew.

    Args:
        root: where the folder lies.
        fingerprint: see `fingerprint`.
        about: what a person wants to know of the run; written to ``about.json``.
        resume: take up what is there.
        keep_finished: take up what a finished test has left as well.
    """

    def __init__(
        self,
        root: str | Path,
        fingerprint: str,
        about: Mapping[str, Any],
        resume: bool = True,
        keep_finished: bool = False,
    ) -> None:
        self.folder = Path(root) / fingerprint[:16]
        if is_main_process():
            if not resume or ((self.folder / FINISHED).exists() and not keep_finished):
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(json.dumps(dict(about), indent=2, default=str), encoding="utf-8")
        barrier()
        self.done = self._read()
        barrier()  # nobody writes before everybody has read
        self._file: TextIO = (self.folder / f"rank{get_rank()}.jsonl").open(
            "a", encoding="utf-8", errors="surrogatepass"
        )
        self._file.write("\n" if self._file.tell() else "")  # ends a line that a crash cut off

    def _read(self) -> dict[int, dict]:
        done = {}
        for path in sorted(self.folder.glob("rank*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="surrogatepass").split("\n"):
                try:
                    entry = json.loads(line)
                    done[int(entry["index"])] = decode(entry["sample"])
                except (ValueError, KeyError, TypeError):
                    continue  # cut off by a crash: predicted again
        return done

    def write(self, samples: Mapping[int, dict]) -> None:
        """Adds one batch."""
        for index, sample in samples.items():
            self._file.write(json.dumps({"index": index, "sample": encode(sample)}, ensure_ascii=False) + "\n")
        self._file.flush()

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Marks the test as done, with its scores; every process calls it."""
        self._file.close()
        barrier()
        if is_main_process():
            (self.folder / FINISHED).write_text(json.dumps(encode(dict(metrics)), indent=2), encoding="utf-8")


def fingerprint(settings: Any, checkpoint: Path | None, dataset: Any) -> str:
    """A hexadecimal digest of what decides on predictions: settings (config), weights file, data set, this version.

    The weights file counts by size, time of change, and its first and last megabyte; the data set by its list of
    samples.
    """
    digest = hashlib.sha256(f"{blip2.__version__}\n{settings!r}\n".encode())
    if checkpoint is not None:
        status = checkpoint.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        with checkpoint.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, status.st_size - 2**20))
            digest.update(file.read())
    digest.update(_content(dataset))
    return digest.hexdigest()


def _content(dataset: Any) -> bytes:
    """The annotations of a data set as bytes, as far as it keeps any; its length otherwise."""
    children = getattr(dataset, "datasets", None)
    if children:
        return b"".join(_content(child) for child in children)
    packed = getattr(dataset, "data_bytes", None)  # mmengine's BaseDataset keeps its list pickled
    if isinstance(packed, np.ndarray) and packed.size:
        return packed.tobytes()
    entries = getattr(dataset, "data_list", None)
    return pickle.dumps(entries) if entries else str(len(dataset)).encode()


# ----- data samples as JSON and back -----


def encode(value: Any) -> Any:
    """`value` for JSON, such that `decode` gives it back; raises `TypeError` for what has no such form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"__tuple__": [encode(item) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"__dict__": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor):
        return {"__tensor__": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    raise TypeError(f"a prediction holds a {type(value).__name__}, which cannot be written as JSON: {value!r}")


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tuple__" in value:
        return tuple(decode(value["__tuple__"]))
    if "__dict__" in value:
        return {decode(key): decode(item) for key, item in value["__dict__"]}
    if "__array__" in value:
        return np.array(value["__array__"], dtype=value["dtype"])
    if "__tensor__" in value:
        return torch.tensor(value["__tensor__"], dtype=getattr(torch, value["dtype"]))
    return {key: decode(item) for key, item in value.items()}


def plain(value: Any) -> Any:
    """`value` for a JSON that others read: tuples, arrays and tensors as lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    return value
