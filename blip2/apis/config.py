"""From a path, a bundled config or a model name to an mmengine `Config` that this package can build.

mmpretrain's own BLIP-2 configs pass through here unchanged: the scope ``mmpretrain`` becomes ``blip2``, and bases named
``mmpretrain::…`` or ``blip2::…`` are found among the bundled configs.
"""

import ast
import copy
import re
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.utils import import_modules_from_strings

from blip2.apis.metafile import model_entries
from blip2.utils.resources import resources_root
from blip2.utils.suggest import did_you_mean, nearest

SCOPE = "blip2"
UPSTREAM_SCOPE = "mmpretrain"
CONFIG_SUFFIXES = (".py", ".json", ".yaml", ".yml")
# The fields whose strings mmengine looks up in a registry.
TYPE_KEYS = ("type", "constructor", "runner_type")

# What the Runner and the hub read at the top level.
KNOWN_KEYS = frozenset(
    [
        "model",
        "data_preprocessor",
        "train_dataloader",
        "val_dataloader",
        "test_dataloader",
        "train_cfg",
        "val_cfg",
        "test_cfg",
        "auto_scale_lr",
        "optim_wrapper",
        "param_scheduler",
        "val_evaluator",
        "test_evaluator",
        "default_hooks",
        "custom_hooks",
        "load_from",
        "resume",
        "launcher",
        "env_cfg",
        "log_processor",
        "log_level",
        "visualizer",
        "default_scope",
        "randomness",
        "experiment_name",
        "work_dir",
        "runner_type",
        "custom_imports",
        "strategy",
    ]
)

_patch_lock = threading.RLock()


class ConfigError(ValueError):
    """A config cannot be read: its text says which file, where possible which line, and what to do."""


def load_config(config: str | Path | Config, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config and make it one of this package.

    `config` is a path, a bundled config (``'blip2/blip2-opt2.7b_8xb32_caption.py'``, with or without ``configs/`` in
    front and ``.py`` behind; its bare stem will do when no other config has it), a model name (see
    `blip2.list_models`), or a `Config`, which is copied and never changed. `cfg_options` holds overrides by dotted
    key (``{'model.prompt': 'a picture of'}``) and wins over the file.

    Raises `FileNotFoundError` for a path that leads nowhere, `ConfigError` for anything else that is wrong with the
    config, `TypeError` for a wrong argument.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    elif isinstance(config, str | Path):
        cfg = _read(find_config(config))
    else:
        raise TypeError(f"config must be a path, a model name or a mmengine Config, not {type(config).__name__}")
    source = cfg.filename or "the config"
    if cfg_options:
        _merge_options(cfg, cfg_options, source)
    _to_own_scope(cfg)
    _check_top_level(cfg, source)
    _warn_second_to_last_block(cfg, source)
    _import_custom_modules(cfg, source)
    return cfg


def find_config(config: str | Path) -> Path:
    """The file that `config` names: an existing path first, then a model name, then a bundled config."""
    path = Path(config).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"config {str(config)!r} is a folder: name one of the files in it")
    name = str(config)
    if "::" in name:
        return _bundled_base(name)
    entry = model_entries().get(name)
    if entry is not None:
        return entry.config
    bundled = _bundled_config(name)
    if bundled is not None:
        return bundled
    if path.suffix in CONFIG_SUFFIXES or len(path.parts) > 1:
        raise FileNotFoundError(
            f"config {name!r} not found, neither as a path from {Path.cwd()} nor among the bundled configs."
            f"{did_you_mean(path.stem, bundled_configs())} blip2.list_models() names the models of the zoo."
        )
    choices = [*model_entries(), *(Path(item).stem for item in bundled_configs())]
    raise ConfigError(
        f"{name!r} is neither a model name, a bundled config nor a file."
        f"{did_you_mean(name, dict.fromkeys(choices))} blip2.list_models() names the models of the zoo."
    )


def bundled_configs() -> list[str]:
    """The configs that come with the package, relative to ``configs/``, bases left out."""
    root = resources_root() / "configs"
    names = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*.py")))
    return [name for name in names if not name.startswith("_base_/")]


def _bundled_config(name: str) -> Path | None:
    root = resources_root() / "configs"
    relative = name.removeprefix("configs/")
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        return None
    for candidate in (root / relative, root / f"{relative}.py"):
        if candidate.is_file():
            return candidate
    stem = relative.removesuffix(".py")
    same_stem = [path for path in bundled_configs() if Path(path).stem == stem]
    if len(same_stem) > 1:
        raise ConfigError(f"several bundled configs are called {stem!r}: name one of {', '.join(same_stem)}")
    return root / same_stem[0] if same_stem else None


