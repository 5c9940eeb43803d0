"""`--compile`: the same answers, and without a compiler the model as it is."""

import logging

import pytest
import torch

from blip2.models import compiled
from blip2.models.compiled import compile_encoders
from blip2.structures import DataSample


@pytest.fixture
def model(caption_model, liven):
    built = caption_model(num_beams=3).eval()
    liven(built, 4, lm=built.text_backbone, eos=built.tokenizer.token_id("\n"))
    return built


@pytest.fixture
def logged(monkeypatch):
    told = []
    monkeypatch.setattr(compiled, "print_log", lambda text, logger, level: told.append((level, text)))
    return told


def captions(model, rows=3):
    images = torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return [sample.pred_caption for sample in model.predict(images, [DataSample() for _ in range(rows)])]


def test_compiled_encoders_caption_alike_and_keep_their_keys(model, logged):
    expected, keys = captions(model), list(model.state_dict())
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_encoders(model, backend=backend)
    assert captions(model) == expected and captions(model) == expected
    assert len(graphs) >= 2 and logged == []
    assert list(model.state_dict()) == keys


def test_where_nothing_can_be_compiled_it_goes_on_and_says_so_once_a_part(model, logged):
    def backend(graph, inputs):
        raise RuntimeError("no C++ compiler")

    expected = captions(model)
    compile_encoders(model, backend=backend)
    assert captions(model) == expected and captions(model) == expected
    assert [level for level, _ in logged] == [logging.WARNING] * 2
    assert [text.partition(" ")[0] for _, text in logged] == ["vision_backbone", "multimodal_backbone"]
    assert all("goes on without" in text for _, text in logged)


def test_a_full_memory_is_no_reason_to_go_on_uncompiled(model, logged):
    def backend(graph, inputs):
        def run(*arguments):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    compile_encoders(model, backend=backend)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError, match="the image encoder: the memory does not suffice"):
        model.encode_image(torch.zeros(1, 3, 28, 28))
    assert logged == []


def test_an_error_of_the_input_is_the_callers(model, logged):
    compile_encoders(model, backend="eager")
    with pytest.raises((RuntimeError, ValueError)):
        model.encode_image(torch.zeros(1, 5, 28, 28))
    assert logged == []
