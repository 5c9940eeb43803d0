"""`ImageCaptionInferencer` around a tiny `Blip2Caption` with random weights."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from mmengine.model import BaseModel
from PIL import Image

from blip2.apis import inference_model
from blip2.apis.inferencers import ImageCaptionInferencer
from blip2.models.blip2_generative import GenerationOptions
from blip2.registry import DATASETS


@pytest.fixture(scope="module")
def config(tiny_config) -> Config:
    return tiny_config("Blip2Caption", prompt="a", max_txt_len=6)


@pytest.fixture(scope="module")
def model(config, build) -> BaseModel:
    return build(config)


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


def test_each_picture_can_have_its_own_prompt(model, pictures) -> None:
    inferencer = ImageCaptionInferencer(model)
    prompts = ["a red", "a", "a blue square above"]
    together = inferencer(pictures[:3], batch_size=3, prompt=prompts)
    alone = [inferencer(picture, prompt=text)[0] for picture, text in zip(pictures, prompts, strict=False)]
    assert [result["pred_caption"] for result in together] == [result["pred_caption"] for result in alone]
    assert alone[0] != inferencer(pictures[0], prompt="a")[0], "the prompt matters"
    scores = torch.tensor([[result["pred_score"] for result in results] for results in (together, alone)])
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)


def test_prompts_that_do_not_match_the_pictures_are_refused(model, pictures) -> None:
    inferencer = ImageCaptionInferencer(model)
    with pytest.raises(ValueError, match="prompt is a list of 2 for 3 pictures"):
        inferencer(pictures[:3], prompt=["a", "b"])
    with pytest.raises(TypeError, match=r"prompt\[1\] is 3; wanted a text"):
        inferencer(pictures[:2], prompt=["a", 3])


def test_a_folder_gives_a_list(model, pictures, tmp_path) -> None:
    Image.fromarray(pictures[0]).save(tmp_path / "one.png")
    results = inference_model(model, str(tmp_path))
    assert results == [inference_model(model, tmp_path / "one.png")]