# ----- reading -----


def _read(path: Path) -> Config:
    if path.suffix not in CONFIG_SUFFIXES:
        raise ConfigError(f"config {path} must end in one of {', '.join(CONFIG_SUFFIXES)}")
    files = [str(path)]
    _check_syntax(path)
    with _bundled_bases(files):
        try:
            # Custom modules wait until names of mmpretrain's own modules are taken out of their list.
            return Config.fromfile(str(path), import_custom_modules=False)
        except (ConfigError, FileNotFoundError):
            raise
        except Exception as error:
            where = _line_in_config(error, files)
            raise ConfigError(f"config {where or path}: {type(error).__name__}: {error}") from error


def _check_syntax(path: str | Path) -> None:
    if Path(path).suffix != ".py":
        return
    try:
        ast.parse(Path(path).read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise ConfigError(f"syntax error in config {path}, line {error.lineno}: {error.msg}: {text}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is not UTF-8 text: {error}") from error


def _line_in_config(error: BaseException, files: list[str]) -> str:
    """``file, line n`` of the innermost frame of `error` that lies in one of the config `files`, or ''."""
    known = {str(Path(name).resolve()) for name in files}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if str(Path(frame.filename).resolve()) in known:
            return f"{frame.filename}, line {frame.lineno}"
    return ""


@contextmanager
def _bundled_bases(files: list[str]) -> Iterator[None]:
    """Let mmengine's parser find bases by our rules; every base read is checked and noted in `files`.

    mmengine looks packages up through ``pkg_resources``, which current setuptools no longer has, and knows neither
    this package nor configs without their ``.mim`` folder; it offers no hook, so two of its functions are exchanged
    while a config is read.
    """
    original_path = Config._get_cfg_path
    original_lazy = Config._parse_lazy_import
    original_package = mmengine_config.get_installed_path

    def get_cfg_path(base: str, child: str) -> tuple[str, str | None]:
        if base.partition("::")[0] in (SCOPE, UPSTREAM_SCOPE):
            # No scope comes back: the default scope already is ours, `_scope_` entries would be noise.
            path, scope = str(_bundled_base(base)), None
        else:
            path, scope = original_path(base, child)
        if not Path(path).is_file():
            raise ConfigError(
                f"config {child} inherits from {base!r}, but {path} does not exist. Bases are named relative to the "
                f"config that names them, or bundled ones as '{SCOPE}::_base_/default_runtime.py'."
            )
        _check_syntax(path)
        files.append(path)
        return path, scope

    def parse_lazy_import(filename: str) -> tuple[Any, set]:
        _check_syntax(filename)
        files.append(filename)
        return original_lazy(filename)

    with _patch_lock:
        Config._get_cfg_path = staticmethod(get_cfg_path)
        Config._parse_lazy_import = staticmethod(parse_lazy_import)
        mmengine_config.get_installed_path = _package_folder
        try:
            yield
        finally:
            Config._get_cfg_path = staticmethod(original_path)
            Config._parse_lazy_import = staticmethod(original_lazy)
            mmengine_config.get_installed_path = original_package


def _bundled_base(name: str) -> Path:
    """``blip2::_base_/default_runtime.py`` (or ``mmpretrain::…``) as a file below our ``configs/``."""
    package, _, relative = name.partition("::")
    if package not in (SCOPE, UPSTREAM_SCOPE):
        raise ConfigError(f"{name!r}: only '{SCOPE}::' and '{UPSTREAM_SCOPE}::' name bundled configs")
    root = resources_root() / "configs"
    for candidate in (root / relative, root / f"{relative}.py"):
        if candidate.is_file():
            return candidate
    names = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    raise ConfigError(
        f"no bundled config is called {relative!r} (asked for as {name!r}).{did_you_mean(relative, names)}"
    )


def _package_folder(package: str) -> str:
    """Where ``from <package>.configs… import *`` under ``read_base()`` starts to look."""
    if package in (SCOPE, UPSTREAM_SCOPE):
        return str(resources_root())
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {package!r} that a config inherits from is not installed")
    return next(iter(spec.submodule_search_locations))


# ----- after reading -----


def _merge_options(cfg: Config, options: Mapping[str, Any], source: str) -> None:
    if not isinstance(options, Mapping):
        raise TypeError(f"cfg_options must be a dict of dotted keys, not {type(options).__name__}")
    for key in options:
        top = str(key).partition(".")[0]
        if top not in KNOWN_KEYS and top not in cfg and (meant := _slip_of(top)):
            raise ConfigError(f"cfg_options: unknown key {key!r}. Did you mean {meant!r}?")
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"cfg_options {dict(options)} do not fit {source}: {error}") from error


