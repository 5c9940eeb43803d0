"""From pictures to captions, around a captioner that says the picture's mean colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from PIL import Image

from blip2.apis import get_model, load_config
from blip2.apis.inferencers import BadInputsError, ImageCaptionInferencer, inferencer_for
from blip2.apis.inferencers.placement import store_weights_in
from blip2.structures import DataSample
from blip2.utils.errors import ImageError

DATA = Path(__file__).parents[1] / "data"
CONFIG = DATA / "toy_captioner_config.py"


@pytest.fixture(autouse=True)
def toy_is_importable(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))


@pytest.fixture
def inferencer() -> ImageCaptionInferencer:
    return ImageCaptionInferencer(CONFIG, pretrained=False, device="cpu")


def colour(red: int, green: int, blue: int) -> np.ndarray:
    """A picture of one colour in OpenCV's order."""
    return np.full((5, 7, 3), (blue, green, red), np.uint8)


def captions(results: list[dict]) -> list[str]:
    return [result["pred_caption"] for result in results]


RED, GREEN, BLUE = colour(255, 0, 0), colour(0, 255, 0), colour(0, 0, 255)


def test_result_is_a_list_of_caption_and_score(inferencer) -> None:
    assert inferencer(RED) == [{"pred_caption": "255 0 0", "pred_score": -0.5}]


def test_array_is_taken_as_bgr_tensor_and_pil_as_rgb(inferencer) -> None:
    rgb = np.ascontiguousarray(RED[:, :, ::-1])
    same = [RED, Image.fromarray(rgb), torch.from_numpy(rgb).permute(2, 0, 1)]
    assert captions(inferencer(same)) == ["255 0 0"] * 3


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
def test_order_is_kept_and_the_last_batch_may_be_smaller(inferencer, batch_size: int, num_workers: int) -> None:
    pictures = [colour(value, 0, 0) for value in range(7)]
    results = inferencer(pictures, batch_size=batch_size, num_workers=num_workers)
    assert captions(results) == [f"{value} 0 0" for value in range(7)]
    sizes = inferencer.model.batch_sizes
    assert sum(sizes) == 7 and set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size


def test_several_captions_come_as_lists(inferencer) -> None:
    (result,) = inferencer(RED, num_captions=3)
    assert len(result["pred_caption"]) == len(result["pred_score"]) == 3


def test_generation_arguments_hold_for_one_call_only(inferencer) -> None:
    assert captions(inferencer(RED, prompt="mean ")) == ["mean 255 0 0"]
    assert captions(inferencer(RED)) == ["255 0 0"]


def test_datasamples_are_returned_on_request(inferencer, tmp_path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (7, 5), "red").save(path)
    (sample,) = inferencer(path, return_datasamples=True)
    assert isinstance(sample, DataSample)
    assert (sample.pred_caption, sample.img_path, tuple(sample.ori_shape)) == ("255 0 0", str(path), (5, 7))


def test_folder_is_captioned_in_natural_order(inferencer, tmp_path) -> None:
    for number in (10, 9, 1):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    assert captions(inferencer(str(tmp_path))) == ["1 0 0", "9 0 0", "10 0 0"]


@pytest.mark.parametrize(("name", "nearest"), [("num_beam", "num_beams"), ("showdir", "show_dir"), ("promt", "prompt")])
def test_unknown_argument_is_named_with_the_nearest(inferencer, name: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=rf"{name!r}\. Did you mean .*{nearest!r}"):
        inferencer(RED, **{name: 1})
    assert inferencer.model.batch_sizes == []


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", True])
def test_wrong_batch_size_is_refused(inferencer, batch_size) -> None:
    with pytest.raises(ValueError, match="batch_size="):
        inferencer([RED], batch_size=batch_size)


def test_wrong_inputs_are_refused_before_any_work(inferencer, tmp_path) -> None:
    with pytest.raises(ValueError, match="empty list"):
        inferencer([])
    with pytest.raises(TypeError, match=r"images\[2\] is a int"):
        inferencer([RED, GREEN, 3])
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.png"):
        inferencer([RED, tmp_path / "gone.png"])
    assert inferencer.model.batch_sizes == []


