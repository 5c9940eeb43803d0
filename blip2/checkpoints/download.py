"""One file from an HTTP server: resumed after a break, checked, moved into place whole.

The transfer is `requests`'; a lock (`filelock`) keeps two processes from one file. pooch would bring neither resuming
nor a lock, and wants the whole hash where OpenMMLab's names hold the beginning of one.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip2.checkpoints.read import CheckpointError, first_line

_CHUNK = 1 << 16  # what a break loses at most
_TIMEOUT = (10, 60)  # seconds to connect, and without a byte
_ATTEMPTS = 5  # that bring nothing new, in a row
_WAIT = 1.0  # seconds before the second of these; doubled each time
_TEMPORARY = {408, 429, 500, 502, 503, 504}


class DownloadError(CheckpointError):
    """A file could not be fetched; the text says why, and what to do where the user can do something."""


class _Interrupted(Exception):
    """The transfer ended early or the server is busy: worth another attempt."""


def download(url: str, target: Path, sha256: str | None = None) -> Path:
    """Fetch `url` to `target`, unless it is there. `sha256` is the content's hash in hex digits, or its beginning.

    An interrupted transfer goes on where it stopped, in this call and in later ones, if the server can do that and
    the file there is still the same. `target` is replaced at once, when all of it has been checked. A second process
    that wants the same file waits, and then finds it.

    Raises `DownloadError`.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if not target.is_file():
                _Download(url, target, sha256).run()
    except OSError as error:
        raise DownloadError(f"{_cannot_write(error, target)}") from error
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    # The lock's file stays: to delete it would let a third process in beside one that waits for it.
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that fetches {target.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Download:
    """The transfer of one file, with what is here of it (`partial`) and which version of it that is (`version`)."""

    def __init__(self, url: str, target: Path, sha256: str | None) -> None:
        self.url = url
        self.target = target
        self.sha256 = sha256.lower() if sha256 else None
        self.partial = target.with_name(f".{target.name}.partial")
        self.version_file = target.with_name(f".{target.name}.version")

    def run(self) -> None:
        resumed = self._size() > 0
        self._transfer()
        problem = self._problem()
        if problem and resumed:  # the part from before may be what was wrong
            self._forget()
            self._transfer()
            problem = self._problem()
        if problem:
            self._forget()
            raise DownloadError(problem)
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.target)
        self.version_file.unlink(missing_ok=True)

    def _transfer(self) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                return self._request()
            except _Interrupted as error:
                failures = 1 if self._size() > before else failures + 1
                if failures == _ATTEMPTS:
                    raise DownloadError(
                        f"{error}. {self._size():,} bytes are kept: the next attempt goes on from there"
                    ) from error
                time.sleep(_WAIT * 2 ** (failures - 1))

    def _request(self) -> None:
        """Ask for what is missing, and append it; raises `_Interrupted`."""
        import requests

        have, version = self._size(), self._version()
        # As it is: a compressed transfer has other byte positions than the file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if "validator" in version:
                headers["If-Range"] = version["validator"]
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                self._receive(response, have, version)
        except requests.RequestException as error:
            if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
                raise DownloadError(f"{self.url!r} is no address: {error}") from error
            raise _Interrupted(f"the connection failed ({first_line(error)})") from error

    def _receive(self, response: Any, have: int, version: dict[str, Any]) -> None:
        status = response.status_code
        if status == 416 and have and have == version.get("total"):
            return  # nothing was missing
        if status == 416 and have:
            self._forget()
            raise _Interrupted("the server has another file than the part that is here")
        if status in _TEMPORARY:
            raise _Interrupted(f"the server answers {status} {response.reason}")
        if status not in (200, 206):
            raise DownloadError(f"the server answers {status} {response.reason}")
        if "text/html" in response.headers.get("Content-Type", ""):
            raise DownloadError(
                "the server sent an HTML page, not the file: the address may have moved, or a proxy or a login page "
                "stands before it"
            )
        start, total = _extent(response)
        if status == 206 and (start != have or total != version.get("total", total)):
            self._forget()
            raise _Interrupted("the server has another file than the part that is here")
        if start == 0:
            self._forget()
        self._check_space(total, start)
        self._remember(response, total)
        self._write(response, start, total)
        if total is not None and self._size() < total:
            raise _Interrupted(f"the server ended after {self._size():,} of {total:,} bytes")

    def _write(self, response: Any, start: int, total: int | None) -> None:
        import requests
        from tqdm import tqdm

        options: dict[str, Any] = dict(total=total, initial=start, unit="B", unit_scale=True, leave=False)
        try:
            # disable=None: no bar where stderr is no terminal
            with self.partial.open("ab") as file, tqdm(desc=self.target.name, disable=None, **options) as bar:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        except requests.RequestException:  # an OSError too
            raise
        except OSError:
            self._forget()  # a full disk shall have its room back
            raise

    def _check_space(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if total is not None and total - start > free:
            self._forget()
            raise OSError(errno.ENOSPC, f"{total - start:,} bytes are to come, {free:,} are free")

    def _problem(self) -> str | None:
        """What is wrong with the whole file, if anything is."""
        with self.partial.open("rb") as file:
            if file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html")):
                return "the server sent an HTML page, not the file"
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest() if self.sha256 else ""
        if self.sha256 and not found.startswith(self.sha256):
            size = self._size()
            return (
                f"invalid hash: the {size:,} bytes that came have the SHA-256 {found[: len(self.sha256)]}…, and "
                f"{self.sha256} was expected: the file is damaged, or another one"
            )
        return None

    # ----- the part that is here -----

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def _version(self) -> dict[str, Any]:
        try:
            return json.loads(self.version_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _remember(self, response: Any, total: int | None) -> None:
        # If-Range takes strong validators only.
        tag = response.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        version = {"validator": validator, "total": total}
        self.version_file.write_text(json.dumps({key: value for key, value in version.items() if value is not None}))
        self.partial.touch()

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)


def _extent(response: Any) -> tuple[int, int | None]:
    """Where what the server sends begins, and how long the whole file is, if the server says so."""
    if response.status_code == 206:
        try:
            place, total = response.headers["Content-Range"].removeprefix("bytes ").split("/")
            return int(place.split("-")[0]), None if total == "*" else int(total)
        except (KeyError, ValueError):
            raise DownloadError(
                f"the server sent a part without saying which (Content-Range: {response.headers.get('Content-Range')})"
            ) from None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _cannot_write(error: OSError, target: Path) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"the disk with {target.parent} is full ({error.strerror}); make room, or set BLIP2_HOME to a folder on "
            "another one"
        )
    return f"cannot write to {target.parent} ({error.strerror}); set BLIP2_HOME to a folder that you may write to"
