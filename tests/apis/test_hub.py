"""Models by name, in a zoo of a test's own around a captioner that says the picture's mean colour."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mmengine.config import Config

import blip2
from blip2.apis import (
    ConfigError,
    clear_cache,
    get_model,
    hub,
    inference_model,
    init_model,
    list_models,
    load_config,
    metafile,
)
from blip2.checkpoints import CheckpointError, save_checkpoint

DATA = Path(__file__).parents[1] / "data"
RED = np.full((4, 4, 3), (0, 0, 255), np.uint8)


def entry(name, task, weights):
    return {
        "Name": name,
        "In Collection": "Toy",
        "Config": "configs/toy/toy_caption.py",
        "Weights": weights,
        "Results": [{"Task": task, "Dataset": "A", "Metrics": {"CIDEr": 1.0}}],
    }


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    """Resources with one toy config, and models with good, missing, remote and no weights."""
    monkeypatch.syspath_prepend(str(DATA))
    folder = tmp_path / "resources" / "configs" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy_caption.py").write_text((DATA / "toy_captioner_config.py").read_text())
    models = [
        entry("toy-good_caption", "Image Caption", "configs/toy/toy.safetensors"),
        entry("toy-lost_caption", "Image Caption", "configs/toy/lost.safetensors"),
        entry("toy-far_caption", "Image Caption", "https://example.invalid/zoo/toy-12345678.pth"),
        entry("toy-bare_vqa", "Visual Question Answering", None),
    ]
    content = {"Collections": [{"Name": "Toy"}], "Models": models}
    (folder / "metafile.yml").write_text(yaml.safe_dump(content))
    for module in ("blip2.utils.resources", "blip2.apis.metafile", "blip2.apis.config"):
        monkeypatch.setattr(f"{module}.resources_root", lambda: tmp_path / "resources")
    metafile._read_all.cache_clear()
    model = get_model("toy-good_caption")
    model.scale.weight.data.fill_(3.0)
    save_checkpoint(model, folder / "toy.safetensors")
    yield folder
    clear_cache()


# ----- names -----


def test_all_models_are_listed_in_order():
    assert list_models() == ["toy-bare_vqa", "toy-far_caption", "toy-good_caption", "toy-lost_caption"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"pattern": "toy-g"}, ["toy-good_caption"]),
        ({"pattern": "*caption"}, ["toy-far_caption", "toy-good_caption", "toy-lost_caption"]),
        ({"pattern": ["toy-g", "*vqa"]}, ["toy-bare_vqa", "toy-good_caption"]),
        ({"pattern": "*caption", "exclude_patterns": "*good*"}, ["toy-far_caption", "toy-lost_caption"]),
        ({"exclude_patterns": ["toy-[gl]", "*vqa"]}, ["toy-far_caption"]),
        ({"task": "Visual Question Answering"}, ["toy-bare_vqa"]),
        ({"task": "image caption", "pattern": "*bare*"}, []),
        ({"pattern": "nothing"}, []),
    ],
)
def test_models_are_filtered(arguments, expected):
    assert list_models(**arguments) == expected


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ValueError, match="known tasks: Image Caption, Visual Question Answering"):
        list_models(task="Captioning")


def test_an_unknown_model_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'toy-good_caption'"):
        get_model("toy-goodcaption")


# ----- building -----


def test_a_model_comes_in_eval_mode_with_its_config_and_entry():
    model = get_model("toy-good_caption")
    assert not model.training
    assert model._config.model.type == "ToyCaptioner"
    assert model._metainfo.name == "toy-good_caption"
    assert model.scale.weight.item() == 1.0


def test_the_data_preprocessor_of_the_config_is_used():
    model = get_model("toy-good_caption")
    assert type(model.data_preprocessor).__name__ == model._config.data_preprocessor.type


def test_pretrained_loads_the_zoos_weights():
    assert get_model("toy-good_caption", pretrained=True).scale.weight.item() == 3.0


def test_a_pretrained_model_is_like_one_that_was_built_first(zoo):
    built, loaded = get_model("toy-good_caption"), get_model("toy-good_caption", pretrained=True)
    for (name, left), (_, right) in zip(built.named_parameters(), loaded.named_parameters(), strict=True):
        assert (right.device, right.dtype, right.requires_grad) == (left.device, left.dtype, left.requires_grad), name
    assert not any(buffer.is_meta for buffer in loaded.buffers())


def test_pretrained_may_be_a_path_or_an_address(zoo, tmp_path):
    path = save_checkpoint(get_model("toy-good_caption"), tmp_path / "mine.pth")
    assert get_model("toy-good_caption", pretrained=path).scale.weight.item() == 1.0
    assert get_model("toy-bare_vqa", pretrained=(zoo / "toy.safetensors").as_uri()).scale.weight.item() == 3.0


def test_a_mirror_takes_the_place_of_the_address(zoo):
    mapping = (r"https://example\.invalid/zoo/.*", (zoo / "toy.safetensors").as_uri())
    assert get_model("toy-far_caption", pretrained=True, url_mapping=mapping).scale.weight.item() == 3.0


def test_other_arguments_override_the_config():
    model = get_model("toy-good_caption", prompt="mean ")
    assert model.prompt == model._config.model.prompt == "mean "
    assert load_config("toy-good_caption").model.get("prompt") != "mean "


def test_an_unknown_argument_is_named_with_config_and_nearest():
    with pytest.raises(ConfigError, match=r"toy_caption\.py cannot be built.*'promt'.*Did you mean 'prompt'"):
        get_model("toy-good_caption", promt="x")


def test_an_unknown_type_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"ToyCaptionr is not in the .*Did you mean 'ToyCaptioner'"):
        get_model(Config({"model": {"type": "ToyCaptionr"}}))


def test_a_config_without_a_model_is_an_error(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py has no 'model'"):
        get_model(path)


def test_the_callers_config_is_not_changed():
    config = load_config("toy-good_caption")
    before = config.to_dict()
    get_model(config, prompt="x")
    assert config.to_dict() == before


def test_init_model_takes_config_and_checkpoint(zoo):
    model = init_model(zoo / "toy_caption.py", zoo / "toy.safetensors", device="cpu", prompt="a ")
    assert (model.scale.weight.item(), model.prompt, model.training) == (3.0, "a ", False)
    assert init_model(zoo / "toy_caption.py").scale.weight.item() == 1.0


@pytest.mark.parametrize("call", [lambda: get_model(3), lambda: get_model("toy-good_caption", pretrained=3)])
def test_a_wrong_type_is_named(call):
    with pytest.raises(TypeError, match="not int"):
        call()


def test_a_flag_as_a_checkpoint_is_refused():
    with pytest.raises(TypeError, match="checkpoint must be a path"):
        init_model("toy-good_caption", True)


def test_a_device_is_used_and_a_second_way_to_say_it_refused():
    assert get_model("toy-good_caption", device="meta").scale.weight.is_meta
    with pytest.raises(ValueError, match="exclude each other"):
        get_model("toy-good_caption", device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="offload_folder"):
        get_model("toy-good_caption", offload_folder="x")


# ----- weights that cannot be had -----


def test_missing_local_weights_name_the_path():
    with pytest.raises(FileNotFoundError, match=r"lost\.safetensors"):
        get_model("toy-lost_caption", pretrained=True)


def test_missing_remote_weights_name_address_command_and_place(monkeypatch, tmp_path):
    monkeypatch.setenv("BLIP2_OFFLINE", "1")
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path))
    with pytest.raises(CheckpointError) as error:
        get_model("toy-far_caption", pretrained=True)
    for part in ("https://example.invalid/zoo/toy-12345678.pth", "curl -L", str(tmp_path / "checkpoints")):
        assert part in str(error.value)


def test_a_model_without_weights_says_so_and_names_those_that_have_some():
    with pytest.raises(ValueError, match=r"knows no weights for 'toy-bare_vqa'.*toy-good_caption"):
        get_model("toy-bare_vqa", pretrained=True)


# ----- inference_model -----


@pytest.fixture
def builds(monkeypatch):
    """Counts the models built."""
    count = []
    build = hub._build
    monkeypatch.setattr(hub, "_build", lambda *args: count.append(1) or build(*args))
    return count


def test_one_picture_gives_one_result_and_a_list_gives_a_list():
    assert inference_model("toy-good_caption", RED, device="cpu")["pred_caption"] == "255 0 0"
    results = inference_model("toy-good_caption", [RED, RED], device="cpu", batch_size=2)
    assert [result["pred_caption"] for result in results] == ["255 0 0"] * 2
    assert isinstance(inference_model("toy-good_caption", [RED], device="cpu"), list)


def test_the_second_call_with_a_name_does_not_build_again(builds):
    for prompt in ("a ", "b "):
        assert inference_model("toy-good_caption", RED, device="cpu", prompt=prompt)["pred_caption"].startswith(prompt)
    assert len(builds) == 1


def test_other_constructor_arguments_build_another_model(builds):
    inference_model("toy-good_caption", RED, device="cpu")
    inference_model("toy-good_caption", RED, device="cpu", pretrained=False)
    assert len(builds) == 2


def test_only_the_last_model_is_kept_and_can_be_dropped(builds, monkeypatch):
    inference_model("toy-good_caption", RED, device="cpu")
    inference_model("toy-lost_caption", RED, device="cpu", pretrained=False)
    assert len(hub._inferencers) == 1
    clear_cache()
    assert len(hub._inferencers) == 0
    monkeypatch.setattr(hub, "CACHE_SIZE", 2)
    for _ in range(2):
        inference_model("toy-good_caption", RED, device="cpu")
        inference_model("toy-lost_caption", RED, device="cpu", pretrained=False)
    assert len(builds) == 4


def test_a_failed_build_is_not_kept():
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            inference_model("toy-lost_caption", RED, device="cpu")
    assert not hub._inferencers


def test_a_model_and_a_config_will_do_too(zoo, monkeypatch):
    monkeypatch.setitem(sys.modules["blip2.apis.inferencers"]._TASKS_OF_MODEL, "ToyCaptioner", ("Image Caption",))
    model = init_model(zoo / "toy_caption.py")
    assert inference_model(model, RED)["pred_caption"] == "255 0 0"
    path = zoo / "toy_caption.py"
    assert inference_model(path, RED, pretrained=False, device="cpu")["pred_caption"] == "255 0 0"
    assert inference_model(load_config(path), RED, pretrained=False, device="cpu")["pred_caption"] == "255 0 0"


def test_a_misspelt_call_argument_is_named():
    with pytest.raises(TypeError, match=r"num_beam.*num_beams"):
        inference_model("toy-good_caption", RED, device="cpu", num_beam=3)


@pytest.mark.parametrize(
    ("arguments", "complaint"), [(("toy-good_caption",), "needs a picture"), ((3, RED), "not int")]
)
def test_wrong_calls_are_named(arguments, complaint):
    with pytest.raises(TypeError, match=complaint):
        inference_model(*arguments)


# ----- imports -----


def test_the_package_and_its_configs_come_without_heavy_imports():
    code = (
        "import sys, blip2, blip2.apis; heavy = {'torch', 'timm', 'transformers', 'mmengine.runner'};"
        "print(sorted(heavy & set(sys.modules)));"
        "blip2.load_config('blip2-opt2.7b_8xb32_caption'); blip2.apis.model_entries();"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split("\n")[:2] == ["[]", "[]"]


def test_every_public_name_exists():
    for module in (blip2, blip2.apis):
        for name in module.__all__:
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = blip2.apis.no_such_name
