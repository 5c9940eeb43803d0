"""Text alone: documents that make a language model use what stands before, in the way that captioning will ask of it.

A document is a context, ``</s>`` (the token that opens a text in OPT), and one line that follows from the context: a
sentence of it in other words, or a question with its answer. A context always states something, as captions do: where
bare answers stood among the contexts, a Q-Former could not teach the model directions (docs/tiny_model.md). Numbers
come late for the same reason: the model first learns from documents without, then from some with them.
"""

import random
from typing import Any

from blip2.datasets.scenes.grammar import (
    NUMBER_WORDS,
    Statement,
    clear_pairs,
    describe,
    plural,
    statement,
    with_article,
)
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene import COLOURS, SHAPES, Scene, SceneObject


def document(rng: random.Random, counts: bool) -> str:
    """One training document; with `counts`, one of six questions is how many there are of something."""
    scene = random_scene(rng, "any")
    kind = rng.random()
    if kind < 0.7:
        stated = [statement(scene, rng) for _ in range(rng.choice((1, 1, 2)))]
        chosen = rng.randrange(len(stated))
        if rng.random() < 0.3:  # now and then only key words: the model must not lean on one form of context
            stated = [s if s.is_group else s.core() for s in stated]
            context = ". ".join(s.wording(rng) if s.is_group else s.key_words() for s in stated)
        else:
            context = ". ".join(s.wording(rng) for s in stated)
        return f"{context}</s>{stated[chosen].wording(rng)}\n"
    context, asked, answer = _asked_context(scene, rng, counts)
    return f"{context}</s>Question: {asked} Answer: {answer}\n"


def validation_document(rng: random.Random) -> dict[str, Any]:
    """A context about one pair, with what a true continuation is judged by: the pair as a scene, or the answer."""
    scene = random_scene(rng, "any")
    if rng.random() < 0.5:
        first, second, _ = rng.choice(clear_pairs(scene))
        pair = Scene((first, second), "flat")
        context = statement(pair, rng).core().wording(rng)
        return {"prompt": f"{context}</s>there is", "scene": pair.to_dict()}  # 'there is': no question now
    context, asked, answer = _asked_context(scene, rng, counts=True)
    return {"prompt": f"{context}</s>Question: {asked} Answer:", "answer": answer}


def _asked_context(scene: Scene, rng: random.Random, counts: bool) -> tuple[str, str, str]:
    """A sentence about a pair of objects, a question about them, and its answer."""
    first, second, relation = rng.choice(clear_pairs(scene))
    if counts and rng.random() < 1 / 6:
        return _counted_context(first, second, relation, rng)
    context = Statement(describe(first, rng), relation, describe(second, rng)).wording(rng)
    return context, *question(rng, first, second, relation)


def _counted_context(
    first: SceneObject, second: SceneObject, relation: str, rng: random.Random
) -> tuple[str, str, str]:
    """A sentence that tells in words how many there are of something, a question about it, and the digit."""
    number = rng.randrange(len(NUMBER_WORDS))
    other = describe(second, rng)
    if (first.colour, first.shape) == (second.colour, second.shape) or rng.random() < 0.3:
        number = max(number, 2)
        stated = Statement(describe(first, rng), relation, other, heads=f"{NUMBER_WORDS[number]} shapes")
        counted = "shapes"
    else:
        several = number > 1
        counted = f"{first.colour} {plural(first.shape)}"
        subject = f"{NUMBER_WORDS[number]} {counted}" if several else describe(first, rng)
        stated = Statement(subject, relation, other, is_group=several)
        if number == 0:  # of what the sentence does not name
            colours = [colour for colour in COLOURS if colour not in (first.colour, second.colour)]
            counted = f"{rng.choice(colours)} {plural(first.shape)}"
    asked = rng.choice(("how many {} are there?", "how many {} are in the picture?")).format(counted)
    return stated.wording(rng), asked, str(number)


def question(rng: random.Random, first: SceneObject, second: SceneObject, relation: str) -> tuple[str, str]:
    """A question about a pair of objects and its answer, both to be read off one sentence about the pair."""
    obj = rng.choice((first, second))
    kinds = ["where", "exists"]
    if first.shape != second.shape:
        kinds.append("colour")
    if first.colour != second.colour:
        kinds.append("shape")
    kind = rng.choice(kinds)
    if kind == "colour":
        return f"what color is the {obj.shape}?", obj.colour
    if kind == "shape":
        return f"what shape is {obj.colour}?", obj.shape
    if kind == "where":
        return (
            f"where is the {first.colour} {first.shape}?",
            f"{ {'left': 'left of', 'right': 'right of'}.get(relation, relation) } the {second.colour} {second.shape}",
        )
    if rng.random() < 0.5:
        return f"is there {with_article(f'{obj.colour} {obj.shape}')}?", "yes"
    while True:
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        if (colour, shape) not in ((first.colour, first.shape), (second.colour, second.shape)):
            return f"is there {with_article(f'{colour} {shape}')}?", "no"