def _to_own_scope(cfg: Config) -> None:
    fields = cfg._cfg_dict
    if dict.get(fields, "default_scope") in (None, UPSTREAM_SCOPE):
        fields["default_scope"] = SCOPE
    # Without a prefix a name may also be found in mmengine's and mmcv's registries, as mmpretrain's re-exports are.
    prefix = "" if fields["default_scope"] == SCOPE else f"{SCOPE}."
    _rewrite(fields, prefix)


def _rewrite(node: Any, prefix: str) -> Any:
    """`node` with mmpretrain's names replaced, dictionaries and lists in place."""
    if isinstance(node, dict):
        # dict's own methods: a ConfigDict would import what a lazy config only names.
        for key, value in list(dict.items(node)):
            dict.__setitem__(node, key, _rewrite_field(key, value, prefix))
        return node
    if isinstance(node, list):
        node[:] = [_rewrite(item, prefix) for item in node]
        return node
    if isinstance(node, tuple):
        return tuple(_rewrite(item, prefix) for item in node)
    if isinstance(node, LazyObject | LazyAttr) and node.module.split(".")[0] == UPSTREAM_SCOPE:
        return prefix + str(node)
    return node


def _rewrite_field(key: str, value: Any, prefix: str) -> Any:
    if isinstance(value, str):
        if key == "_scope_" and value == UPSTREAM_SCOPE:
            return SCOPE
        if key in TYPE_KEYS and value.startswith(f"{UPSTREAM_SCOPE}."):
            return prefix + value.removeprefix(f"{UPSTREAM_SCOPE}.")
    return _rewrite(value, prefix)


def _check_top_level(cfg: Config, source: str) -> None:
    """A key that nothing reads but that nearly is one which something does must be a slip."""
    keys = set(dict.keys(cfg._cfg_dict))
    for key in sorted(keys - KNOWN_KEYS):
        meant = _slip_of(key)
        # `mode` beside `model` is somebody's variable; `val_dataloder` beside `val_dataloader` is not.
        if meant and ("_" in meant or meant not in keys):
            raise ConfigError(f"unknown top-level key {key!r} in {source}. Did you mean {meant!r}?")


def _slip_of(key: str) -> str | None:
    """The known top-level key that `key` misspells, if it looks like one."""
    close = nearest(key, KNOWN_KEYS, count=1, cutoff=0.8)
    if key.startswith("_") or not close or abs(len(key) - len(close[0])) > max(1, len(close[0]) // 6):
        return None
    # A known key with something added, such as `val_dataloader_2`, is meant so.
    return None if re.match(rf"{close[0]}[_\d]", key) else close[0]


def _warn_second_to_last_block(cfg: Config, source: str) -> None:
    """Upstream's published caption and VQA configs feed the 38th of 39 blocks on; the checkpoint wants the 39th."""
    model = cfg._cfg_dict.get("model")
    backbone = model.get("vision_backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict) or "BEiTViT" not in str(dict.get(backbone, "type")):
        return
    arch, indices = backbone.get("arch"), backbone.get("out_indices", -1)
    layers = arch.get("num_layers") if isinstance(arch, dict) else None
    if layers == 39 and (indices == -2 or (isinstance(indices, list | tuple) and list(indices) == [-2])):
        warnings.warn(
            f"{source}: out_indices=-2 of a 39-layer vision_backbone feeds its 38th block to the Q-Former. It is kept "
            "as written, but the published checkpoints were trained with the 39th: set "
            "model.vision_backbone.out_indices=-1 to reproduce the published scores.",
            UserWarning,
            stacklevel=3,
        )


def _import_custom_modules(cfg: Config, source: str) -> None:
    custom = cfg._cfg_dict.get("custom_imports")
    if not custom:
        return
    names = custom.get("imports", [])
    names = [names] if isinstance(names, str) else list(names)
    # Our registries import our modules themselves; mmpretrain's need not be installed.
    custom["imports"] = [name for name in names if name.split(".")[0] != UPSTREAM_SCOPE]
    try:
        import_modules_from_strings(**custom)
    except ImportError as error:
        raise ConfigError(
            f"custom_imports of {source} cannot be imported: {error}. Put their folder on PYTHONPATH."
        ) from error
