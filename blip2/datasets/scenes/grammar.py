"""Sentences about scenes: captions of pictures, and documents for a language model that never sees a picture.

The words are few and the wordings many. `blip2.structures.scene_reading` reads the same language back.
"""

import random
from dataclasses import dataclass, replace
from itertools import permutations

from blip2.structures.scene import (
    PLACES,
    Scene,
    SceneObject,
    dominant_relation,
    place_holds,
    relation_holds,
)

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
TEXTURE_WORDS = {"striped": ("striped",), "dotted": ("dotted", "spotted")}
RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
PRONOUN_WORDS = {
    "left": ("to its left", "on its left"),
    "right": ("to its right", "on its right"),
    "above": ("above it",),
    "below": ("below it", "under it"),
}
PLACE_WORDS = {
    "top": "at the top",
    "bottom": "at the bottom",
    "left": "on the left side",
    "right": "on the right side",
    "top left": "in the top left corner",
    "top right": "in the top right corner",
    "bottom left": "in the bottom left corner",
    "bottom right": "in the bottom right corner",
    "middle": "in the middle",
}
NUMBER_WORDS = ("no", "one", "two", "three", "four")
PLURALS = {"cross": "crosses"}


def plural(shape: str) -> str:
    return PLURALS.get(shape, shape + "s")


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def describe(obj: SceneObject, rng: random.Random, detail: float = 0.3) -> str:
    """A noun phrase such as 'a small striped red circle'; size and texture are told with probability `detail`."""
    words = []
    if rng.random() < detail:
        words.append(rng.choice(SIZE_WORDS[obj.size]))
    if obj.texture != "plain" and rng.random() < 1.5 * detail:
        words.append(rng.choice(TEXTURE_WORDS[obj.texture]))
    return with_article(" ".join([*words, obj.colour, obj.shape]))


@dataclass(frozen=True)
class Statement:
    """What one caption states, apart from its wording.

    ``first`` lies in direction ``relation`` of ``second`` (noun phrases). It may also state how many shapes there are
    (``heads``), where the first lies in the picture (``place``), or a third object and its place (``extra``). ``first``
    may be a group ('two red circles').
    """

    first: str
    relation: str
    second: str
    is_group: bool = False
    heads: str | None = None
    place: str | None = None
    extra: str | None = None

    def wording(self, rng: random.Random) -> str:
        """One of many wordings."""
        sentence = self._core(rng, rng.choice(RELATION_WORDS[self.relation]))
        if self.heads:
            sentence = f"{self.heads}, {sentence}"
        return f"{sentence}, and {self.extra}" if self.extra else sentence

    def _core(self, rng: random.Random, relation: str) -> str:
        plain = f"{self.first} {relation} {self.second}"
        if self.is_group:
            return plain
        if self.place:
            return f"{self.place} there is {self.first}, {relation} {self.second}"
        with_pronoun = f"{self.second} with {self.first} {rng.choice(PRONOUN_WORDS[self.relation])}"
        forms = (
            plain,
            plain,
            f"{self.first} is {relation} {self.second}",
            f"there is {plain}",
            f"{relation} {self.second} there is {self.first}",
            with_pronoun,
        )
        return rng.choice(forms)

    def key_words(self) -> str:
        """The core without its little words: 'small red circle left blue square'."""
        first, second = self.first.split(" ", 1)[1], self.second.split(" ", 1)[1]
        return f"{first} {self.relation} {second}"

    def core(self) -> "Statement":
        """The same without heads, place and extra."""
        return Statement(self.first, self.relation, self.second, self.is_group)


def clear_pairs(scene: Scene) -> list[tuple[SceneObject, SceneObject, str]]:
    """Ordered pairs of objects with the direction in which the first lies from the second."""
    found = []
    for first, second in permutations(scene.objects, 2):
        relation = dominant_relation(first, second)
        if relation:
            found.append((first, second, relation))
    return found


def statement(scene: Scene, rng: random.Random) -> Statement:
    """A true statement that names at least two objects with colour and shape and one relation between them."""
    first, second, relation = rng.choice(clear_pairs(scene))
    group = _group_phrase(scene, first, second, relation)
    if group and rng.random() < 0.5:
        return Statement(group, relation, describe(second, rng), is_group=True)
    stated = Statement(describe(first, rng), relation, describe(second, rng))
    adornment = rng.random()
    if adornment < 0.1:
        return replace(stated, heads=f"{NUMBER_WORDS[len(scene.objects)]} shapes")
    if adornment < 0.25:
        return replace(stated, place=_place_phrase(first, rng))
    rest = [o for o in scene.objects if o not in (first, second)]
    if adornment < 0.45 and rest:
        third = rng.choice(rest)
        if place := _place_phrase(third, rng):
            return replace(stated, extra=f"{describe(third, rng)} {place}")
    return stated


def _place_phrase(obj: SceneObject, rng: random.Random) -> str | None:
    """Where `obj` lies in the picture, if that is clear."""
    places = [place for place in PLACES if place_holds(obj, place, margin=0.06)]
    return PLACE_WORDS[rng.choice(places)] if places else None


def _group_phrase(scene: Scene, first: SceneObject, second: SceneObject, relation: str) -> str | None:
    """'two red circles' if there are several like `first`, all in `relation` to `second`."""
    alike = [o for o in scene.objects if (o.colour, o.shape) == (first.colour, first.shape)]
    if len(alike) < 2 or second in alike or not all(relation_holds(o, relation, second) for o in alike):
        return None
    return f"{NUMBER_WORDS[len(alike)]} {first.colour} {plural(first.shape)}"


def captions(scene: Scene, rng: random.Random, count: int = 5) -> list[str]:
    """`count` different captions, each a statement of its own in one of its wordings."""
    found: list[str] = []
    while len(found) < count:
        sentence = statement(scene, rng).wording(rng)
        if sentence not in found:
            found.append(sentence)
    return found


def located_caption(scene: Scene, rng: random.Random) -> str:
    """All objects of the picture, each with its place: 'a red circle at the top, a blue square in the middle'."""
    phrases = []
    for obj in rng.sample(scene.objects, k=len(scene.objects)):
        places = [place for place in PLACES if place_holds(obj, place)]
        phrases.append(f"{describe(obj, rng)} {PLACE_WORDS[max(places, key=len)]}")
    return ", ".join(phrases)