def test_corrupt_picture_in_a_list_is_named_and_nothing_else_is_lost(inferencer, tmp_path) -> None:
    corrupt = tmp_path / "corrupt.png"
    Image.new("RGB", (64, 64), "red").save(corrupt)
    corrupt.write_bytes(corrupt.read_bytes()[:60])
    pictures = [RED, corrupt, GREEN, np.zeros((2, 2), np.int64), BLUE]
    with pytest.raises(BadInputsError) as caught:
        inferencer(pictures, batch_size=2)
    message = str(caught.value)
    assert "2 of 5 pictures" in message
    assert f"images[1] ({corrupt}): it is corrupt" in message and "images[3] (array 2×2 int64)" in message
    assert set(caught.value.failures) == {1, 3}
    done = [result.get("pred_caption") for result in caught.value.results]
    assert done == ["255 0 0", None, "0 255 0", None, "0 0 255"]


def test_single_corrupt_picture_raises_its_own_error(inferencer) -> None:
    with pytest.raises(ImageError, match="empty"):
        inferencer(b"")


def test_errors_can_be_returned_in_the_place_of_results(inferencer, tmp_path) -> None:
    results = inferencer([RED, b"junk", tmp_path / "gone.png", BLUE], batch_size=4, on_error="return")
    assert captions([results[0], results[3]]) == ["255 0 0", "0 0 255"]
    assert "not a picture" in results[1]["error"] and "gone.png" in results[2]["error"]
    samples = inferencer([b"junk", RED], on_error="return", return_datasamples=True)
    assert "error" in samples[0] and "pred_caption" not in samples[0] and samples[1].pred_caption == "255 0 0"
    with pytest.raises(ValueError, match="on_error='skip'"):
        inferencer(RED, on_error="skip")


def test_batch_of_unreadable_pictures_alone_skips_the_model(inferencer) -> None:
    results = inferencer([b"", b"", RED], batch_size=2, on_error="return")
    assert ["error" in result for result in results] == [True, True, False]
    assert inferencer.model.batch_sizes == [1]


def test_stream_hands_out_each_batch_before_the_next_is_made(inferencer) -> None:
    stream = inferencer.stream([RED, GREEN, BLUE], batch_size=1)
    assert next(stream).data_sample.pred_caption == "255 0 0"
    assert inferencer.model.batch_sizes == [1]
    assert [prediction.index for prediction in stream] == [1, 2]


def test_show_dir_gets_a_picture_for_each_input(inferencer, tmp_path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (96, 96), "red").save(tmp_path / folder / "x.png")
    out = tmp_path / "out"
    inferencer([tmp_path / "a" / "x.png", str(tmp_path / "b" / "x.png"), RED], show_dir=out, draw_score=True)
    assert sorted(path.name for path in out.iterdir()) == ["picture_0002.png", "x.png", "x_2.png"]
    drawn = np.asarray(Image.open(out / "x.png"))
    assert (drawn[10, 10] == (255, 0, 0)).all(), "drawn in RGB"
    assert drawn.shape[0] > drawn.shape[1] == 384


def test_model_instance_is_taken_as_it_is() -> None:
    model = get_model(CONFIG).train()
    inferencer = ImageCaptionInferencer(model)
    assert inferencer.model is model and not model.training
    assert captions(inferencer(RED)) == ["255 0 0"]
    with pytest.raises(TypeError, match=r"'prompt'.*ToyCaptioner is built already"):
        ImageCaptionInferencer(model, prompt="x")


