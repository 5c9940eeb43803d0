"""Parameters and operations of the parts, against sums by hand: a×b times b×c are 2abc operations."""

import pytest

from blip2 import load_config
from blip2.benchmark.complexity import complexity

CAPTION = "blip2-opt2.7b_3rdparty-zeroshot_caption"


def encoder(side, patch, width, layers, ffn):
    tokens = (side // patch) ** 2 + 1
    embedding = 2 * (tokens - 1) * 3 * patch**2 * width
    return embedding + layers * (2 * tokens * width * (4 * width + 2 * ffn) + 4 * tokens**2 * width)


def decoder(tokens, before, width, layers, ffn, vocabulary):
    """`tokens` new ones behind `before`; torch counts all pairs of a causal attention; logits of the last alone."""
    layer = 2 * tokens * width * (4 * width + 2 * ffn) + 4 * tokens * (before + tokens) * width
    return layers * layer + 2 * width * vocabulary


@pytest.mark.parametrize("side", [224, 364])
def test_the_full_size_captioner_is_what_its_shapes_say(side):
    found = complexity(load_config(CAPTION), (side, side), tokens=4)
    vision, qformer, projection, prefill, step = found.parts
    assert vision.flops == encoder(side, 14, 1408, 39, 6144)
    assert projection.flops == 2 * 32 * 768 * 2560
    assert prefill.flops == decoder(36, 0, 2560, 32, 10240, 50272)
    assert step.flops == decoder(1, 36, 2560, 32, 10240, 50272)
    patches = (side // 14) ** 2 + 1
    own = 12 * (2 * 32 * 768 * (4 * 768 + 2 * 3072) + 4 * 32 * 32 * 768)
    cross = 6 * (2 * 2 * patches * 1408 * 768 + 2 * 2 * 32 * 768 * 768 + 4 * 32 * patches * 768)
    assert qformer.flops == own + cross
    assert found.parameters == sum(part.parameters for part in found.parts) == 3_745_216_384
    assert vision.trainable == 2 * 1408  # the layer norm behind the frozen encoder
    assert found.trainable == 2 * 1408 + qformer.parameters + projection.parameters


def test_the_retrieval_model_is_counted_by_picture_text_and_pair():
    found = complexity(load_config("blip2_3rdparty_retrieval"), tokens=12)
    assert found.size == (364, 364)
    assert found.parameters == sum(part.parameters for part in found.parts) == 1_173_191_358
    text, projection, pair = (found.parts[index] for index in (2, 3, 4))
    assert text.flops == 12 * (2 * 12 * 768 * (4 * 768 + 2 * 3072) + 4 * 12 * 12 * 768) + 2 * 768 * 256
    assert projection.flops == 6 * 2 * 2 * 677 * 1408 * 768
    assert (text.each, projection.each, pair.each) == ("text", "picture", "pair")


def test_a_question_that_the_qformer_reads_is_counted():
    config = load_config("blip2-tiny_shapes-vqa")
    few, many = (complexity(config, tokens=tokens).parts[1].flops for tokens in (2, 12))
    assert few < many


def test_a_flan_t5_is_counted_too():
    prefill, step = complexity(load_config("blip2-flant5xl_lavis-coco_caption")).parts[-2:]
    assert prefill.flops > step.flops > 2e9


@pytest.mark.parametrize("arguments", [dict(size=(0, 224)), dict(tokens=0)])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="wanted numbers of 1 or more"):
        complexity(load_config("blip2-tiny_shapes-caption"), **arguments)


def test_another_kind_of_model_is_refused():
    with pytest.raises(TypeError, match="VisionCaptioner is no BLIP-2 model"):
        complexity(load_config("blip2_tiny/blip2-tiny_vision_pretrain.py"))
