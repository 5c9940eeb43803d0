"""`ImageCaptionInferencer` around a tiny `Blip2Caption` with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from PIL import Image
from tokenizers import ByteLevelBPETokenizer

from blip2.apis import get_model, inference_model, load_config
from blip2.apis.inferencers import ImageCaptionInferencer
from blip2.models.blip2_generative import GenerationOptions
from blip2.registry import DATASETS


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(["a red circle above a blue square"], vocab_size=290, special_tokens=special)
    tokenizer.save_model(str(folder))
    tokens = {"unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    about = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    arch = {"embed_dims": 24, "num_layers": 2, "num_heads": 2, "feedforward_channels": 48}
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (28, 28), "interpolation": "bicubic", "backend": "pillow"},
        {"type": "PackInputs", "meta_keys": ["image_id"]},
    ]
    return load_config(
        Config(
            {
                "model": {
                    "type": "Blip2Caption",
                    "tokenizer": {"type": "AutoTokenizer", "name_or_path": str(folder)},
                    "vision_backbone": {
                        "type": "BEiTViT",
                        "arch": arch,
                        "img_size": 28,
                        "patch_size": 14,
                        "out_type": "raw",
                    },
                    "multimodal_backbone": {
                        "type": "Qformer",
                        "vision_model_width": 24,
                        "num_query_token": 4,
                        "hidden_size": 32,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 4,
                        "intermediate_size": 64,
                    },
                    "vision_neck": {"type": "LinearClsHead", "in_channels": 32, "num_classes": 32},
                    "text_backbone": {
                        "type": "OPTForCausalLM",
                        "vocab_size": 304,
                        "hidden_size": 32,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 4,
                        "ffn_dim": 64,
                        "max_position_embeddings": 64,
                    },
                    "prompt": "a",
                    "max_txt_len": 6,
                },
                "data_preprocessor": {
                    "type": "MultiModalDataPreprocessor",
                    "mean": [122.770938, 116.7460125, 104.09373615],
                    "std": [68.5005327, 66.6321579, 70.32316305],
                    "to_rgb": True,
                },
                "test_dataloader": {"dataset": {"type": "ImageTextDataset", "pipeline": pipeline}},
            }
        )
    )


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    model = get_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # large enough for pictures to differ in their captions
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (40, 30, 3), dtype=np.uint8) // (1 + number) for number in range(5)]


def test_captions_are_those_of_the_dataset_and_the_model_alone(config, model, pictures, tmp_path) -> None:
    for number, picture in enumerate(pictures):
        Image.fromarray(picture[:, :, ::-1]).save(tmp_path / f"{number}.png")
    dataset = DATASETS.build({**config.test_dataloader.dataset, "data_root": str(tmp_path), "test_mode": True})
    alone = [model.test_step(pseudo_collate([dataset[index]]))[0] for index in range(len(dataset))]
    results = ImageCaptionInferencer(model)(pictures, batch_size=2)
    assert [result["pred_caption"] for result in results] == [sample.pred_caption for sample in alone]
    assert len({result["pred_caption"] for result in results}) > 1, "pictures are told apart"
    scores = torch.tensor([result["pred_score"] for result in results])
    torch.testing.assert_close(scores, torch.tensor([sample.pred_score for sample in alone]), atol=1e-5, rtol=1e-5)


def test_every_generation_option_is_an_argument_of_the_call(model, pictures) -> None:
    inferencer = ImageCaptionInferencer(model)
    assert inferencer.forward_kwargs == set(GenerationOptions.__dataclass_fields__)
    (result,) = inferencer(
        pictures[0],
        num_beams=3,
        num_captions=2,
        prompt="a red",
        max_txt_len=4,
        min_length=2,
        length_penalty=2.0,
        repetition_penalty=1.5,
    )
    assert len(result["pred_caption"]) == 2 and result["pred_score"][0] < 0
    sampled = [inferencer(pictures[0], do_sample=True, top_p=0.9, temperature=2.0, seed=7) for _ in range(2)]
    assert sampled[0] == sampled[1]
    with pytest.raises(ValueError, match="num_captions=9 is more than num_beams=2"):
        inferencer(pictures[0], num_captions=9, num_beams=2)


def test_misspelt_option_is_answered_with_the_nearest(model, pictures) -> None:
    with pytest.raises(TypeError, match=r"'lenght_penalty'\. Did you mean 'length_penalty'"):
        ImageCaptionInferencer(model)(pictures[0], lenght_penalty=2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full_precision(config, model, pictures, precision: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(model.state_dict(), weights)
    inferencer = ImageCaptionInferencer(config, pretrained=weights, device="cpu", precision=precision)
    assert inferencer.model.text_backbone.lm_head.weight.dtype != torch.float32
    assert inferencer.model.ln_vision_backbone.weight.dtype == torch.float32
    sampled = {"num_beams": 1, "max_txt_len": 1, "min_length": 0}
    half = inferencer(pictures, batch_size=5, **sampled)
    full = ImageCaptionInferencer(model)(pictures, batch_size=5, **sampled)
    for ours, exact in zip(half, full, strict=True):
        assert ours["pred_score"] == pytest.approx(exact["pred_score"], abs=0.1)


def test_inference_model_gives_one_result_for_one_picture(model, pictures) -> None:
    expected = ImageCaptionInferencer(model)(pictures[:2])
    assert inference_model(model, pictures[0]) == expected[0]
    assert inference_model(model, pictures[:2], batch_size=2)[1]["pred_caption"] == expected[1]["pred_caption"]