def test_weights_are_loaded_into_an_instance_by_path(tmp_path) -> None:
    model = get_model(CONFIG)
    state = {key: torch.full_like(value, 3.0) for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    ImageCaptionInferencer(model, pretrained=str(tmp_path / "weights.pth"))
    assert model.scale.weight.item() == 3.0


def test_config_object_and_overrides_build_a_model() -> None:
    inferencer = ImageCaptionInferencer(load_config(CONFIG), pretrained=False, prompt="seen: ")
    assert captions(inferencer(RED)) == ["seen: 255 0 0"]


def test_model_of_unknown_origin_is_refused_with_a_way_out() -> None:
    model = get_model(CONFIG)
    del model._config
    with pytest.raises(ValueError, match=r"ToyCaptioner does not know its config.*get_model"):
        ImageCaptionInferencer(model)


def test_config_without_test_pipeline_is_refused() -> None:
    config = load_config(CONFIG)
    config._cfg_dict.pop("test_dataloader")
    with pytest.raises(ValueError, match=r"no test_dataloader.dataset.pipeline"):
        ImageCaptionInferencer(config, pretrained=False)


def test_unknown_model_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"blip2-opt2.7b"):
        ImageCaptionInferencer("blip2-opt2.7b_8xb32_captoin")


def test_options_of_the_configs_loader_hold_for_pictures_in_memory() -> None:
    config = load_config(CONFIG)
    pipeline = config.test_dataloader.dataset.pipeline
    pipeline[0].update(to_float32=True, color_type="color_ignore_orientation")
    pipeline[1]["backend"] = "cv2"  # mmcv's pillow backend takes no floats
    inferencer = ImageCaptionInferencer(config, pretrained=False)
    assert inferencer.pipeline(RED)["inputs"].dtype == torch.float32
    image = Image.new("RGB", (4, 8))
    image.getexif()[0x0112] = 6
    assert inferencer.pipeline.load(image).shape == (8, 4, 3)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "nonsense:0"])
def test_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=device):
        ImageCaptionInferencer(CONFIG, pretrained=False, device=device)


def test_device_is_cuda_where_there_is_one() -> None:
    inferencer = ImageCaptionInferencer(CONFIG, pretrained=False)
    assert inferencer.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_sets_products_and_stored_weights_but_not_norms(precision: str, dtype: torch.dtype) -> None:
    inferencer = ImageCaptionInferencer(CONFIG, pretrained=False, device="cpu", precision=precision)
    inferencer(RED)
    model = inferencer.model
    assert (model.product_dtype, model.scale.weight.dtype, model.norm.weight.dtype) == (dtype, dtype, torch.float32)


def test_precision_leaves_the_weights_of_an_instance_alone() -> None:
    model = get_model(CONFIG)
    ImageCaptionInferencer(model, precision="bf16")(RED)
    assert model.product_dtype == torch.bfloat16 and model.scale.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="'int8' is none of fp32, bf16, fp16"):
        ImageCaptionInferencer(model, precision="int8")


def test_tied_weights_stay_tied_in_half_precision() -> None:
    embedding, head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    store_weights_in(torch.nn.ModuleList([embedding, head]), "bf16")
    assert head.weight is embedding.weight and head.weight.dtype == torch.bfloat16


def test_device_map_asks_for_its_package_or_works(monkeypatch) -> None:
    monkeypatch.setattr("blip2.apis.inferencers.placement.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        ImageCaptionInferencer(CONFIG, pretrained=False, device_map="auto")
    with pytest.raises(ValueError, match="exclude each other"):
        ImageCaptionInferencer(CONFIG, pretrained=False, device="cpu", device_map="auto")


def test_inferencer_is_found_by_task_and_by_model() -> None:
    assert inferencer_for("Image Caption") is ImageCaptionInferencer
    caption_model = type("Blip2Caption", (BaseModel,), {"forward": lambda self: None})
    assert inferencer_for(type("MyCaptioner", (caption_model,), {})()) is ImageCaptionInferencer
    assert inferencer_for(caption_model) is ImageCaptionInferencer
    with pytest.raises(ValueError, match="'Image Captoin' is neither a task"):
        inferencer_for("Image Captoin")
    with pytest.raises(ValueError, match="no inferencer is known for ToyCaptioner"):
        inferencer_for(get_model(CONFIG))
