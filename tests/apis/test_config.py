"""load_config: paths, bundled configs and model names; mmpretrain's scope and bases; errors that say where and what."""

import warnings
from pathlib import Path

import pytest
from mmengine.config import Config

from blip2.apis.config import ConfigError, bundled_configs, load_config
from blip2.registry import MODELS

CAPTION = "blip2/blip2-opt2.7b_8xb32_caption.py"


def write(folder: Path, text: str, name: str = "config.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    [
        CAPTION,
        f"configs/{CAPTION}",
        CAPTION.removesuffix(".py"),
        "blip2-opt2.7b_8xb32_caption",
        "blip2-opt2.7b_8xb32_caption.py",
        "blip2-opt2.7b_3rdparty-zeroshot_caption",
        f"blip2::{CAPTION}",
        f"mmpretrain::{CAPTION}",
    ],
)
def test_every_way_to_name_a_bundled_config_finds_it_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config.model.type == "Blip2Caption"
    assert Path(config.filename).parts[-3:] == ("configs", *Path(CAPTION).parts)


def test_a_file_here_wins_over_a_bundled_config_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "model = dict(type='Mine')", "blip2-opt2.7b_8xb32_caption.py")
    assert load_config("blip2-opt2.7b_8xb32_caption.py").model.type == "Mine"


def test_paths_and_strings_give_the_same(tmp_path):
    path = write(tmp_path, "model = dict(type='Mine')")
    assert load_config(path).to_dict() == load_config(str(path)).to_dict()


def test_a_config_object_is_copied_not_changed():
    given = Config({"default_scope": "mmpretrain", "model": {"type": "mmpretrain.Blip2Caption"}})
    loaded = load_config(given, {"model.prompt": "new"})
    assert given.to_dict() == {"default_scope": "mmpretrain", "model": {"type": "mmpretrain.Blip2Caption"}}
    assert loaded.to_dict() == {"default_scope": "blip2", "model": {"type": "Blip2Caption", "prompt": "new"}}


def test_our_caption_config_has_the_published_settings():
    config = load_config(CAPTION)
    backbone = config.model.vision_backbone
    assert (backbone.arch.num_layers, backbone.out_indices, backbone.img_size) == (39, -1, 364)
    assert (config.model.prompt, config.model.max_txt_len) == ("a photo of", 30)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert config.data_preprocessor.mean == pytest.approx([255 * value for value in mean])
    assert config.data_preprocessor.std == pytest.approx([255 * value for value in std])
    assert config.test_pipeline[1].scale == (364, 364)


# ----- mmpretrain's names -----


def test_scope_and_prefixes_of_mmpretrain_become_ours_at_any_depth(tmp_path):
    path = write(
        tmp_path,
        """
default_scope = 'mmpretrain'
model = dict(type='mmpretrain.Blip2Caption', parts=[dict(type='mmpretrain.Qformer', _scope_='mmpretrain')])
pipeline = (dict(type='mmpretrain.PackInputs'), [dict(type='mmcv.Resize')])
optim_wrapper = dict(constructor='mmpretrain.LearningRateDecay')
prompt = 'mmpretrain.not_a_type'
""",
    )
    config = load_config(path)
    assert config.default_scope == "blip2"
    assert config.model.type == "Blip2Caption"
    assert config.model.parts[0] == {"type": "Qformer", "_scope_": "blip2"}
    assert config.pipeline[0]["type"] == "PackInputs"
    assert config.pipeline[1][0].type == "mmcv.Resize"
    assert config.optim_wrapper.constructor == "LearningRateDecay"
    assert config.prompt == "mmpretrain.not_a_type"


def test_under_a_foreign_scope_mmpretrains_types_keep_a_prefix_of_ours(tmp_path):
    path = write(tmp_path, "default_scope = 'mmdet'\nmodel = dict(type='mmpretrain.Blip2Caption')")
    config = load_config(path)
    assert (config.default_scope, config.model.type) == ("mmdet", "blip2.Blip2Caption")


def test_overrides_are_rewritten_too(tmp_path):
    path = write(tmp_path, "model = dict(type='A')")
    assert load_config(path, {"model.type": "mmpretrain.B"}).model.type == "B"


@pytest.mark.parametrize("package", ["mmpretrain", "blip2"])
def test_bases_of_a_package_are_our_bundled_configs(package, tmp_path):
    path = write(
        tmp_path,
        f"""
_base_ = ['{package}::_base_/datasets/coco_caption.py', '{package}::_base_/default_runtime.py']
val_dataloader = dict(batch_size=7)
""",
    )
    config = load_config(path)
    assert config.val_dataloader.batch_size == 7
    assert config.val_dataloader.dataset.type == "COCOCaption"
    assert config.default_hooks.timer.type == "IterTimerHook"


def test_a_base_may_be_a_whole_bundled_config(tmp_path):
    path = write(tmp_path, f"_base_ = 'blip2::{CAPTION}'\nmodel = dict(prompt='a drawing of')")
    assert load_config(path).model.prompt == "a drawing of"


@pytest.mark.parametrize("package", ["mmpretrain", "blip2"])
def test_lazy_configs_inherit_from_bundled_bases_without_the_package(package, tmp_path):
    path = write(
        tmp_path,
        f"""
from mmengine.config import read_base
from mmpretrain.models import Blip2Caption, heads
import mmpretrain.datasets

with read_base():
    from {package}.configs._base_.default_runtime import *

model = dict(type=Blip2Caption, head=dict(type=heads.LinearClsHead))
pipeline = [dict(type=mmpretrain.datasets.PackInputs)]
""",
    )
    config = load_config(path)
    assert config.model.type == "Blip2Caption"
    assert config.model.head.type == "LinearClsHead"
    assert config.pipeline[0].type == "PackInputs"
    assert config.default_scope == "blip2"
    assert config.default_hooks.timer.type == "IterTimerHook"


