"""From the name of a checkpoint or a language model to a file or folder on this machine."""

import hashlib
import os
import re
import urllib.error
from pathlib import Path
from urllib.parse import unquote, urlparse

from torch.hub import download_url_to_file

from blip2.checkpoints.read import CheckpointError, first_line
from blip2.utils.resources import resolve_resource

# OpenMMLab's and torch's convention: the first eight hex digits of the content's SHA-256 end the file's name.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# In order of preference; a sharded file brings its index.
_WEIGHT_PATTERNS = ("model*.safetensors*", "pytorch_model*.bin*")


def cache_dir() -> Path:
    """Where fetched files lie: ``$BLIP2_HOME``, else ``$XDG_CACHE_HOME/blip2``, else ``~/.cache/blip2``."""
    home = os.environ.get("BLIP2_HOME")
    if home:
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "blip2"


def is_offline() -> bool:
    """Whether ``BLIP2_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off")
        for name in ("BLIP2_OFFLINE", "HF_HUB_OFFLINE")
    )


def fetch(url_or_path: str | Path) -> Path:
    """The local file behind a path, a ``file://`` or an ``http(s)://`` address.

    A relative path that doesn't exist here is looked for among the package's resources. A download goes to
    `cache_dir` once; a hash in the file's name (``…-b51db4e1.pth``) is checked, and an unfinished file never bears
    its final name. Raises `FileNotFoundError` for a missing file, `CheckpointError` for a download that is forbidden
    or fails.
    """
    text = str(url_or_path)
    address = urlparse(text)
    if address.scheme in ("http", "https"):
        return _download(text, Path(unquote(address.path)).name)
    if address.scheme == "file":
        path = Path(unquote(address.path))
    elif "://" in text:
        raise CheckpointError(f"cannot fetch {text!r}: use a path, file:// or http(s)://")
    else:
        path = resolve_resource(url_or_path)
    if not path.exists():
        raise FileNotFoundError(
            f"checkpoint {text!r} does not exist ({path.absolute()}). Check the path; with a model name and "
            "pretrained=True the published weights are fetched."
        )
    return path


def _download(url: str, name: str) -> Path:
    if not name:
        raise CheckpointError(f"{url!r} names no file")
    folder = cache_dir() / "checkpoints"
    # Two addresses may end in one name; only a hash in it makes it unique.
    found = _HASH_IN_NAME.search(name)
    target = folder / (name if found else f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}")
    if target.is_file():
        return target
    by_hand = f"curl -L --create-dirs -o {target} {url}"
    if is_offline():
        raise CheckpointError(
            f"{url} has not been fetched yet and the network is switched off (BLIP2_OFFLINE or HF_HUB_OFFLINE is "
            f"set). On a machine with network run `{by_hand}` and put the file at {target}."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(target), hash_prefix=found[1] if found else None)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        # RuntimeError is how torch.hub reports a wrong hash.
        raise CheckpointError(f"fetching {url} failed: {error}. Try again, or by hand: `{by_hand}`") from error
    return target


def language_model_folder(name_or_path: str | Path) -> Path:
    """A folder with the weights of a language model: a local one, or what Hugging Face's cache holds or fetches.

    Raises `CheckpointError` that says how to get the files.
    """
    local = resolve_resource(name_or_path)
    if local.is_dir():
        return local
    name = str(name_or_path)
    if not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"language model {name!r} is neither a folder nor a name like 'facebook/opt-2.7b'")
    # Imported late: the hub's client costs a tenth of a second, and the small model never needs it.
    import huggingface_hub

    attempts = [(True, pattern) for pattern in _WEIGHT_PATTERNS]
    if not is_offline():
        attempts += [(False, pattern) for pattern in _WEIGHT_PATTERNS]
    reason = "it is not in the cache, and the network is switched off (BLIP2_OFFLINE or HF_HUB_OFFLINE is set)"
    for local_only, pattern in attempts:
        try:
            patterns = ["config.json", pattern]
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, local_files_only=local_only))
        except Exception as error:  # the client's errors and those of its network library share no nearer parent
            if not local_only:
                reason = f"{type(error).__name__}: {first_line(error)}"
            continue
        if any(folder.glob(pattern)):
            return folder
    raise CheckpointError(
        f"the weights of the language model {name!r} are needed and not here: {reason}. On a machine with network run "
        f"`hf download {name}` (it fills Hugging Face's cache), or put a folder's path in text_backbone.name_or_path."
    )
