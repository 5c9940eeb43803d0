"""Batches that don't fit into the memory: smaller ones give the same, and one row that doesn't fit is an error."""

import logging

import pytest
import torch
from torch.testing import assert_close

from blip2.models.language.decoding import GenerationOutput
from blip2.models.portions import Portions, is_out_of_memory, joined
from blip2.structures import DataSample

CPU_FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"


@pytest.fixture
def limited(monkeypatch):
    """Lets a function fail, as a full GPU does, for more than `most` rows of its first argument; notes the rows."""

    def limit(owner, name, most):
        run, seen = getattr(owner, name), []

        def wrapped(*args, **kwargs):
            rows = len(args[0] if args else next(iter(kwargs.values())))
            if rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            seen.append(rows)
            return run(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)
        return seen

    return limit


@pytest.fixture
def logged(monkeypatch):
    told = []
    monkeypatch.setattr(
        "blip2.models.portions.print_log", lambda text, logger, level: told.append((level, text)), raising=True
    )
    return told


# ----- the portions themselves -----


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "most", "expected"), [(8, 8, [8]), (8, 3, [2, 2, 2, 2]), (7, 4, [3, 3, 1]), (3, 1, [1] * 3)]
)
def test_a_batch_is_halved_until_it_fits_and_keeps_its_order(size, most, expected, logged):
    parts, done = Portions(), []

    def work(rows, others, nothing):
        if len(rows) > most:
            raise torch.OutOfMemoryError("full")
        assert nothing is None and len(others) == len(rows)
        done.append(len(rows))
        return rows

    whole = torch.arange(size)
    assert torch.equal(joined(parts.run("stage", "rows", work, whole, list(range(size)), None)), whole)
    assert done == expected
    first = len(logged)
    assert all(level == logging.WARNING and text.startswith("stage: ") for level, text in logged)
    parts.run("stage", "rows", work, whole, list(range(size)), None)  # remembered: nothing fails, nothing is said
    assert done == 2 * expected and len(logged) == first


@torch.no_grad()
def test_stages_have_sizes_of_their_own_and_a_limit_holds_always():
    parts, seen = Portions(), []
    parts.largest["small"] = 2
    parts.run("large", "rows", lambda x: seen.append(len(x)), torch.zeros(5))
    parts.run("large", "rows", lambda x: seen.append(len(x)), torch.zeros(5), at_most=3)
    parts.run("small", "rows", lambda x: seen.append(len(x)), torch.zeros(3), at_most=3)
    parts.run("large", "rows", lambda x: seen.append(len(x)), torch.zeros(0))
    assert seen == [5, 3, 2, 2, 1, 0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_FULL)])
def test_one_row_that_does_not_fit_is_an_error_that_names_the_stage(error, logged):
    def work(rows):
        raise error

    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError, match=r"the Q-Former: .* one of the pictures.*bf16"):
        Portions().run("the Q-Former", "pictures", work, torch.zeros(4))
    assert len(logged) == 2


def test_other_errors_and_training_are_left_alone(logged):
    def fail(rows):
        raise RuntimeError("shapes differ")

    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes differ"):
        Portions().run("stage", "rows", fail, torch.zeros(4))

    def full(rows):
        raise torch.OutOfMemoryError("full")

    with torch.enable_grad(), pytest.raises(torch.OutOfMemoryError, match=r"^full$"):
        Portions().run("stage", "rows", full, torch.zeros(4))
    assert logged == [] and not is_out_of_memory(RuntimeError("shapes differ"))


# ----- the models -----


def pictures(rows):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0)).double()


def questions(rows):
    words = ["how many birds", "what color is the boat on the hill", "cup ?", "is it yellow ?", "what is on the wire"]
    return [DataSample(question=words[index % len(words)]) for index in range(rows)]


@pytest.fixture(params=["caption", "question", "question in the Q-Former", "candidates"])
def answer(request, caption_model, vqa_model, liven):
    """A model, and a function that gives its texts and scores for so many pictures."""
    if request.param == "caption":
        model = caption_model(num_beams=3)
    else:
        model = vqa_model(question_in_qformer=request.param == "question in the Q-Former", num_beams=3)
    liven(model.eval(), 4, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
    model.double()
    kind = "caption" if request.param == "caption" else "answer"
    chosen = {"answers": ["two birds", "blue", "a small cup"]} if request.param == "candidates" else {}

    def run(rows):
        samples = [DataSample() for _ in range(rows)] if kind == "caption" else questions(rows)
        found = model.predict(pictures(rows), samples, **chosen)
        return [sample.get(f"pred_{kind}") for sample in found], torch.tensor([s.pred_score for s in found])

    return model, run


STAGES = {
    "the image encoder": ("vision_backbone", "forward"),
    "the Q-Former": ("multimodal_backbone", "forward"),
    "the language model": ("text_backbone", "prefill"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_full_goes_on_with_fewer_rows_and_the_same_texts(answer, limited, logged, stage):
    model, run = answer
    texts, scores = run(5)
    part, method = STAGES[stage]
    seen = limited(getattr(model, part), method, most=2)
    fewer = run(5)
    assert fewer[0] == texts
    assert_close(fewer[1], scores, atol=1e-9, rtol=1e-9)
    assert seen == [2, 2, 1]
    assert [text for _, text in logged] == [
        f"{stage}: 5 {'prompts' if part == 'text_backbone' else 'pictures'} at a "
        "time are too many for the memory, going on with 2"
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_one_picture_that_does_not_fit_names_the_stage(answer, limited, logged, stage):
    model, run = answer
    limited(getattr(model, STAGES[stage][0]), STAGES[stage][1], most=0)
    with pytest.raises(torch.OutOfMemoryError, match=f"{stage}: the memory does not suffice for one"):
        run(3)


def test_texts_of_unequal_length_are_joined_with_padding():
    parts = [
        GenerationOutput(torch.ones(2, 3), torch.tensor([3, 2]), *torch.rand(3, 2)),
        GenerationOutput(torch.ones(1, 5), torch.tensor([5]), *torch.rand(3, 1)),
    ]
    whole = GenerationOutput.joined(parts, pad_token_id=7)
    assert whole.sequences.tolist() == [[1, 1, 1, 7, 7], [1, 1, 1, 7, 7], [1] * 5]
    assert torch.equal(whole.beam_scores, torch.cat([part.beam_scores for part in parts]))
    sampled = [GenerationOutput(torch.ones(1, 1), torch.tensor([1]), *torch.rand(2, 1)) for _ in range(2)]
    assert GenerationOutput.joined(sampled, 0).beam_scores is None


def test_matching_and_reading_texts_go_on_with_fewer(retrieval_model, limited, logged):
    model = retrieval_model(topk=4).eval().double()
    texts = ["a red boat", "two birds sit", "a small cup on the hill", "the boat", "blue", "the red cup"]
    with torch.no_grad():
        images, words = model.image_features(pictures(3)), model.text_features(texts)
        expected = model.predict_all(images, words, shared=False)
        seen = limited(model.multimodal_backbone, "forward", most=3)
        fewer = model.text_features(texts)
        assert_close(fewer["text_feat"], words["text_feat"], atol=1e-9, rtol=1e-9)
        found = model.predict_all(images, words, shared=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    assert max(seen) == 3
    assert {text.partition(":")[0] for _, text in logged} == {"the Q-Former's text branch", "matching"}
