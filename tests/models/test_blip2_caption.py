"""What `Blip2Caption` does with captions, options, precision and frozen parts."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.testing import assert_close

from blip2.models import Blip2Caption, MultiModalDataPreprocessor
from blip2.structures import DataSample


def pictures(rows=2, seed=0):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def samples(*captions):
    return [DataSample(gt_caption=caption) for caption in captions]


@pytest.fixture
def model(caption_model, liven):
    model = caption_model().eval()
    liven(model, 0, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
    return model


# ----- frozen parts -----


def test_frozen_parts_stay_bit_identical_and_cost_nothing(caption_model):
    torch.manual_seed(0)
    model = caption_model()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    wrapper = OptimWrapper(optimizer)
    for step in range(2):
        model.train()
        data = {"inputs": list(pictures(seed=step)), "data_samples": samples("a red boat", "two birds")}
        model.train_step(data, wrapper)

    frozen = ("vision_backbone.", "text_backbone.")
    for name, value in model.state_dict().items():
        if name.startswith(frozen) or name.endswith("position_ids"):
            assert torch.equal(value, before[name]), name
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {
        "query_tokens",
        "ln_vision_backbone",
        "multimodal_backbone",
        "vision_neck",
    }
    changed = {name for name in trained if not torch.equal(model.get_parameter(name), before[name])}
    assert trained - changed == set()
    model(pictures(), samples("a red boat", "two birds"), mode="loss")["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained)
        assert (parameter in optimizer.state) == (name in trained)
    for name, module in model.named_modules():
        assert module.training != f"{name}.".startswith(frozen), name


def test_vision_backbone_trains_if_its_config_says_so(caption_config, caption_model):
    vision = {**caption_config()["vision_backbone"], "frozen_stages": -1}
    model = caption_model(vision_backbone=vision).train()
    model.loss(pictures(), samples("a red boat", "two birds"))["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.vision_backbone.parameters())
    assert all(parameter.grad is None for parameter in model.text_backbone.parameters())
    assert model.vision_backbone.training and not model.text_backbone.training


def test_partly_frozen_vision_backbone(caption_config, caption_model):
    vision = {**caption_config()["vision_backbone"], "frozen_stages": 1}
    model = caption_model(vision_backbone=vision).train()
    layers = model.vision_backbone.layers
    assert (layers[0].training, layers[1].training) == (False, True)


def test_frozen_vision_backbone_records_nothing_for_the_backward_pass(model):
    features = model.vision_backbone(pictures())[-1]
    assert not features.requires_grad and features.grad_fn is None


# ----- loss -----


def test_loss_of_all_captions_at_once_equals_the_captions_one_by_one(caption_model, liven):
    captions = [["a red boat", "a small blue cup stands"], ["two birds fly away", "a hill", "one bird"]]
    together = caption_model(captions_per_picture="all", max_txt_len=40).eval()
    liven(together, 1)
    pairs = [(index, caption) for index, row in enumerate(captions) for caption in row]
    alone = [
        (together.loss(pictures()[index : index + 1], samples(caption))["loss"], tokens(together, caption))
        for index, caption in pairs
    ]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    assert_close(together.loss(pictures(), samples(*captions))["loss"], expected, atol=1e-5, rtol=1e-5)


def tokens(model, caption):
    prompt, text = model.tokenizer.encode(["a photo of", f"a photo of {caption}\n"])
    return len(text) - len(prompt)


def test_gradients_of_all_captions_at_once_equal_those_of_repeated_pictures(caption_model, liven):
    captions = [["a red boat", "a small blue cup"], ["two birds fly away", "a hill"]]
    together = caption_model(captions_per_picture="all", max_txt_len=40).eval()
    liven(together, 1)
    repeated = copy.deepcopy(together)
    together.loss(pictures(), samples(*captions))["loss"].backward()
    flat = samples(*(caption for row in captions for caption in row))
    repeated.loss(pictures().repeat_interleave(2, 0), flat)["loss"].backward()
    for (name, one), other in zip(together.named_parameters(), repeated.parameters(), strict=True):
        if one.requires_grad:
            assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_one_of_several_captions_is_drawn_in_training_and_the_first_taken_in_eval(model):
    sample = DataSample(gt_caption=["a cup", "a bird", "a hill"])
    model.eval()
    assert {tuple(model._captions(sample)) for _ in range(10)} == {("a cup",)}
    model.train()
    assert {tuple(model._captions(sample)) for _ in range(40)} == {("a cup",), ("a bird",), ("a hill",)}
    torch.manual_seed(0)
    drawn = [model._captions(sample) for _ in range(5)]
    torch.manual_seed(0)
    assert drawn == [model._captions(sample) for _ in range(5)]
    model.captions_per_picture = 2
    assert len(set(model._captions(sample))) == 2
    model.captions_per_picture = 9
    assert len(set(model._captions(sample))) == 3


def test_training_text_is_prompt_caption_and_line_feed_cut_at_max_txt_len(model):
    (lesson,) = model._lessons(["a boat", "a boat " * 20])
    whole, cut = lesson.texts
    assert model.tokenizer.decode([[*lesson.given, *whole], lesson.given]) == ["a photo of a boat\n", "a photo of"]
    assert [[*lesson.given, *whole]] == model.tokenizer.encode(["a photo of a boat\n"])
    assert len(cut) == model.options.max_txt_len
    model.options = model._options({"prompt": ""})
    (lesson,) = model._lessons(["a boat"])
    assert (model.tokenizer.decode(lesson.texts), len(lesson.given)) == (["a boat\n"], 1)


def test_spaces_after_the_prompt_make_no_difference(model):
    ids = model.generate(pictures(), model._options({"prompt": "a photo of"})).sequences
    assert torch.equal(ids, model.generate(pictures(), model._options({"prompt": "a photo of  "})).sequences)


def test_samples_without_captions_are_named(model):
    with pytest.raises(ValueError, match=r"cat\.png.*gt_caption.*PackInputs"):
        model.loss(pictures(1), [DataSample(metainfo={"img_path": "cat.png"})])
    with pytest.raises(ValueError, match="2 pictures came with 0"):
        model.loss(pictures(), None)


def test_texts_beyond_the_positions_of_the_language_model_are_an_error(model):
    model.options = model._options({"max_txt_len": 100})
    with pytest.raises(ValueError, match=r"tokens .* exceed the 64 positions"):
        model.loss(pictures(1), samples("a small blue cup " * 30))


# ----- predict -----


def test_predict_writes_caption_and_length_normalised_log_probability(model):
    found = model.predict(pictures(), given := [DataSample(image_id=3), DataSample(image_id=4)])
    assert found == given
    output = model.generate(pictures(), model.options)
    for row, sample in enumerate(found):
        length = int(output.lengths[row])
        text = model.tokenizer.decode([output.sequences[row, :length].tolist()])[0]
        assert sample.pred_caption == text.strip()
        assert isinstance(sample.pred_score, float)
        assert sample.pred_score == pytest.approx(float(output.log_probs[row]) / length)


def test_as_many_data_samples_as_pictures_are_needed(model):
    with pytest.raises(ValueError, match="2 pictures came with 1 data samples"):
        model.predict(pictures(), [DataSample()])


def test_several_captions_come_as_lists_the_best_first(model):
    (sample,) = model.predict(pictures(1), num_captions=3)
    assert len(sample.pred_caption) == len(sample.pred_score) == 3
    assert sample.pred_score == sorted(sample.pred_score, reverse=True)
    assert sample.pred_caption[0] == model.predict(pictures(1))[0].pred_caption


def test_forward_hands_overrides_to_predict(model):
    images = pictures(1)
    for overrides in (
        {"num_beams": 1},
        {"max_txt_len": 3},
        {"prompt": "two"},
        {"min_length": 5, "length_penalty": 2.0},
    ):
        ours = model(images, mode="predict", **overrides)[0]
        assert ours.pred_caption == model.predict(images, **overrides)[0].pred_caption
    assert model.generate(images, model._options({"max_txt_len": 3})).lengths.max() <= 3
    assert model.options == model._options({})  # overrides are for one call


def test_nucleus_sampling_is_repeatable_by_seed(model):
    def captions(seed):
        found = model.predict(pictures(), do_sample=True, num_captions=4, temperature=3.0, top_p=1.0, seed=seed)
        return [sample.pred_caption for sample in found]

    assert captions(1) == captions(1) != captions(2)


def test_predictions_do_not_depend_on_the_batch(model):
    together = [sample.pred_caption for sample in model.predict(pictures(4))]
    alone = [model.predict(image[None])[0].pred_caption for image in pictures(4)]
    assert together == alone


def test_test_step_takes_what_the_pipeline_gives(model):
    data = {"inputs": [torch.zeros(3, 28, 28, dtype=torch.uint8)], "data_samples": [DataSample(image_id=1)]}
    (sample,) = model.test_step(data)
    assert isinstance(sample.pred_caption, str) and sample.image_id == 1


def test_tensor_mode_gives_what_the_language_model_reads(model):
    assert model(pictures()).shape == (2, 6, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_language_model_and_vision_backbone_may_have_a_lower_precision(model, dtype):
    expected = model.loss(pictures(), samples("a boat", "a cup"))["loss"]
    model.vision_backbone.to(dtype)
    model.text_backbone.to(dtype)
    assert_close(model.loss(pictures(), samples("a boat", "a cup"))["loss"], expected, atol=0.3, rtol=0.1)
    assert isinstance(model.predict(pictures())[0].pred_caption, str)


def test_autocast_trains_and_predicts(model):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train().loss(pictures(), samples("a boat", "a cup"))["loss"]
        model.eval().predict(pictures())
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


# ----- building -----


def test_parts_may_be_ready_modules(model, caption_config):
    config = caption_config()
    parts = {
        name: getattr(model, name)
        for name in ("vision_backbone", "text_backbone", "multimodal_backbone", "vision_neck", "tokenizer")
    }
    again = Blip2Caption(**{**{k: v for k, v in config.items() if k != "type"}, **parts})
    assert again.text_backbone is model.text_backbone and again.tokenizer is model.tokenizer


def test_data_preprocessor_needs_no_type(caption_model):
    model = caption_model(data_preprocessor={"mean": [1.0, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "to_rgb": True})
    assert isinstance(model.data_preprocessor, MultiModalDataPreprocessor) and model.data_preprocessor.to_rgb
    assert isinstance(caption_model().data_preprocessor, MultiModalDataPreprocessor)


def test_building_needs_no_tokenizer_files(caption_config, caption_model):
    model = caption_model(tokenizer={"type": "AutoTokenizer", "name_or_path": "no/such-folder"})
    assert isinstance(model.text_backbone, nn.Module)
    with pytest.raises(FileNotFoundError, match="no/such-folder"):
        model.predict(pictures())
    with pytest.raises(ValueError, match="without a tokenizer"):
        caption_model(tokenizer=None).predict(pictures())


def test_tokenizer_larger_than_the_vocabulary_is_an_error(caption_config, caption_model):
    small = {**caption_config()["text_backbone"], "vocab_size": 200}
    with pytest.raises(ValueError, match=r"300 tokens.*only 200"):
        caption_model(text_backbone=small).predict(pictures())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"num_captions": 6}, "num_captions=6.*num_beams=5"),
        ({"max_txt_len": 0}, "max_txt_len=0"),
        ({"top_p": 2.0}, "top_p=2.0"),
        ({"captions_per_picture": 0}, "captions_per_picture=0"),
    ],
)
def test_impossible_options_are_named_when_the_model_is_built(caption_model, wrong, named):
    with pytest.raises(ValueError, match=named):
        caption_model(**wrong)


def test_unknown_overrides_are_named_with_the_nearest(model):
    with pytest.raises(ValueError, match=r"num_beam'.*did you mean 'num_beams'"):
        model.predict(pictures(), num_beam=3)
    with pytest.raises(TypeError, match=r"num_beams .*mode='predict'"):
        model(pictures(), mode="tensor", num_beams=3)
    with pytest.raises(ValueError, match=r"mode='losses'.*did you mean 'loss'"):
        model(pictures(), mode="losses")
    with pytest.raises(TypeError, match="num_beam"):
        Blip2Caption(num_beam=3)