def test_lazy_types_of_other_packages_stay_classes(tmp_path):
    path = write(tmp_path, "from torch.optim import AdamW\noptim_wrapper = dict(optimizer=dict(type=AdamW))")
    from torch.optim import AdamW

    assert load_config(path).optim_wrapper.optimizer.type is AdamW


def test_a_config_without_a_scope_gets_ours(tmp_path):
    assert load_config(write(tmp_path, "model = dict(type='A')")).default_scope == "blip2"


def test_custom_imports_of_mmpretrain_are_left_out_and_others_are_imported(tmp_path, monkeypatch):
    write(tmp_path, "LOADED = True", "my_blip2_addition.py")
    monkeypatch.syspath_prepend(tmp_path)
    text = "custom_imports = dict(imports=['mmpretrain.models', 'my_blip2_addition'], allow_failed_imports=False)"
    config = load_config(write(tmp_path, text))
    assert config.custom_imports.imports == ["my_blip2_addition"]
    import sys

    assert sys.modules["my_blip2_addition"].LOADED


def test_the_second_to_last_of_39_blocks_is_kept_with_a_warning(tmp_path):
    path = write(tmp_path, f"_base_ = 'blip2::{CAPTION}'\nmodel = dict(vision_backbone=dict(out_indices=-2))")
    with pytest.warns(UserWarning, match=r"38th block.*out_indices=-1"):
        config = load_config(path)
    assert config.model.vision_backbone.out_indices == -2


def test_other_depths_and_our_own_config_do_not_warn(tmp_path):
    text = "model = dict(vision_backbone=dict(type='BEiTViT', arch=dict(num_layers=40), out_indices=-2))"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config(write(tmp_path, text))
        load_config(CAPTION)


def test_registries_find_what_a_loaded_config_names():
    config = load_config(CAPTION)
    for part in ("vision_backbone", "text_backbone", "multimodal_backbone", "vision_neck"):
        assert MODELS.get(config.model[part].type) is not None


# ----- errors -----


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean.*blip2-opt2\.7b_3rdparty-zeroshot_caption"):
        load_config("blip2-opt2.7b_3rdparty-zeroshot_captoin")


def test_a_missing_file_names_the_path_and_the_next_step(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/blip2-opt_caption\.py.*Did you mean.*list_models"):
        load_config("nowhere/blip2-opt_caption.py")


def test_a_folder_is_refused_as_such(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("wrong", [3, None, ["a.py"], {"model": {}}])
def test_a_wrong_type_is_named(wrong):
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
        load_config(wrong)


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in one of \.py"):
        load_config(write(tmp_path, "model: 1", "config.toml"))


def test_a_syntax_error_names_file_and_line(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.py, line 2: .*model = dict\("):
        load_config(write(tmp_path, "a = 1\nmodel = dict(\n"))


def test_a_syntax_error_in_a_base_names_the_base(tmp_path):
    write(tmp_path, "a = 1\nb = = 2", "base.py")
    with pytest.raises(ConfigError, match=r"base\.py, line 2"):
        load_config(write(tmp_path, "_base_ = 'base.py'"))


def test_an_error_while_a_config_runs_names_file_and_line(tmp_path):
    write(tmp_path, "a = 1\n\nb = undefined_name", "base.py")
    with pytest.raises(ConfigError, match=r"base\.py, line 3: NameError.*undefined_name"):
        load_config(write(tmp_path, "_base_ = 'base.py'"))


def test_a_missing_base_names_child_and_base(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.py inherits from 'gone\.py'.*blip2::"):
        load_config(write(tmp_path, "_base_ = 'gone.py'"))


def test_an_unknown_bundled_base_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"coco_captions\.py.*Did you mean '_base_/datasets/coco_caption\.py'"):
        load_config(write(tmp_path, "_base_ = 'mmpretrain::_base_/datasets/coco_captions.py'"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "config.py"
    path.write_bytes("prompt = 'für'".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


@pytest.mark.parametrize(
    ("slip", "meant"), [("val_dataloder", "val_dataloader"), ("test_evaluators", "test_evaluator"), ("modle", "model")]
)
def test_a_misspelt_top_level_key_is_an_error(slip, meant, tmp_path):
    with pytest.raises(ConfigError, match=f"{slip}.*Did you mean '{meant}'"):
        load_config(write(tmp_path, f"{slip} = dict()"))


def test_a_misspelt_override_is_an_error():
    with pytest.raises(ConfigError, match="Did you mean 'model'"):
        load_config(CAPTION, {"modle.prompt": "x"})


@pytest.mark.parametrize(
    "name", ["val_dataloader_2", "base_model", "dataset_type", "model_1", "train_dataset", "crop", "mode"]
)
def test_variables_of_ones_own_are_fine(name, tmp_path):
    assert name in load_config(write(tmp_path, f"model = dict()\n{name} = 1"))


def test_overrides_that_do_not_fit_name_themselves():
    with pytest.raises(ConfigError, match=r"cfg_options .*model\.prompt\.deeper"):
        load_config(CAPTION, {"model.prompt.deeper": 1})


def test_mmengine_is_left_as_it_was_after_an_error(tmp_path):
    before = Config._get_cfg_path, Config._parse_lazy_import
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, "_base_ = 'gone.py'"))
    assert before == (Config._get_cfg_path, Config._parse_lazy_import)


def test_bundled_configs_are_listed_without_bases():
    assert CAPTION in bundled_configs()
    assert not any("_base_" in name for name in bundled_configs())
