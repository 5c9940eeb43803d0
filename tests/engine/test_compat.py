"""What stands in for mmengine's functions that the current stack breaks."""

import sys
import threading

import mmengine
import mmengine.config.config
import mmengine.device
import mmengine.model.utils
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin

from blip2.engine import compat
from blip2.engine.errors import OptionError


@pytest.fixture(autouse=True)
def device_as_before():
    before = mmengine.device.utils.DEVICE
    yield
    mmengine.device.utils.DEVICE = before


def test_installed_packages_are_found_by_distribution_and_by_module():
    assert compat.is_installed("mmengine") and compat.is_installed("torch") and compat.is_installed("json")
    assert compat.is_installed("opencv-python") or compat.is_installed("opencv-python-headless")
    assert not compat.is_installed("no-such-package")


def test_installed_path_is_the_modules_folder():
    folder = mmengine.__file__.removesuffix("/__init__.py")
    assert compat.get_installed_path("mmengine") == folder
    assert compat.get_installed_path("PyYAML").endswith("/yaml")
    with pytest.raises(ModuleNotFoundError, match="no-such-package"):
        compat.get_installed_path("no-such-package")


def test_patch_reaches_the_modules_that_imported_the_functions():
    compat.patch_mmengine()
    assert mmengine.model.utils.mmcv_full_available() is False
    if "pkg_resources" not in sys.modules:
        assert mmengine.config.config.is_installed("mmengine")


def test_a_configs_text_is_laid_out_once():
    seen = []

    def layout(text, style_config):
        seen.append(text)
        return text.upper(), True

    remembered = compat._remembered(layout)
    for text in ("a", "b", "a", "b"):
        assert remembered(text, style_config={}) == (text.upper(), True)
    assert seen == ["a", "b"]
    for number in range(9):  # only the last few are kept
        remembered(str(number), style_config={})
    remembered("a", style_config={})
    assert seen.count("a") == 2


def test_a_remembered_layout_is_that_of_the_config_as_it_is_now():
    compat.patch_mmengine()
    cfg = mmengine.config.Config({"a": 1})
    first = cfg.pretty_text
    assert cfg.pretty_text == first == "a = 1\n"
    cfg.a = 2
    assert cfg.pretty_text == "a = 2\n"


def test_chosen_device_is_mmengines():
    assert compat.use_device("cpu") == "cpu" and mmengine.device.get_device() == "cpu"
    assert compat.use_device("meta") == "meta" and mmengine.device.get_device() == "meta"
    auto = compat.use_device("auto")
    assert auto == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["tpu", "cpu:1", "cuda:x", "", "cuda:4711"])
def test_device_that_is_not_there_is_named(device):
    with pytest.raises(OptionError, match=repr(device)):
        compat.use_device(device)


class Unmakeable(ManagerMixin):
    """An instance that cannot be made."""

    def __init__(self, name):
        raise OSError("cannot be made")


def test_what_cannot_be_made_holds_up_no_other_thread():
    compat.patch_mmengine()
    with pytest.raises(OSError, match="cannot be made"):
        Unmakeable.get_instance("one")
    with pytest.raises(RuntimeError, match="at least once"):
        Unmakeable.get_current_instance()
    thread = threading.Thread(target=DefaultScope.get_instance, args=("of_this_test",), kwargs={"scope_name": "blip2"})
    thread.daemon = True
    thread.start()
    thread.join(timeout=5)
    assert not thread.is_alive()
