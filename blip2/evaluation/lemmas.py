"""Words in their ground form: answers to OK-VQA are compared so.

LAVIS, and so the paper, takes spaCy's small English model, which tells nouns and verbs from their place in the answer,
and changes those alone. That model can't be had from the Python package index. simplemma can; it looks words up in a
list without regard to their place, so that it also changes other kinds of words ('better' is 'good') and can't tell a
noun from a verb of the same letters. Scores with the one and the other are near each other but not the same: name the
lemmatizer with a score.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial

from blip2.utils.errors import MissingPackageError

LEMMATIZERS = ("auto", "spacy", "simplemma")
SPACY_MODEL = "en_core_web_sm"

# Letters alone: simplemma's list has entries for '1920s' and its like as well.
_WORD = re.compile(r"(?<![\w'])[^\W\d_]+(?![\w'])")

_SPACY_HINT = f"`pip install spacy && python -m spacy download {SPACY_MODEL}` (what LAVIS uses)"
_SIMPLEMMA_HINT = '`pip install "blip2[okvqa]"` (simplemma)'


def find_lemmatizer(name: str) -> Callable[[str], str]:
    """The function that brings an answer's words into their ground form.

    Args:
        name: 'spacy', 'simplemma', or 'auto' for the first of them that is installed.

    Raises:
        ValueError: another name.
        MissingPackageError: it isn't installed; says how to get it.
    """
    if name not in LEMMATIZERS:
        raise ValueError(f"lemmatizer={name!r} is unknown; choose one of {list(LEMMATIZERS)}, or None")
    if name == "spacy":
        return _spacy()
    if name == "simplemma":
        return _simplemma()
    try:
        return _spacy()
    except MissingPackageError:
        pass
    try:
        return _simplemma()
    except MissingPackageError:
        raise MissingPackageError(
            f"answers to OK-VQA are compared by their lemmas, which needs one of two: {_SPACY_HINT}, or "
            f"{_SIMPLEMMA_HINT}. lemmatizer=None compares them as they are"
        ) from None


def _spacy() -> Callable[[str], str]:
    try:
        import spacy

        model = spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:  # spaCy raises an OSError for a model that isn't there
        raise MissingPackageError(f"the lemmatizer 'spacy' isn't installed ({error}): {_SPACY_HINT}") from error

    def lemmatize(answer: str) -> str:
        return " ".join(token.lemma_ if token.pos_ in ("NOUN", "VERB") else token.text for token in model(answer))

    return lru_cache(2**16)(lemmatize)


def _simplemma() -> Callable[[str], str]:
    try:
        import simplemma
    except ImportError as error:
        raise MissingPackageError(f"the lemmatizer 'simplemma' isn't installed: {_SIMPLEMMA_HINT}") from error
    word_lemma = lru_cache(2**16)(partial(simplemma.lemmatize, lang="en"))
    return lambda answer: _WORD.sub(lambda match: word_lemma(match[0].lower()), answer)
