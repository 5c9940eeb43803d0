"""Questions about drawn scenes with their answers, in the words of VQAv2's files.

Each has exactly one right answer. Ten people answer it, and some of them may be mistaken in ways that people are: a
neighbouring colour, a number one off, yes for no; at least six give the right answer.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from blip2.datasets.scenes.grammar import RELATION_WORDS, SIZE_WORDS, TEXTURE_WORDS, plural, with_article
from blip2.structures.scene import (
    COLOURS,
    CONVERSE,
    RELATIONS,
    SHAPES,
    Scene,
    SceneObject,
    dominant_relation,
    relation_holds,
)

NEAR_COLOURS = {
    "red": "orange", "orange": "red", "yellow": "orange", "green": "blue",
    "blue": "purple", "purple": "pink", "pink": "purple", "brown": "orange",
}  # fmt: skip
NEAR_SHAPES = {
    "circle": "ring", "ring": "circle", "square": "diamond", "diamond": "square",
    "triangle": "diamond", "star": "cross", "cross": "star", "heart": "triangle",
}  # fmt: skip
NUM_ANSWERS = 10
DISPUTED = 0.15  # share of questions that not all ten answer alike


@dataclass(frozen=True)
class Question:
    """A question and its right answer. `kind` is one of `KINDS`; `answer_type` is VQAv2's: 'yes/no', 'number' or
    'other'.
    """

    text: str
    answer: str
    kind: str

    @property
    def answer_type(self) -> str:
        if self.answer in ("yes", "no"):
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"

    def answers(self, rng: random.Random) -> list[str]:
        """What ten people say."""
        said = [self.answer] * NUM_ANSWERS
        if rng.random() < DISPUTED:
            for place in rng.sample(range(NUM_ANSWERS), k=rng.randint(1, 4)):
                said[place] = _mistaken(self.answer, rng)
        return said


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """One question of each kind that the scene has a clear answer for, in random order."""
    found = [question for kind in KINDS.values() if (question := _attempt(kind, scene, rng))]
    rng.shuffle(found)
    return found


def _attempt(
    kind: Callable[[Scene, random.Random], Question | None], scene: Scene, rng: random.Random
) -> Question | None:
    return next((question for _ in range(8) if (question := kind(scene, rng))), None)


def _mistaken(answer: str, rng: random.Random) -> str:
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    if answer.isdigit():
        return str(max(0, int(answer) + rng.choice((-1, 1))))
    near = {**NEAR_COLOURS, **NEAR_SHAPES}
    words = answer.split()
    place = rng.randrange(len(words))
    words[place] = near[words[place]]
    return " ".join(words)


# ----- kinds -----


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    obj = rng.choice(scene.objects)
    name = _name(scene, obj, rng, colour=False)
    if name is None:
        return None
    form = rng.choice(("what color is the {}?", "what is the color of the {}?"))
    return Question(form.format(name), obj.colour, "color")


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    obj = rng.choice(scene.objects)
    name = _name(scene, obj, rng, shape=False)
    if name is None:
        return None
    form = rng.choice(("what shape is the {}?", "what is the shape of the {}?"))
    return Question(form.format(name), obj.shape, "shape")


def _count(scene: Scene, rng: random.Random) -> Question | None:
    obj = rng.choice(scene.objects)
    colour = obj.colour if rng.random() < 0.75 else rng.choice(COLOURS)
    shape = obj.shape if rng.random() < 0.75 else rng.choice(SHAPES)
    what = rng.choice(("all", "colour", "shape", "both"))
    if what == "all":
        return Question("how many shapes are there?", str(len(scene.objects)), "count")
    counted = [
        o for o in scene.objects if (what == "shape" or o.colour == colour) and (what == "colour" or o.shape == shape)
    ]
    names = {"colour": f"{colour} shapes", "shape": plural(shape), "both": f"{colour} {plural(shape)}"}
    form = rng.choice(("how many {} are there?", "how many {} are in the picture?"))
    return Question(form.format(names[what]), str(len(counted)), "count")


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    if rng.random() < 0.4:
        return _relation_holds(scene, rng)
    answer, anchor = rng.sample(scene.objects, k=2)
    relation, name = dominant_relation(answer, anchor), _name(scene, anchor, rng)
    if relation is None or name is None:
        return None
    if sum(relation_holds(o, relation, anchor) for o in scene.objects if o is not anchor) != 1:
        return None
    where = f"{rng.choice(RELATION_WORDS[relation])} the {name}"
    return rng.choice(
        (
            Question(f"what is {where}?", f"{answer.colour} {answer.shape}", "relation"),
            Question(f"what shape is {where}?", answer.shape, "relation"),
            Question(f"what color is the shape {where}?", answer.colour, "relation"),
        )
    )


def _relation_holds(scene: Scene, rng: random.Random) -> Question | None:
    first, second = rng.sample(scene.objects, k=2)
    relation, names = dominant_relation(first, second), (_name(scene, first, rng), _name(scene, second, rng))
    if relation is None or None in names:
        return None
    answer = "yes"
    if rng.random() < 0.5:
        # No diagonal cases: what lies left of and above something is not asked to be below it by a hair.
        false = [r for r in RELATIONS if r == CONVERSE[relation] or _clearly_not(first, r, second)]
        relation, answer = rng.choice(false), "no"
    words = rng.choice(RELATION_WORDS[relation])
    return Question(f"is the {names[0]} {words} the {names[1]}?", answer, "relation")


def _clearly_not(first: SceneObject, relation: str, second: SceneObject) -> bool:
    dx, dy = second.x - first.x, second.y - first.y
    return {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation] <= 0.02


def _existence(scene: Scene, rng: random.Random) -> Question | None:
    obj = rng.choice(scene.objects)
    colour, shape = obj.colour, obj.shape
    if rng.random() < 0.5:  # one word of an object that is there is made false
        colour, shape = (rng.choice(COLOURS), shape) if rng.random() < 0.5 else (colour, rng.choice(SHAPES))
    form = rng.choice(("is there {}?", "is there {} in the picture?", "do you see {}?"))
    there = any((o.colour, o.shape) == (colour, shape) for o in scene.objects)
    return Question(form.format(with_article(f"{colour} {shape}")), "yes" if there else "no", "existence")


def _comparison(scene: Scene, rng: random.Random) -> Question | None:
    return rng.choice((_size_comparison, _same_colour, _more))(scene, rng)


def _size_comparison(scene: Scene, rng: random.Random) -> Question | None:
    first, second = rng.sample(scene.objects, k=2)
    names = _name(scene, first, rng, details=False), _name(scene, second, rng, details=False)
    if None in names or first.size == second.size:
        return None
    word = rng.choice(("larger", "bigger", "smaller"))
    answer = "yes" if (first.size == "large") == (word != "smaller") else "no"
    return Question(f"is the {names[0]} {word} than the {names[1]}?", answer, "comparison")


def _same_colour(scene: Scene, rng: random.Random) -> Question | None:
    pairs = [pair for pair in permutations(scene.objects, 2) if pair[0].shape != pair[1].shape]
    alike = [pair for pair in pairs if pair[0].colour == pair[1].colour]
    if not pairs or (not alike and rng.random() < 0.7):  # else the answer is nearly always no
        return None
    first, second = rng.choice(alike or pairs)
    names = (_name(scene, o, rng, colour=False) for o in (first, second))
    one, other = names
    if one is None or other is None:
        return None
    answer = "yes" if first.colour == second.colour else "no"
    return Question(f"do the {one} and the {other} have the same color?", answer, "comparison")


def _more(scene: Scene, rng: random.Random) -> Question | None:
    attribute = rng.choice(("colour", "shape"))
    numbers = Counter(getattr(o, attribute) for o in scene.objects)
    if len(numbers) < 2 or len(set(numbers.values())) < 2:
        return None
    one, other = rng.sample(sorted(numbers), k=2)
    if numbers[one] == numbers[other]:
        return None
    names = (f"{v} shapes" if attribute == "colour" else plural(v) for v in (one, other))
    text = "are there more {} than {}?".format(*names)
    return Question(text, "yes" if numbers[one] > numbers[other] else "no", "comparison")


KINDS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "color": _colour,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
    "existence": _existence,
    "comparison": _comparison,
}


def _name(
    scene: Scene,
    obj: SceneObject,
    rng: random.Random,
    *,
    colour: bool = True,
    shape: bool = True,
    details: bool = True,
) -> str | None:
    """A name that only `obj` of the scene's objects has, such as 'red circle', 'large circle' or 'striped red shape';
    None if the words that may be used don't tell it apart.
    """
    candidates = []
    for with_colour in {colour, False}:
        for detail in (None, "size", "texture") if details else (None,):
            same = [
                o
                for o in scene.objects
                if (not with_colour or o.colour == obj.colour)
                and (not shape or o.shape == obj.shape)
                and (detail is None or getattr(o, detail) == getattr(obj, detail))
            ]
            if len(same) == 1 and not (detail == "texture" and obj.texture == "plain"):
                candidates.append((with_colour, detail))
    if not shape:
        candidates = [candidate for candidate in candidates if candidate[0]]  # 'the large object' says too little
    if not candidates:
        return None
    plain = [candidate for candidate in sorted(candidates, key=str) if candidate[1] is None]
    with_colour, detail = rng.choice(plain if plain and rng.random() < 0.8 else sorted(candidates, key=str))
    words = [obj.colour] if with_colour else []
    if detail == "size":
        words.insert(0, rng.choice(SIZE_WORDS[obj.size]))
    if detail == "texture":
        words.insert(0, rng.choice(TEXTURE_WORDS[obj.texture]))
    return " ".join([*words, obj.shape if shape else "object"])
