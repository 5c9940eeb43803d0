"""What a model of the zoo needs on this machine, and fetching it beforehand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blip2.apis.config import ConfigError, load_config
from blip2.apis.metafile import ModelEntry, model_entries
from blip2.checkpoints.fetch import cached, fetch, language_model_folder, tokenizer_folder
from blip2.checkpoints.read import CheckpointError
from blip2.utils.suggest import did_you_mean


@dataclass(frozen=True)
class Need:
    """One of the things that a model is made of.

    Attributes:
        kind: 'weights', 'image encoder', 'language model' or 'tokenizer'.
        source: an address, a path or a name of Hugging Face's hub.
        sha256: the content's hash where it is known.
    """

    kind: str
    source: str
    sha256: str | None = None

    def path(self) -> Path | None:
        """Where it is on this machine; None if it has to be fetched."""
        try:
            if self.kind == "language model":
                return language_model_folder(self.source, local_only=True)
            return tokenizer_folder(self.source, local_only=True) if self.kind == "tokenizer" else cached(self.source)
        except CheckpointError:
            return None

    def fetch(self) -> Path:
        """Where it is, after fetching it if need be; raises `CheckpointError` or `FileNotFoundError`."""
        if self.kind == "language model":
            return language_model_folder(self.source)
        return tokenizer_folder(self.source) if self.kind == "tokenizer" else fetch(self.source, self.sha256)


def entry_named(name: str) -> ModelEntry:
    """The entry of a model; raises `ConfigError` that suggests the nearest name."""
    entries = model_entries()
    if name not in entries:
        raise ConfigError(f"no model {name!r}.{did_you_mean(name, entries)} `blip2 list` shows all")
    return entries[name]


def weights_source(entry: ModelEntry) -> str | None:
    """The address or path of a model's weights: of those of its sources that are here, or else the first."""
    sources = sources_of(entry)
    return next((source for source in sources if cached(source)), sources[0] if sources else None)


def sources_of(entry: ModelEntry) -> tuple[str, ...]:
    """All addresses of a model's weights, the one to be preferred first."""
    return (*([entry.weights] if entry.weights else []), *entry.other_sources)


def needs_of(entry: ModelEntry, weights: str | None = None) -> list[Need]:
    """What the model is made of, with the weights from its first source, or from `weights`."""
    weights = weights or entry.weights
    model = load_config(entry.config).model
    needs = []
    if weights:
        needs.append(Need("weights", weights, entry.sha256 if weights == entry.weights else None))
    # The hub's folders and our own files are whole; published files leave out what was frozen.
    if weights and weights.startswith("http"):
        if entry.image_encoder:
            needs.append(Need("image encoder", entry.image_encoder))
        needs += [Need("language model", name) for name in _names(model, "text_backbone")]
    needs += [Need("tokenizer", name) for key in ("tokenizer", "qformer_tokenizer") for name in _names(model, key)]
    return needs


def _names(model: dict, part: str) -> Iterator[str]:
    name = (model.get(part) or {}).get("name_or_path")
    if name:
        yield str(name)
