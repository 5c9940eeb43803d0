"""mmengine 0.10.7 on a current stack: what it takes for granted and is no longer there.

`patch_mmengine` swaps a few functions of mmengine in this process, nothing on disk and nothing of other packages:

- ``is_installed`` and ``get_installed_path`` ask ``pkg_resources``, which new setuptools dropped;
- ``mmcv_full_available`` asks ``pkgutil.find_loader``, which Python 3.14 dropped; its callers then import
  ``mmcv.ops``, whose binaries rarely fit a current torch. Nothing here needs them, so the answer is no;
- a config's text is laid out by yapf anew for the log, for the work folder and for every checkpoint, at seconds each
  for a large one; the layout is remembered;
- ``ManagerMixin``'s lock stays locked when an instance cannot be made, for example a visualizer whose backend is not
  installed: every other thread would wait for ever. It is released.

`use_device` overrides mmengine's choice of the device, which it makes once at import. Its checkpoints pickle
``HistoryBuffer``, which torch ≥ 2.6 refuses to load: see `blip2.engine.hooks.PlainCheckpoint`.
"""

import importlib.metadata
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.config.config
import mmengine.device.utils
import mmengine.model.utils
import mmengine.optim.optimizer.default_constructor
import mmengine.utils.dl_utils.misc
import mmengine.utils.manager
import mmengine.utils.package_utils
import torch
from mmengine.utils import ManagerMixin

from blip2.engine.errors import OptionError

DEVICES = ("cpu", "cuda", "mps", "meta")


@cache
def patch_mmengine() -> None:
    """Swaps the functions named above wherever this stack needs it; a second call does nothing."""
    if find_spec("pkg_resources") is None:
        for module in (mmengine.utils, mmengine.utils.package_utils, mmengine.config.config):
            module.is_installed = is_installed
            module.get_installed_path = get_installed_path
    for module in (
        mmengine.utils.dl_utils,
        mmengine.utils.dl_utils.misc,
        mmengine.model.utils,
        mmengine.optim.optimizer.default_constructor,
    ):
        module.mmcv_full_available = mmcv_full_available
    mmengine.config.config.FormatCode = _remembered(mmengine.config.config.FormatCode)
    for name in ("get_instance", "get_current_instance"):
        setattr(ManagerMixin, name, _releasing(ManagerMixin.__dict__[name].__func__))


def _releasing(method: Callable[..., Any]) -> Any:
    """A class method of `ManagerMixin` that gives its lock back when it raises, too."""

    @wraps(method)
    def call(cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(cls, *args, **kwargs)
        except BaseException:
            mmengine.utils.manager._release_lock()
            raise

    return classmethod(call)


def _remembered(format_code: Callable[..., tuple[str, bool]]) -> Callable[..., tuple[str, bool]]:
    """`format_code` (text, style_config=…) with its last results kept; mmengine has one style."""
    results: dict[str, tuple[str, bool]] = {}

    def remembered(text: str, **style: Any) -> tuple[str, bool]:
        if text not in results:
            if len(results) >= 4:
                results.pop(next(iter(results)))
            results[text] = format_code(text, **style)
        return results[text]

    return remembered


def is_installed(package: str) -> bool:
    """Whether `package` is an installed distribution or a module with a file."""
    try:
        importlib.metadata.distribution(package)
        return True
    except importlib.metadata.PackageNotFoundError:
        spec = find_spec(package)
        return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """The folder of the module that `package` (a module's or a distribution's name) installs.

    Raises `ModuleNotFoundError` when it is not installed and `RuntimeError` when it is a namespace package.
    """
    spec = find_spec(package) or find_spec(_module_of(package))
    if spec is None:
        raise ModuleNotFoundError(f"the package {package!r} is not installed")
    if spec.origin is None:
        raise RuntimeError(f"{package!r} is a namespace package: it has no single folder")
    return str(Path(spec.origin).parent)


def _module_of(distribution: str) -> str:
    owners = importlib.metadata.packages_distributions()
    modules = [module for module in owners if distribution in owners[module] and not module.startswith("_")]
    return modules[0] if modules else distribution.replace("-", "_")


def mmcv_full_available() -> bool:
    """Never: keeps mmengine away from ``mmcv.ops``."""
    return False


def use_device(device: str) -> str:
    """Makes mmengine run on `device` from here on; returns its type (``'cpu'``, ``'cuda'`` …).

    `device` is ``'auto'`` (a GPU if there is one), ``'cpu'``, ``'cuda'``, ``'cuda:<n>'``, ``'mps'``, or ``'meta'``
    (shapes without memory: builds a config of any size to check it).

    Raises `OptionError` when it is none of these or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdigit())):
        raise OptionError(f"device {device!r} is none of auto, cpu, cuda, cuda:<n>, mps")
    if kind == "cuda":
        _require_cuda(device, int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device 'mps': this machine has none; use --device cpu")
    if index:
        torch.cuda.set_device(int(index))
    mmengine.device.utils.DEVICE = kind
    return kind


def _require_cuda(device: str, index: int) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        found = f"it has {count} GPU(s), numbered from 0" if count else "torch sees no CUDA GPU"
        raise OptionError(f"device {device!r} is not there: {found}; use --device cpu")
