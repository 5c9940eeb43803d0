"""Reading sentences about drawn scenes: are the named objects there, is every phrase true?"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from .scene import COLOURS, SHAPES, Scene, SceneObject, place_holds, relation_holds

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
SIZE_OF = {"small": "small", "little": "small", "large": "large", "big": "large"}
TEXTURE_OF = {"striped": "striped", "dotted": "dotted", "spotted": "dotted"}
DIRECTION_OF = {"over": "above", "under": "below", "beneath": "below"}
PLURAL_OF = {shape + ("es" if shape.endswith("s") else "s"): shape for shape in SHAPES}

# A caption is cut into chunks, each a letter: N noun phrase, R relation, C relation with a pronoun, P place, H head
# count, T 'there is', I 'is', W 'with', A 'and', ',' comma. Chunk order then tells what is stated.
CHUNKS = (
    (
        "N",
        rf"(?P<number>{'|'.join(NUMBERS)}) (?:(?P<size>{'|'.join(SIZE_OF)}) )?(?:(?P<texture>{'|'.join(TEXTURE_OF)}) )?"
        rf"(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join([*PLURAL_OF, *SHAPES])})",
    ),
    ("H", r"(?P<heads>two|three|four) shapes"),
    (
        "P",
        r"at the (?P<edge>top|bottom)|on the (?P<side>left|right) side|"
        r"in the (?P<corner>(?:top|bottom) (?:left|right)) corner|in the (?P<centre>middle)",
    ),
    ("C", r"(?:to|on) its (?P<its>left|right)|(?P<it>above|below|under) it"),
    ("R", r"(?:to the |on the )?(?P<beside>left|right) of|(?P<level>above|over|below|under|beneath)"),
    ("T", r"there is"),
    ("I", r"is"),
    ("W", r"with"),
    ("A", r"and"),
    (",", r","),
)
PATTERNS = [(letter, re.compile(rf"(?:{pattern})(?![a-z])")) for letter, pattern in CHUNKS]
STATEMENT = r"(?:N(?P<r1>R)N|NI(?P<r2>R)N|TN(?P<r3>R)N|(?P<r4>R)NTN|NWN(?P<c>C)|PTN,(?P<r5>R)N)"
CAPTION = re.compile(rf"(?:H,)?{STATEMENT}(?:,ANP)?")


@dataclass(frozen=True)
class NounPhrase:
    number: int
    colour: str
    shape: str
    size: str | None = None
    texture: str | None = None

    def fits(self, obj: SceneObject) -> bool:
        return (
            (obj.colour, obj.shape) == (self.colour, self.shape)
            and self.size in (None, obj.size)
            and self.texture in (None, obj.texture)
        )


@dataclass(frozen=True)
class Verdict:
    """`objects`: two or more are named with colour and shape, all there. `exact`: besides, a relation, and all true."""

    objects: bool
    exact: bool


def judge_caption(caption: str, scene: Scene) -> Verdict:
    """Reads `caption` as a sentence of the scenes' grammar and compares it with `scene`.

    A caption that is not a sentence of the grammar is never exact; its objects are judged by the noun phrases in it.
    """
    chunks = list(_chunks(" ".join(caption.lower().strip(" .").split())))
    phrases = [chunk for letter, chunk in chunks if letter == "N"]
    unread = any(letter == "?" for letter, _ in chunks)
    named = sum(phrase.number for phrase in phrases) >= 2 and next(_referents(phrases, scene), None) is not None
    letters = "".join(letter for letter, _ in chunks)
    if not named or unread or not CAPTION.fullmatch(letters):
        return Verdict(named and not unread, False)
    heads = next((chunk for letter, chunk in chunks if letter == "H"), len(scene.objects))
    true = any(_statement_holds(letters, chunks, referents) for referents in _referents(phrases, scene))
    return Verdict(True, true and heads == len(scene.objects))


def _chunks(text: str) -> Iterator[tuple[str, Any]]:
    """(letter, meaning) of each chunk; '?' for a word that is none."""
    while text:
        for letter, pattern in PATTERNS:
            if match := pattern.match(text):
                yield letter, _meaning(letter, {k: v for k, v in match.groupdict().items() if v})
                break
        else:
            match = re.match(r"\S+", text)
            assert match is not None
            yield "?", match.group()
        text = text[match.end() :].lstrip()


def _meaning(letter: str, groups: dict[str, str]) -> Any:
    if letter == "N":
        shape, number = groups["shape"], NUMBERS[groups["number"]]
        if (shape in PLURAL_OF) != (number > 1):
            number = 0  # 'two circle' and 'a circles' name nothing
        size, texture = SIZE_OF.get(groups.get("size", "")), TEXTURE_OF.get(groups.get("texture", ""))
        return NounPhrase(number, groups["colour"], PLURAL_OF.get(shape, shape), size, texture)
    if letter == "H":
        return NUMBERS[groups["heads"]]
    word = next(iter(groups.values()), "")
    return DIRECTION_OF.get(word, word)


def _referents(phrases: Sequence[NounPhrase], scene: Scene) -> Iterator[tuple[tuple[SceneObject, ...], ...]]:
    """Every way to let the phrases speak of different objects; a plural means all that fit, in the right number."""
    choices: list[list[tuple[SceneObject, ...]]] = []
    for phrase in phrases:
        fitting = tuple(o for o in scene.objects if phrase.fits(o))
        if phrase.number == 1:
            choices.append([(o,) for o in fitting])
        else:
            choices.append([fitting] if len(fitting) == phrase.number > 0 else [])
    for referents in product(*choices):
        objects = [o for group in referents for o in group]
        if len(set(objects)) == len(objects):
            yield referents


def _statement_holds(letters: str, chunks: list[tuple[str, Any]], referents: Sequence[Sequence[SceneObject]]) -> bool:
    """Whether relation and places are true of `referents`: a group of objects for each noun phrase, in order."""
    match = CAPTION.fullmatch(letters)
    assert match is not None
    swapped = (
        match["r4"] or match["c"]
    )  # 'left of B there is A' and 'B with A to its left' name the second object first
    first, second = (referents[1], referents[0]) if swapped else (referents[0], referents[1])
    relation = next(meaning for letter, meaning in chunks if letter in "RC")
    if not all(relation_holds(a, relation, b) for a in first for b in second):
        return False
    nouns = 0
    for (
        letter,
        meaning,
    ) in chunks:  # a place speaks of the noun phrase before it, or of the first if it comes before all
        if letter == "N":
            nouns += 1
        elif letter == "P" and not all(place_holds(o, meaning) for o in referents[max(nouns - 1, 0)]):
            return False
    return True
