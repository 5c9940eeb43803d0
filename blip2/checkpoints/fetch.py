"""From the name of a checkpoint or a language model to a file or folder on this machine."""

import hashlib
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from blip2.checkpoints.download import DownloadError, download
from blip2.checkpoints.read import CheckpointError, first_line
from blip2.utils.resources import resolve_resource

# OpenMMLab's and torch's convention: the first eight hex digits of the content's SHA-256 end the file's name.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
_HUB_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/([^@]+))?")
# In order of preference; a sharded file brings its index.
_WEIGHT_PATTERNS = ("model*.safetensors*", "pytorch_model*.bin*")
# What a folder of weights needs besides them, to be read and to be used.
_SETTINGS = ("generation_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "config.json",
)
_OFFLINE = "the network is switched off (BLIP2_OFFLINE or HF_HUB_OFFLINE is set)"


class NotFetchedError(CheckpointError):
    """Something is not on this machine, and the network is switched off."""


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


def mapped(address: str) -> str:
    """`address` with its beginning replaced as ``BLIP2_URL_MAPPING`` says, for mirrors.

    The variable holds ``old=new`` pairs of beginnings, separated by white space; the first that fits is taken.
    """
    for pair in os.environ.get("BLIP2_URL_MAPPING", "").split():
        old, _, new = pair.partition("=")
        if not old or not new:
            raise CheckpointError(
                f"BLIP2_URL_MAPPING has the entry {pair!r}, which is not old=new: give pairs of beginnings of "
                "addresses, separated by spaces"
            )
        if address.startswith(old):
            return new + address.removeprefix(old)
    return address


def fetch(url_or_path: str | Path, sha256: str | None = None) -> Path:
    """The local file or folder behind a path or an address.

    Addresses are ``file://``, ``http(s)://``, and ``hf://owner/name[@revision][/file]`` for Hugging Face's hub: a
    folder with the model's weights, or one file of it. `mapped` may send them to a mirror.

    A relative path that doesn't exist here is looked for among the package's resources. A download goes to `cache_dir`
    (from the hub to the hub's own cache) once, see `download`; a hash in the file's name (``…-b51db4e1.pth``) and
    `sha256` are checked. Raises `FileNotFoundError` for a missing file, `NotFetchedError` where a download is
    forbidden, `CheckpointError` where it fails.
    """
    text = str(url_or_path)
    address = mapped(text)
    scheme = urlparse(address).scheme
    if scheme in ("http", "https"):
        return _download(text, address, sha256)
    if scheme == "hf":
        return _from_hub(address)
    if scheme == "file":
        path = Path(unquote(urlparse(address).path))
    elif "://" in address:
        raise CheckpointError(f"cannot fetch {text!r}: use a path, file://, http(s):// or hf://owner/name")
    else:
        path = resolve_resource(url_or_path)
    if not path.exists():
        raise FileNotFoundError(
            f"checkpoint {text!r} does not exist ({path.absolute()}). Check the path; with a model name and "
            "pretrained=True the published weights are fetched."
        )
    return path


def cached(url_or_path: str | Path) -> Path | None:
    """What `fetch` gives without the network: a file or folder that is here, or None."""
    text = str(url_or_path)
    address = mapped(text)
    if urlparse(address).scheme in ("http", "https"):
        target = _target(text)
        return target if target.is_file() else None
    try:
        return _from_hub(address, local_only=True) if address.startswith("hf://") else fetch(address)
    except (FileNotFoundError, NotFetchedError):
        return None


def _target(url: str) -> Path:
    """Where the file at an address lies after it was fetched; a mirror's file takes the original's place."""
    name = Path(unquote(urlparse(url).path)).name
    if not name:
        raise CheckpointError(f"{url!r} names no file")
    # Two addresses may end in one name; only a hash in it makes it unique.
    if not _HASH_IN_NAME.search(name):
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    return cache_dir() / "checkpoints" / name


def _download(url: str, address: str, sha256: str | None) -> Path:
    """The file that `url` names, fetched from `address` if it isn't here."""
    target = _target(url)
    if target.is_file():
        return target
    by_hand = f"curl -L --create-dirs -o {target} {address}"
    if is_offline():
        raise NotFetchedError(
            f"{url} has not been fetched yet and {_OFFLINE}. Where there is a network, run `blip2 download {url}` "
            f"(or `{by_hand}`), and have the file at {target}."
        )
    in_name = _HASH_IN_NAME.search(target.name)
    try:
        return download(address, target, sha256 or (in_name[1] if in_name else None))
    except DownloadError as error:
        raise CheckpointError(f"fetching {address} failed: {error}. Try again, or by hand: `{by_hand}`") from error


