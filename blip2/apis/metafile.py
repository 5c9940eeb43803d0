"""What the zoo knows about its models: ``configs/*/metafile.yml``, in OpenMMLab's model-index form."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from blip2.utils.resources import resources_root


class MetafileError(ValueError):
    """A metafile lacks a field, names a config that does not exist or repeats a name."""


@dataclass(frozen=True)
class Result:
    """Scores of a model on one data set; `dataset` and the metrics' names are those of the metafile.

    `metrics` is empty where nobody published any. `protocol` is whose way of measuring it was ('paper', 'LAVIS',
    'OpenMMLab'; see docs/protocols.md), None for our own. `config` is the config that measures it, None for the
    model's own.
    """

    task: str
    dataset: str
    metrics: dict[str, float]
    protocol: str | None = None
    config: Path | None = None


@dataclass(frozen=True)
class License:
    """Under what terms a model's weights and its language model stand, in a word each, and what is known about it."""

    weights: str = "not stated"
    language_model: str | None = None
    note: str = ""


@dataclass(frozen=True)
class ModelEntry:
    """One model of the zoo.

    `weights` is a URL, an absolute path below the resources, or None; `other_sources` are addresses of the same weights
    elsewhere. `image_encoder` is the address of the encoder that the file at `weights` may lack. `sha256` is the whole
    hash of that file, where it is known. `parameters` is the published count, `parameters_built` what our config builds
    (they differ where the publisher counted otherwise).
    """

    name: str
    config: Path
    weights: str | None
    results: tuple[Result, ...]
    collection: str
    parameters: int | None
    parameters_built: int | None
    flops: int | None
    converted_from: dict[str, str]
    metafile: Path
    other_sources: tuple[str, ...] = ()
    image_encoder: str | None = None
    sha256: str | None = None
    license: License = License()
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the metafile, each once, for example ``('Image Caption',)``."""
        return tuple(dict.fromkeys(result.task for result in self.results))


def metafiles(root: Path | None = None) -> list[Path]:
    """All ``configs/*/metafile.yml`` below `root` (the resources by default), sorted by path."""
    return sorted(((root or resources_root()) / "configs").glob("*/metafile.yml"))


def read_metafile(path: Path) -> dict[str, Any]:
    """The raw content of one metafile; raises `MetafileError` when it isn't YAML with a list of ``Models``."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise MetafileError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("Models"), list):
        raise MetafileError(f"{path} has no list 'Models'")
    return content


def model_entries(root: Path | None = None) -> dict[str, ModelEntry]:
    """Every model of the zoo by name, read once per `root` (the resources by default)."""
    return dict(_read_all(root or resources_root()))


@cache
def _read_all(root: Path) -> dict[str, ModelEntry]:
    entries: dict[str, ModelEntry] = {}
    for path in metafiles(root):
        for model in read_metafile(path)["Models"]:
            entry = _entry(model, path, root)
            if entry.name in entries:
                raise MetafileError(f"{path} and {entries[entry.name].metafile} both name a model {entry.name!r}")
            entries[entry.name] = entry
    return entries


def _entry(model: dict[str, Any], path: Path, root: Path) -> ModelEntry:
    name = model.get("Name")
    for field in ("Name", "Config", "In Collection"):
        if not isinstance(model.get(field), str):
            raise MetafileError(f"{path}: model {name or model!r} lacks the field {field!r}")
    config = _config(model["Config"], model["Name"], path, root)
    weights = model.get("Weights")
    if weights and "://" not in weights:
        weights = str(root / weights)
    metadata = model.get("Metadata") or {}
    return ModelEntry(
        name=model["Name"],
        config=config,
        weights=weights or None,
        results=tuple(
            Result(
                task=item["Task"],
                dataset=item.get("Dataset", ""),
                metrics=dict(item.get("Metrics") or {}),
                protocol=item.get("Protocol"),
                config=_config(item["Config"], model["Name"], path, root) if "Config" in item else None,
            )
            for item in model.get("Results") or []
        ),
        collection=model["In Collection"],
        parameters=metadata.get("Parameters"),
        parameters_built=metadata.get("Parameters As Built", metadata.get("Parameters")),
        flops=metadata.get("FLOPs"),
        converted_from=dict(model.get("Converted From") or {}),
        metafile=path,
        other_sources=tuple(model.get("Other Sources") or ()),
        image_encoder=model.get("Image Encoder"),
        sha256=model.get("SHA256"),
        license=_license(model.get("License") or {}),
        notes=tuple(note.strip() for note in model.get("Notes") or ()),
    )


def _config(relative: str, name: str, path: Path, root: Path) -> Path:
    config = root / relative
    if not config.is_file():
        raise MetafileError(f"{path}: the config of {name}, {relative!r}, does not exist below {root}")
    return config


def _license(fields: dict[str, str]) -> License:
    return License(
        weights=fields.get("Weights", "not stated"),
        language_model=fields.get("Language Model"),
        note=fields.get("Note", "").strip(),
    )
