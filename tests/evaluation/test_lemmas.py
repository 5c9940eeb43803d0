"""Lemmas of answers: which words change, which program is taken, and what they do to the accuracy."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import simplemma

from blip2.evaluation import VQAAcc
from blip2.evaluation.lemmas import find_lemmatizer
from blip2.utils.errors import MissingPackageError

# What a tagger says of each word; spaCy's own model can't be installed from the package index.
TAGGED = {
    "racing": ("VERB", "race"),
    "horses": ("NOUN", "horse"),
    "better": ("ADJ", "good"),
    "is": ("AUX", "be"),
}


def a_spacy_with(models):
    """A module with the part of spaCy's interface that is used."""

    def load(name):
        if name not in models:
            raise OSError(f"[E050] Can't find model '{name}'.")
        return lambda text: [
            SimpleNamespace(text=word, pos_=TAGGED.get(word, ("X", ""))[0], lemma_=TAGGED.get(word, ("", word))[1])
            for word in text.split()
        ]

    module = ModuleType("spacy")
    module.load = load
    return module


@pytest.fixture
def only(monkeypatch):
    """``only('simplemma')``: of the two programs this one alone is installed."""

    def install(*names, models=("en_core_web_sm",)):
        monkeypatch.setitem(sys.modules, "spacy", a_spacy_with(models) if "spacy" in names else None)
        if "simplemma" not in names:
            monkeypatch.setitem(sys.modules, "simplemma", None)

    return install


def test_spacy_changes_nouns_and_verbs_alone(only):
    only("spacy")
    assert find_lemmatizer("auto")("racing horses is better") == "race horse is better"


def test_simplemma_changes_words_without_regard_to_their_kind(only):
    only("simplemma")
    lemmatize = find_lemmatizer("auto")
    for answer, lemmas in (("racing horses", "race horse"), ("teddy bears", "teddy bear"), ("better", "good")):
        assert lemmatize(answer) == lemmas
        assert lemmas.split() == [simplemma.lemmatize(word, lang="en") for word in answer.split()]


def test_what_is_no_plain_word_stays(only):
    only("simplemma")
    assert find_lemmatizer("simplemma")("1920s 4:30 it's") == "1920s 4:30 it's"


def test_auto_takes_spacy_before_simplemma_and_needs_its_model(only):
    only("spacy", "simplemma")
    assert find_lemmatizer("auto")("better") == "better"
    only("spacy", "simplemma", models=())
    assert find_lemmatizer("auto")("better") == "good"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("auto", r"python -m spacy download en_core_web_sm.*pip install \"blip2\[okvqa\]\".*lemmatizer=None"),
        ("spacy", r"'spacy' isn't installed.*spacy download"),
        ("simplemma", r"'simplemma' isn't installed: `pip install \"blip2\[okvqa\]\"`"),
    ],
)
def test_what_is_not_installed_is_named_with_how_to_get_it(only, name, message):
    only()
    with pytest.raises(MissingPackageError, match=message):
        VQAAcc(lemmatizer=name)


def test_an_unknown_lemmatizer_is_refused():
    with pytest.raises(ValueError, match="lemmatizer='nltk' is unknown; choose one of"):
        VQAAcc(lemmatizer="nltk")


@pytest.mark.parametrize(("lemmatizer", "score"), [("simplemma", 100), (None, 0)])
def test_the_answer_given_is_lemmatised_and_the_true_ones_are_not(lemmatizer, score):
    metric = VQAAcc(official=True, lemmatizer=lemmatizer)
    metric.process(None, [{"question_id": 1, "pred_answer": "Horses.", "gt_answer": ["horse"] * 10}])
    metric.process(None, [{"question_id": 2, "pred_answer": "ponies", "gt_answer": ["pony"] * 10}])
    assert metric.evaluate(2)["VQA/official_acc"] == score
    plural = VQAAcc(lemmatizer=lemmatizer)
    plural.process(None, [{"pred_answer": "horse", "gt_answer": ["horses"] * 10}])
    assert plural.evaluate(1)["VQA/acc"] == 0
