"""The metafiles and the pages that are generated from them."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from blip2.apis.metafile import MetafileError, metafiles, model_entries, read_metafile
from blip2.utils.resources import resources_root

SCRIPT = Path(__file__).parents[2] / ".dev_scripts" / "generate_model_pages.py"

MODEL = {
    "Name": "toy_caption",
    "In Collection": "Toy",
    "Metadata": {"Parameters": 12},
    "Results": [
        {"Task": "Image Caption", "Dataset": "A", "Metrics": {"CIDEr": 1.0}},
        {"Task": "Image Caption", "Dataset": "B", "Metrics": {"CIDEr": 2.0}},
    ],
    "Weights": "configs/toy/toy.safetensors",
    "Config": "configs/toy/toy.py",
}


def zoo(root, *models, collections=({"Name": "Toy"},)):
    folder = root / "configs" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text("model = dict()")
    content = {"Collections": list(collections), "Models": list(models)}
    (folder / "metafile.yml").write_text(yaml.safe_dump(content))
    return root


def generator():
    spec = importlib.util.spec_from_file_location("generate_model_pages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_caption_model_is_as_published():
    entry = model_entries()["blip2-opt2.7b_3rdparty-zeroshot_caption"]
    assert (entry.parameters, entry.parameters_built) == (3_770_465_152, 3_745_216_384)
    assert entry.tasks == ("Image Caption",)
    assert entry.results[0].metrics == {"BLEU-4": 32.9, "CIDEr": 111.1}
    assert entry.weights.endswith("blip2-opt2.7b_3rdparty_pretrain_20230505-b51db4e1.pth")
    assert entry.config == resources_root() / "configs/blip2/blip2-opt2.7b_8xb32_caption.py"


@pytest.mark.parametrize(
    ("name", "parameters", "built", "config", "weights", "scores"),
    [
        (
            "blip2-opt2.7b_3rdparty-zeroshot_vqa",
            3_770_465_152,
            3_745_216_384,
            "blip2-opt2.7b_8xb16_vqa.py",
            "blip2-opt2.7b_3rdparty_pretrain_20230505-b51db4e1.pth",
            {"Visual Question Answering": {"Accuracy": 53.5}},
        ),
        (
            "blip2_3rdparty_retrieval",
            1_173_191_358,
            1_173_191_358,
            "blip2_8xb32_retrieval.py",
            "blip2_3rdparty_pretrain_20230505-f7ef4390.pth",
            {"Image-To-Text Retrieval": {"Recall@1": 85.4}, "Text-To-Image Retrieval": {"Recall@1": 68.3}},
        ),
    ],
)
def test_the_other_published_models_are_as_published(name, parameters, built, config, weights, scores):
    entry = model_entries()[name]
    assert (entry.parameters, entry.parameters_built) == (parameters, built)
    assert {result.task: result.metrics for result in entry.results} == scores
    assert entry.weights == f"https://download.openmmlab.com/mmclassification/v1/blip2/{weights}"
    assert entry.config == resources_root() / "configs/blip2" / config


def test_local_weights_lie_below_the_root_and_parameters_default_to_the_published(tmp_path):
    entry = model_entries(zoo(tmp_path, MODEL))["toy_caption"]
    assert entry.weights == str(tmp_path / "configs/toy/toy.safetensors")
    assert entry.parameters_built == entry.parameters == 12
    assert entry.tasks == ("Image Caption",)
    assert [result.dataset for result in entry.results] == ["A", "B"]


def test_what_a_caller_does_to_the_answer_is_not_kept(tmp_path):
    root = zoo(tmp_path, MODEL)
    model_entries(root).clear()
    assert list(model_entries(root)) == ["toy_caption"]


@pytest.mark.parametrize("field", ["Name", "Config", "In Collection"])
def test_a_missing_field_is_named_with_file_and_model(field, tmp_path):
    model = {key: value for key, value in MODEL.items() if key != field}
    with pytest.raises(MetafileError, match=rf"metafile\.yml.*lacks the field '{field}'"):
        model_entries(zoo(tmp_path, model))


def test_a_config_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(MetafileError, match=r"toy_caption, 'configs/toy/gone\.py', does not exist"):
        model_entries(zoo(tmp_path, {**MODEL, "Config": "configs/toy/gone.py"}))


def test_a_name_given_twice_is_an_error(tmp_path):
    with pytest.raises(MetafileError, match="both name a model 'toy_caption'"):
        model_entries(zoo(tmp_path, MODEL, MODEL))


@pytest.mark.parametrize("text", ["Models: [", "- 1", "Models: 3"])
def test_a_file_that_is_no_metafile_is_named(text, tmp_path):
    path = tmp_path / "metafile.yml"
    path.write_text(text)
    with pytest.raises(MetafileError, match=r"metafile\.yml"):
        read_metafile(path)


def test_every_entry_belongs_to_a_collection_of_its_metafile():
    for path in metafiles():
        content = read_metafile(path)
        names = {collection["Name"] for collection in content["Collections"]}
        assert {model["In Collection"] for model in content["Models"]} <= names


# ----- generated pages -----


def test_model_cards_and_index_are_up_to_date():
    for path, text in generator().pages().items():
        stale = f"{path} is out of date: run python .dev_scripts/generate_model_pages.py"
        assert path.is_file() and path.read_text(encoding="utf-8") == text, stale


def test_the_index_names_every_metafile():
    index = yaml.safe_load((resources_root() / "model-index.yml").read_text(encoding="utf-8"))
    assert [resources_root() / path for path in index["Import"]] == metafiles()


def test_a_card_has_the_parts_of_upstreams_form():
    text = (resources_root() / "configs/blip2/README.md").read_text(encoding="utf-8")
    parts = [
        "# BLIP-2",
        "## How to use it",
        "python tools/test.py",
        "## Models and results",
        "converted",
        "## Citation",
    ]
    positions = [text.find(part) for part in parts]
    assert -1 not in positions and positions == sorted(positions)
    for fact in ("3770.47", "3745.22", "32.90", "111.10", "b51db4e1.pth", "25,248,768"):
        assert fact in text


def test_a_card_of_a_model_of_our_own_claims_no_conversion(tmp_path):
    module = generator()
    root = zoo(tmp_path, MODEL)
    (text,) = (text for path, text in module.pages(root).items() if path.name == "README.md")
    assert "converted" not in text and "load_from" not in text
    assert "python tools/test.py configs/toy/toy.py configs/toy/toy.safetensors" in text
    assert "### Image Caption on B" in text and "[model](toy.safetensors)" in text


def test_a_card_shows_how_each_task_is_used_with_the_first_model_that_can(tmp_path):
    other = {"Task": "Visual Question Answering", "Dataset": "Q", "Metrics": {"Accuracy": 3.0}}
    models = [
        MODEL,
        {**MODEL, "Name": "toy_vqa", "Results": [other], "Converted From": {"Code": "https://x.org/code"}},
        {**MODEL, "Name": "toy_vqa_2", "Results": [other]},
    ]
    texts = {path.parent.name: text for path, text in generator().pages(zoo(tmp_path, *models)).items()}
    card = texts["toy"]
    assert "blip2 caption picture.jpg --model toy_caption" in card
    assert 'blip2 vqa picture.jpg "what is on the table?" --model toy_vqa`' in card and "blip2 match" not in card
    assert card.count("python tools/test.py configs/toy/toy.py configs/toy/toy.safetensors") == 1
    assert "`toy_vqa` from weights of [this code](https://x.org/code)" in card


def test_python_in_the_cards_is_valid():
    for path in metafiles():
        card = (path.parent / "README.md").read_text(encoding="utf-8")
        for block in card.split("```python\n")[1:]:
            compile(block.split("```")[0], str(path), "exec")


# ----- the published family -----

LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
FAMILY = {
    "blip2-opt2.7b_lavis-zeroshot_vqa": ("blip2_pretrained_opt2.7b", "blip2-opt-2.7b", 3_744_625_024),
    "blip2-opt2.7b_lavis-coco_caption": ("blip2_caption_opt2.7b", "blip2-opt-2.7b-coco", 3_745_216_384),
    "blip2-opt6.7b_lavis-zeroshot_vqa": ("blip2_pretrained_opt6.7b", "blip2-opt-6.7b", 7_752_683_392),
    "blip2-opt6.7b_lavis-coco_caption": ("blip2_caption_opt6.7b", "blip2-opt-6.7b-coco", 7_753_274_752),
    "blip2-flant5xl_lavis-zeroshot_vqa": ("blip2_pretrained_flant5xl", "blip2-flan-t5-xl", 3_942_391_680),
    "blip2-flant5xl-vitl_lavis-zeroshot_vqa": ("blip2_pretrained_flant5xl_vitL", None, 3_243_538_944),
    "blip2-flant5xl_lavis-coco_caption": ("blip2_caption_flant5xl", "blip2-flan-t5-xl-coco", 3_942_983_040),
    "blip2-flant5xxl_lavis-zeroshot_vqa": ("blip2_pretrained_flant5xxl", "blip2-flan-t5-xxl", 12_229_541_760),
    "blip2_lavis-pretrain_retrieval": ("blip2_pretrained", "blip2-itm-vit-g", 1_172_599_998),
    "blip2-vitl_lavis-pretrain_retrieval": ("blip2_pretrained_vitL", None, 473_747_262),
    "blip2_lavis-coco_retrieval": ("blip2_finetune_coco", "blip2-itm-vit-g-coco", 1_173_191_358),
}


def test_the_family_that_lavis_publishes_is_complete():
    entries = {name: entry for name, entry in model_entries().items() if "_lavis-" in name}
    found = {
        name: (
            entry.weights.removeprefix(LAVIS).removesuffix(".pth"),
            entry.other_sources[0].removeprefix("hf://Salesforce/") if entry.other_sources else None,
            entry.parameters_built,
        )
        for name, entry in entries.items()
    }
    assert found == FAMILY
    for name, entry in entries.items():
        frozen = "zeroshot" in name or "pretrain" in name
        encoder = f"{LAVIS}{'clip_vit_L' if 'vitl' in name else 'eva_vit_g'}.pth"
        assert entry.image_encoder == (encoder if frozen else None)
        assert entry.license.note and (entry.license.language_model is None) is ("retrieval" in name)


@pytest.mark.parametrize(
    ("model", "scores"),
    [
        ("opt2.7b", (53.5, 52.3, 31.7, 34.6)),
        ("opt6.7b", (54.3, 52.6, 36.4, 36.4)),
        ("flant5xl-vitl", (62.6, 62.3, 39.4, 44.4)),
        ("flant5xl", (63.1, 63.0, 40.7, 44.2)),
        ("flant5xxl", (65.2, 65.0, 45.9, 44.7)),
    ],
)
def test_answers_score_as_the_paper_has_it(model, scores):
    """Table 2 of arXiv 2301.12597: VQAv2 val and test-dev, OK-VQA, GQA."""
    results = [
        item for item in model_entries()[f"blip2-{model}_lavis-zeroshot_vqa"].results if item.protocol == "paper"
    ]
    datasets = ("VQAv2 (val)", "VQAv2 (test-dev)", "OK-VQA (test)", "GQA (balanced test-dev)")
    assert {item.dataset: item.metrics["Accuracy"] for item in results} == dict(zip(datasets, scores, strict=True))


def test_a_protocol_and_a_config_of_a_score_are_read(tmp_path):
    result = {**MODEL["Results"][0], "Protocol": "paper", "Config": "configs/toy/toy.py"}
    entry = model_entries(zoo(tmp_path / "a", {**MODEL, "Results": [result]}))["toy_caption"]
    assert (entry.results[0].protocol, entry.results[0].config) == ("paper", tmp_path / "a/configs/toy/toy.py")
    with pytest.raises(MetafileError, match=r"toy_caption, 'configs/toy/gone\.py', does not exist"):
        model_entries(zoo(tmp_path / "b", {**MODEL, "Results": [{**result, "Config": "configs/toy/gone.py"}]}))
