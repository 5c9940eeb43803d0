"""`VisualQuestionAnsweringInferencer` around a tiny `Blip2VQA` with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from mmengine.model import BaseModel
from PIL import Image

import blip2
from blip2.apis import clear_cache, get_model, inference_model
from blip2.apis.inferencers import (
    BadInputsError,
    ImageCaptionInferencer,
    VisualQuestionAnsweringInferencer,
    inferencer_for,
)
from blip2.checkpoints import save_checkpoint
from blip2.registry import TRANSFORMS
from blip2.structures import DataSample

DATA = Path(__file__).parents[1] / "data"
QUESTIONS = ["What is left of the circle?", "Red?", "How many blue squares are there?", "Is it a dog?", "Where?"]
READ = ["what is left of the circle", "red", "how many blue squares are there", "is it a dog", "where"]


@pytest.fixture(scope="module")
def config(tiny_config) -> Config:
    return tiny_config("Blip2VQA", keys=("question",), positions=96, max_txt_len=6, prompt="Q: {} A:", min_length=0)


@pytest.fixture(scope="module")
def model(config, build) -> BaseModel:
    return build(config)


@pytest.fixture
def inferencer(model) -> VisualQuestionAnsweringInferencer:
    return VisualQuestionAnsweringInferencer(model)


def answers(results: list[dict]) -> list[str]:
    return [result["pred_answer"] for result in results]


def same(left: list[dict], right: list[dict]) -> None:
    """Equal results, up to rounding in the scores."""
    assert [(r["question"], r["pred_answer"]) for r in left] == [(r["question"], r["pred_answer"]) for r in right]
    scores = [torch.tensor([result["pred_score"] for result in results]) for results in (left, right)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)


def test_answers_are_those_of_the_configs_pipeline_and_the_model_alone(config, inferencer, pictures, tmp_path) -> None:
    pipeline = Compose([TRANSFORMS.build(step) for step in config.test_dataloader.dataset.pipeline])
    alone = []
    for number, (picture, question) in enumerate(zip(pictures, QUESTIONS, strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture[:, :, ::-1]).save(path)
        (sample,) = inferencer.model.test_step(pseudo_collate([pipeline({"img_path": path, "question": question})]))
        assert sample.question == READ[number], "the config cleans questions"
        alone.append({"question": question, "pred_answer": sample.pred_answer, "pred_score": sample.pred_score})
    results = inferencer(pictures, QUESTIONS, batch_size=2)
    assert results[0].keys() == {"question", "pred_answer", "pred_score"}
    same(results, alone)
    assert len(set(answers(results))) > 1


def test_a_single_picture_and_question_still_give_a_list(inferencer, pictures) -> None:
    (result,) = inferencer(pictures[0], QUESTIONS[0])
    assert result["question"] == QUESTIONS[0] and isinstance(result["pred_score"], float)


def test_several_questions_of_a_picture_are_answered_like_one_by_one(inferencer, pictures, monkeypatch) -> None:
    expected = [inferencer(pictures[0], question)[0] for question in QUESTIONS]
    encoded = []
    whole = inferencer.model.encode_image
    monkeypatch.setattr(inferencer.model, "encode_image", lambda images: encoded.append(len(images)) or whole(images))
    same(inferencer(pictures[0], QUESTIONS), expected)
    assert encoded == [1], "the picture goes through the vision encoder once"


def test_lists_of_questions_and_single_ones_mix(inferencer, pictures) -> None:
    results = inferencer(pictures[:3], [QUESTIONS[:2], QUESTIONS[2], (QUESTIONS[3],)], batch_size=3)
    pairs = [(0, 0), (0, 1), (1, 2), (2, 3)]
    same(results, [inferencer(pictures[picture], QUESTIONS[question])[0] for picture, question in pairs])


def test_one_question_is_asked_about_every_picture_and_a_list_about_every_one_of_a_folder(
    inferencer, pictures, tmp_path
) -> None:
    same(inferencer(pictures, "Red?"), inferencer(pictures, ["Red?"] * 5))
    for number in range(2):
        Image.fromarray(pictures[number][:, :, ::-1]).save(tmp_path / f"{number}.png")
    same(inferencer(str(tmp_path), QUESTIONS[:2]), inferencer(pictures[:2], [QUESTIONS[:2]] * 2))


@pytest.mark.parametrize(
    ("questions", "error", "said"),
    [
        ("  ", ValueError, r"questions\[0\] is empty \('  '\)"),
        (["Red?", ""], ValueError, r"questions\[1\] is empty"),
        (["Red?", ["Red?", " "]], ValueError, r"questions\[1\]\[1\] is empty"),
        (["Red?", []], ValueError, r"questions\[1\] is an empty list"),
        (["Red?"], ValueError, r"1 questions for 2 pictures: .*list of questions"),
        (["Red?"] * 3, ValueError, "3 questions for 2 pictures"),
        (None, TypeError, r"questions\[0\] is None; wanted a text"),
        (7, TypeError, "questions is a int"),
        (["Red?", 7], TypeError, r"questions\[1\] is 7; wanted a text"),
    ],
)
def test_bad_questions_are_named_before_any_work(
    inferencer, pictures, monkeypatch, questions, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(inferencer, "forward", lambda *args, **kwargs: pytest.fail("nothing to work on"))
    with pytest.raises(error, match=said):
        inferencer(pictures[:2], questions)


def test_question_beyond_the_models_positions_is_named(inferencer, pictures) -> None:
    with pytest.raises(ValueError, match=r"'Q: is it wide wide wide .* exceed the 96 positions"):
        inferencer(pictures[0], "Is it" + " wide" * 50)
    assert len(inferencer(pictures[0], "Is it" + " wide" * 3)) == 1, "the next call is a call like any other"


def test_candidates_are_ranked_by_their_likelihood_after_the_prompt(inferencer, pictures) -> None:
    candidates = ["red", "a blue square", "no"]
    (result,) = inferencer(pictures[0], QUESTIONS[0], answers=candidates)
    model, prompt = inferencer.model, f"Q: {READ[0]} A:"
    data = inferencer.pipeline(pictures[0], None, {"question": QUESTIONS[0]})
    with torch.no_grad():
        queries = model.encode(model.data_preprocessor(pseudo_collate([data]), False)["images"])
        expected = {}
        for text in candidates:
            given, whole = model.tokenizer.encode([prompt, f"{prompt} {text}\n"])
            embeds = model.text_backbone.get_input_embeddings()(torch.tensor([whole]))
            logits = model.text_backbone(inputs_embeds=torch.cat((queries, embeds), 1))[0]
            chosen = logits.log_softmax(-1)[queries.shape[1] - 1 : -1].gather(1, torch.tensor(whole)[:, None])
            expected[text] = chosen[len(given) :].sum().item()
    assert result["answer_scores"] == pytest.approx(expected, abs=1e-3)
    ranked = sorted(expected, key=expected.__getitem__, reverse=True)
    assert list(result["answer_scores"]) == ranked, "the best first"
    assert result["pred_answer"] == ranked[0]
    assert result["pred_score"] == result["answer_scores"][ranked[0]]


def test_each_of_several_questions_has_its_scores_of_candidates(inferencer, pictures) -> None:
    candidates = ["yes", "no"]
    together = inferencer(pictures[:2], [QUESTIONS[:2], QUESTIONS[2]], answers=candidates, batch_size=2)
    pairs = [(0, 0), (0, 1), (1, 2)]
    alone = [inferencer(pictures[i], QUESTIONS[question], answers=candidates)[0] for i, question in pairs]
    same(together, alone)
    for left, right in zip(together, alone, strict=True):
        assert left["answer_scores"] == pytest.approx(right["answer_scores"], abs=1e-3)


@pytest.mark.parametrize(
    ("candidates", "said"), [([], "no candidates"), ("yes,no", "must be a list"), (["a", ""], "none of them empty")]
)
def test_bad_candidates_are_refused(inferencer, pictures, candidates, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inferencer(pictures[0], "Red?", answers=candidates)


def test_several_answers_come_as_lists_best_first(inferencer, pictures) -> None:
    results = inferencer(pictures[0], QUESTIONS[:2], num_captions=3, num_beams=3)
    assert [len(result["pred_answer"]) for result in results] == [3, 3]
    best = [{key: result[key][0] for key in ("pred_answer", "pred_score")} for result in results]
    single = inferencer(pictures[0], QUESTIONS[:2], num_captions=1, num_beams=3)
    assert [result["pred_answer"] for result in best] == answers(single)
    candidates = ["yes", "no", "perhaps"]
    (ranked,) = inferencer(pictures[0], "Red?", answers=candidates, num_captions=2)
    assert ranked["pred_answer"] == list(ranked["answer_scores"])[:2]


def test_each_picture_can_have_its_own_prompt(inferencer, pictures) -> None:
    prompts = ["{} Short answer:", "Q: {} A:", "a red circle and"]
    together = inferencer(pictures[:3], QUESTIONS[:3], batch_size=3, prompt=prompts, return_datasamples=True)
    assert [s.prompt for s in together] == [f"{READ[0]} Short answer:", f"Q: {READ[1]} A:", "a red circle and"]
    alone = [inferencer(pictures[i], QUESTIONS[i], prompt=prompts[i])[0] for i in range(3)]
    assert [sample.pred_answer for sample in together] == answers(alone)
    same(inferencer(pictures[1], QUESTIONS[1]), alone[1:2])


def test_a_prompt_alone_is_an_instruction(inferencer, pictures) -> None:
    (result,) = inferencer(pictures[0], None, prompt="a red circle and")
    (asked,) = inferencer(pictures[0], "Anything?", prompt="a red circle and")
    assert result["question"] is None
    assert (result["pred_answer"], result["pred_score"]) == (asked["pred_answer"], asked["pred_score"])
    with pytest.raises(ValueError, match=r"no \{\} to put 2 questions in"):
        inferencer(pictures[0], ["Red?", "Blue?"], prompt="a red circle and")


def test_context_stands_before_the_prompt(inferencer, pictures) -> None:
    context = "Q: is it {red} A: no. "
    (sample,) = inferencer(pictures[0], "And Blue?", context=context, return_datasamples=True)
    assert sample.prompt == "Q: is it {red} A: no. Q: and blue A:"
    assert sample.question == "And Blue?"
    (whole,) = inferencer(pictures[0], None, prompt=sample.prompt)
    assert (sample.pred_answer, sample.pred_score) == (whole["pred_answer"], whole["pred_score"])
    assert sample.pred_score != inferencer(pictures[0], "And Blue?")[0]["pred_score"], "the context matters"
    together = inferencer(pictures[:2], "And Blue?", context=[context, ""])
    same(together, [*inferencer(pictures[0], "And Blue?", context=context), *inferencer(pictures[1], "And Blue?")])
    with pytest.raises(ValueError, match="context is a list of 1 for 2 pictures"):
        inferencer(pictures[:2], "Red?", context=["a"])


def test_unknown_argument_is_named_with_the_nearest(inferencer, pictures) -> None:
    with pytest.raises(TypeError, match=r"'answer'\. Did you mean 'answers'"):
        inferencer(pictures[0], "Red?", answer=["yes"])
    with pytest.raises(TypeError, match=r"'contxt'\. Did you mean 'context'"):
        inferencer(pictures[0], "Red?", contxt="x")
    with pytest.raises(TypeError, match="leave objects out"):
        inferencer(pictures[0], "Red?", objects=["circle"])


def test_unreadable_picture_costs_its_own_questions_only(inferencer, pictures) -> None:
    asked = [QUESTIONS[:2], QUESTIONS[2:4], "Red?"]
    results = inferencer([pictures[0], b"junk", pictures[1]], asked, batch_size=3, on_error="return")
    assert ["error" in result for result in results] == [False, False, True, True, False]
    assert [result["question"] for result in results] == [*QUESTIONS[:4], "Red?"]
    same([results[0], results[1], results[4]], inferencer(pictures[:2], [asked[0], asked[2]]))
    with pytest.raises(BadInputsError, match=r"images\[1\] \(4 bytes\)") as caught:
        inferencer([pictures[0], b"junk", pictures[1]], asked)
    assert len(caught.value.results) == 5


def test_datasamples_come_one_a_question(inferencer, pictures) -> None:
    samples = inferencer(pictures[0], QUESTIONS[:2], return_datasamples=True)
    assert all(isinstance(sample, DataSample) for sample in samples)
    assert [sample.question for sample in samples] == QUESTIONS[:2]
    assert [sample.pred_answer for sample in samples] == answers(inferencer(pictures[0], QUESTIONS[:2]))


def test_question_and_answer_are_drawn_below_the_picture(inferencer, pictures, tmp_path) -> None:
    inferencer(pictures[:2], [QUESTIONS, "Red?"], show_dir=tmp_path, draw_score=True)
    heights = [np.asarray(Image.open(tmp_path / f"picture_000{number}.png")).shape[0] for number in range(2)]
    assert heights[0] > heights[1] > 384, "five questions take more room than one"


def test_inference_model_finds_the_inferencer_by_the_model_and_by_its_config(config, model, pictures) -> None:
    (expected,) = VisualQuestionAnsweringInferencer(model)(pictures[0], "Red?")
    assert inference_model(model, pictures[0], "Red?") == expected
    assert inference_model(model, pictures[0], questions="Red?", num_beams=5) == expected
    assert inference_model(model, pictures[0], ["Red?"]) == [expected]
    assert inference_model(model, [pictures[0]], "Red?") == [expected]
    assert inference_model(config, pictures[0], "Red?", pretrained=False)["question"] == "Red?"
    with pytest.raises(TypeError, match="questions"):
        inference_model(model, pictures[0])


def test_inference_model_picks_the_inferencer_by_the_task_of_a_name(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "configs" / "toy"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(DATA))
    (folder / "toy_vqa.py").write_text((DATA / "toy_answerer_config.py").read_text())
    save_checkpoint(get_model(folder / "toy_vqa.py"), folder / "toy.safetensors")
    entry = {"Name": "toy_vqa", "In Collection": "Toy", "Config": "configs/toy/toy_vqa.py"}
    entry["Weights"] = "configs/toy/toy.safetensors"
    entry["Results"] = [{"Task": "Visual Question Answering", "Dataset": "A", "Metrics": {"acc": 1.0}}]
    (folder / "metafile.yml").write_text(yaml.safe_dump({"Collections": [{"Name": "Toy"}], "Models": [entry]}))
    for module in ("blip2.utils.resources", "blip2.apis.metafile", "blip2.apis.config"):
        monkeypatch.setattr(f"{module}.resources_root", lambda: tmp_path)
    red = np.full((4, 4, 3), (0, 0, 255), np.uint8)
    assert inference_model("toy_vqa", red, "how red?", device="cpu")["pred_answer"] == "255 4"
    results = inference_model("toy_vqa", red, ["red?", "how red?"], device="cpu")
    assert answers(results) == ["255 3", "255 4"]
    assert VisualQuestionAnsweringInferencer.list_models() == ["toy_vqa"]
    clear_cache()


def test_inferencer_is_found_by_task_name_and_class(model) -> None:
    assert inferencer_for("Visual Question Answering") is VisualQuestionAnsweringInferencer
    assert inferencer_for(type(model)) is VisualQuestionAnsweringInferencer
    assert inferencer_for("Image Caption") is ImageCaptionInferencer
    assert blip2.VisualQuestionAnsweringInferencer is VisualQuestionAnsweringInferencer


def test_weights_from_a_file_answer_alike(config, model, pictures, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = VisualQuestionAnsweringInferencer(config, pretrained=tmp_path / "weights.pth", device="cpu")
    same(loaded(pictures, QUESTIONS), VisualQuestionAnsweringInferencer(model)(pictures, QUESTIONS))