# ----- Hugging Face's hub -----


def _from_hub(address: str, local_only: bool = False) -> Path:
    found = _HUB_ADDRESS.fullmatch(address)
    if found is None:
        raise CheckpointError(
            f"cannot fetch {address!r}: an address of Hugging Face's hub is hf://owner/name, with @revision and /file "
            "where they are wanted"
        )
    name, revision, file = found.groups()
    if file is None:
        return _hub_folder(name, revision, local_only)
    folder = _snapshot(name, revision, (file,), file, local_only)
    return folder / file


def language_model_folder(name_or_path: str | Path, local_only: bool = False) -> Path:
    """A folder with the weights of a language model: a local one, or what Hugging Face's cache holds or fetches.

    Raises `CheckpointError` that says how to get the files; with `local_only` nothing is fetched.
    """
    local = resolve_resource(name_or_path)
    if local.is_dir():
        return local
    return _hub_folder(_hub_name(name_or_path, "language model"), None, local_only)


def tokenizer_folder(name_or_path: str | Path, local_only: bool = False) -> Path:
    """A folder with the files of a tokenizer, as `language_model_folder` has a language model's weights."""
    local = resolve_resource(name_or_path)
    if local.is_dir():
        return local
    name = _hub_name(name_or_path, "tokenizer")
    try:
        return _snapshot(name, None, _TOKENIZER_FILES, "tokenizer_config.json", local_only=True)
    except NotFetchedError:
        if local_only:
            raise
    return _snapshot(name, None, _TOKENIZER_FILES, "tokenizer_config.json")


def _hub_name(name_or_path: str | Path, what: str) -> str:
    name = str(name_or_path)
    # bert-base-uncased and the like have no owner.
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise CheckpointError(f"{what} {name!r} is neither a folder nor a name like 'facebook/opt-2.7b'")
    return name


def _hub_folder(name: str, revision: str | None, local_only: bool = False) -> Path:
    """A folder with a model's weights, in the first form that the cache has, else that the hub has."""
    failed: CheckpointError | None = None
    for offline in (True, False):
        for pattern in _WEIGHT_PATTERNS:
            try:
                return _snapshot(name, revision, (*_SETTINGS, *_TOKENIZER_FILES, pattern), pattern, offline)
            except CheckpointError as error:
                failed = error
        if local_only or is_offline():
            break
    assert failed is not None
    raise failed


def _snapshot(
    name: str, revision: str | None, patterns: tuple[str, ...], needed: str, local_only: bool = False
) -> Path:
    """The folder of a repository of the hub with the files like `patterns`, of which one is like `needed`."""
    # Imported late: the hub's client costs a tenth of a second, and the small model never needs it.
    import huggingface_hub

    offline = local_only or is_offline()
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), local_files_only=offline
            )
        )
    except Exception as error:  # the client's errors and those of its network library share no nearer parent
        if offline:
            raise NotFetchedError(_missing(name, f"not in Hugging Face's cache, and {_OFFLINE}")) from error
        raise CheckpointError(_missing(name, f"{type(error).__name__}: {first_line(error)}")) from error
    if any(folder.glob(needed)) and not _missing_shards(folder, needed):
        return folder
    if offline:
        raise NotFetchedError(_missing(name, f"{needed} is not in Hugging Face's cache, and {_OFFLINE}"))
    raise CheckpointError(f"the repository {name!r} of Hugging Face's hub has no {needed}")


def _missing_shards(folder: Path, needed: str) -> bool:
    """Whether an index names files that aren't there, as after an interrupted download."""
    for index in folder.glob(needed):
        if index.name.endswith(".index.json"):
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return not all((folder / shard).is_file() for shard in shards)
    return False


def _missing(name: str, reason: str) -> str:
    return (
        f"{name!r} is needed and not here: {reason}. Where there is a network, run `blip2 download hf://{name}` or "
        f"`hf download {name}` (both fill Hugging Face's cache), or name a local folder instead."
    )
