"""`Chat` about a picture, with a tiny `Blip2VQA` with random weights."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from PIL import Image

from blip2.apis.inferencers import Chat, VisualQuestionAnsweringInferencer
from blip2.utils.errors import ImageError

POSITIONS = 96


@pytest.fixture(scope="module")
def config(tiny_config) -> Config:
    return tiny_config(
        "Blip2VQA", keys=("question",), positions=POSITIONS, max_txt_len=6, prompt="Q: {} A:", min_length=0
    )


@pytest.fixture(scope="module")
def inferencer(config, build) -> VisualQuestionAnsweringInferencer:
    model: BaseModel = build(config)
    return VisualQuestionAnsweringInferencer(model)


@pytest.fixture
def given(inferencer, monkeypatch) -> list[str]:
    """The prompts that the language model read, in their order."""
    prompts: list[str] = []
    encode = inferencer.model._encode_prompts

    def noted(questions, *args, **kwargs):
        prompts.extend(text for row in questions for text in row.prompts)
        return encode(questions, *args, **kwargs)

    monkeypatch.setattr(inferencer.model, "_encode_prompts", noted)
    return prompts


def says(inferencer, monkeypatch, answer: str) -> None:
    """Whatever is asked, the model answers this, after it has checked and read the prompt."""
    whole = inferencer.model.decode

    def decode(*args, **kwargs):
        texts, scores = whole(*args, **kwargs)
        return [answer] * len(texts), scores

    monkeypatch.setattr(inferencer.model, "decode", decode)


def test_first_answer_is_that_of_the_question_alone(inferencer, pictures) -> None:
    reply = Chat(inferencer, pictures[0]).ask("Is it Red?")
    (alone,) = inferencer(pictures[0], "Is it Red?")
    assert (reply.question, reply.answer, reply.score) == ("Is it Red?", alone["pred_answer"], alone["pred_score"])
    assert (reply.context, reply.forgotten) == ("", 0)


def test_earlier_turns_stand_before_the_question(inferencer, pictures, given, monkeypatch) -> None:
    chat = Chat(inferencer, pictures[0])
    says(inferencer, monkeypatch, "a dog")
    chat.ask("What is it?")
    says(inferencer, monkeypatch, "yes!")
    chat.ask("Really?")
    reply = chat.ask("And blue?")
    assert given == [
        "Q: what is it A:",
        "Q: what is it A: a dog. Q: really A:",
        "Q: what is it A: a dog. Q: really A: yes! Q: and blue A:",
    ]
    assert reply.context == "Q: what is it A: a dog. Q: really A: yes!"


def test_answer_with_context_is_that_of_the_whole_prompt(inferencer, pictures) -> None:
    chat = Chat(inferencer, pictures[0])
    chat.ask("red?")
    reply = chat.ask("blue?")
    (whole,) = inferencer(pictures[0], None, prompt=f"{reply.context} Q: blue A:")
    assert (reply.answer, reply.score) == (whole["pred_answer"], whole["pred_score"])
    assert reply.score != inferencer(pictures[0], "blue?")[0]["pred_score"], "the context matters"


def test_oldest_turns_are_left_out_when_the_positions_end_and_this_is_said(
    inferencer, pictures, given, monkeypatch
) -> None:
    says(inferencer, monkeypatch, "no")
    chat = Chat(inferencer, pictures[0])
    replies = [chat.ask(f"is it number {number} here") for number in range(1, 6)]
    tokenizer = inferencer.model.tokenizer
    room = POSITIONS - 4 - 6 + 1  # queries, and an answer whose last token need not be read

    def length(first: int, last: int) -> int:
        turns = [f"Q: is it number {number} here A: no." for number in range(first, last)]
        return len(tokenizer.encode([" ".join([*turns, f"Q: is it number {last} here A:"])])[0])

    for last, (reply, prompt) in enumerate(zip(replies, given, strict=True), start=1):
        first = next(first for first in range(1, last + 1) if length(first, last) <= room)
        assert reply.forgotten == first - 1
        assert prompt.startswith(f"Q: is it number {first} here A:")
    assert replies[1].forgotten == 0 and replies[-1].forgotten >= 2


def test_prompt_that_just_fits_is_not_cut(inferencer, pictures, monkeypatch) -> None:
    says(inferencer, monkeypatch, "no")
    tokens = inferencer.model.tokenizer.encode
    forgotten = []
    for padding in range(50, 70):
        chat = Chat(inferencer, pictures[0])
        chat.ask("x" * padding + "a")
        used = 4 + len(tokens([f"Q: {'x' * padding}a A: no. Q: is it so A:"])[0]) + 6 - 1
        reply = chat.ask("is it so?")
        forgotten.append(reply.forgotten)
        assert reply.forgotten == int(used > POSITIONS), used
    assert set(forgotten) == {0, 1}


def test_number_of_turns_can_be_limited(inferencer, pictures, given, monkeypatch) -> None:
    says(inferencer, monkeypatch, "no")
    for turns, expected in ((0, "Q: c A:"), (1, "Q: b A: no. Q: c A:"), (7, "Q: a A: no. Q: b A: no. Q: c A:")):
        chat = Chat(inferencer, pictures[0], max_turns=turns)
        replies = [chat.ask(question) for question in "abc"]
        assert given[-1] == expected
        assert [reply.forgotten for reply in replies] == [0, 0, 0], "that was asked for"


def test_question_that_cannot_be_asked_leaves_the_conversation_as_it_is(inferencer, pictures, given) -> None:
    chat = Chat(inferencer, pictures[0])
    chat.ask("red?")
    before = list(chat.turns)
    with pytest.raises(ValueError, match=r"'Q: wide wide .* exceed the 96 positions"):
        chat.ask("wide " * 60)
    with pytest.raises(ValueError, match="is empty"):
        chat.ask(" ")
    assert chat.turns == before


def test_another_picture_begins_anew_and_a_bad_one_changes_nothing(inferencer, pictures, tmp_path) -> None:
    chat = Chat(inferencer, pictures[0])
    chat.ask("red?")
    with pytest.raises(ImageError, match="empty"):
        chat.show(b"")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        chat.show(tmp_path / "gone.png")
    assert len(chat.turns) == 1
    Image.fromarray(np.ascontiguousarray(pictures[3][:, :, ::-1])).save(tmp_path / "3.png")
    chat.show(tmp_path / "3.png")
    assert chat.turns == []
    (alone,) = inferencer(pictures[3], "red?")
    assert (chat.ask("red?").answer, chat.turns != []) == (alone["pred_answer"], True)
    chat.reset()
    assert chat.ask("red?").score == alone["pred_score"]


def test_options_of_the_model_hold_for_every_question(inferencer, pictures, given) -> None:
    chat = Chat(inferencer, pictures[0], prompt="{} Short answer:", num_beams=1, max_txt_len=2)
    (alone,) = inferencer(pictures[0], "red?", prompt="{} Short answer:", num_beams=1, max_txt_len=2)
    assert chat.ask("red?").answer == alone["pred_answer"]
    chat.ask("blue?")
    assert given[-1].endswith("blue Short answer:") and given[-1].startswith("red Short answer: ")


def test_a_model_name_or_config_will_do(config, pictures) -> None:
    model = VisualQuestionAnsweringInferencer(config, pretrained=False, device="cpu").model
    assert isinstance(Chat(model, pictures[0]).ask("red?").answer, str)


def test_wrong_arguments_are_named(inferencer, pictures, tmp_path) -> None:
    with pytest.raises(TypeError, match=r"'num_beam'\. Did you mean 'num_beams'"):
        Chat(inferencer, pictures[0], num_beam=2)
    with pytest.raises(TypeError, match="leave out show_dir"):
        Chat(inferencer, pictures[0], show_dir="x")
    with pytest.raises(ValueError, match=r"has no \{\} to put a question in"):
        Chat(inferencer, pictures[0], prompt="a red")
    with pytest.raises(ValueError, match="max_turns=-1"):
        Chat(inferencer, pictures[0], max_turns=-1)
    with pytest.raises(ValueError, match="about one picture"):
        Chat(inferencer, pictures[:2])
    for number in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="about one picture"):
        Chat(inferencer, str(tmp_path))
