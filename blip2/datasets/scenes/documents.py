"""Text alone: documents that make a language model use what stands before, in the way that captioning will ask of it.

A document is a context, ``</s>`` (the token that opens a text in OPT), and one line that follows from the context: a
sentence of it in other words, or a question with its answer. Copying from the context pays, computing does not: the
answer to a question about a whole scene stands in the context, among other words or alone.
"""

import random
from typing import Any

from blip2.datasets.scenes.grammar import Statement, clear_pairs, describe, statement, with_article
from blip2.datasets.scenes.questions import questions
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene import COLOURS, SHAPES, Scene, SceneObject


def document(rng: random.Random) -> str:
    """One training document."""
    scene = random_scene(rng, "any")
    kind = rng.random()
    if kind < 0.45:
        stated = [statement(scene, rng) for _ in range(rng.choice((1, 1, 2)))]
        chosen = rng.randrange(len(stated))
        if rng.random() < 0.3:  # now and then only key words: the model must not lean on one form of context
            stated = [s if s.is_group else s.core() for s in stated]
            context = ". ".join(s.wording(rng) if s.is_group else s.key_words() for s in stated)
        else:
            context = ". ".join(s.wording(rng) for s in stated)
        return f"{context}</s>{stated[chosen].wording(rng)}\n"
    context, asked, answer = _asked_context(scene, rng) if kind < 0.6 else _answered_context(scene, rng)
    return f"{context}</s>Question: {asked} Answer: {answer}\n"


def validation_document(rng: random.Random) -> dict[str, Any]:
    """A context about one pair, with what a true continuation is judged by: the pair as a scene, or the answer."""
    scene = random_scene(rng, "any")
    if rng.random() < 0.5:
        first, second, _ = rng.choice(clear_pairs(scene))
        pair = Scene((first, second), "flat")
        context = statement(pair, rng).core().wording(rng)
        return {"prompt": f"{context}</s>there is", "scene": pair.to_dict()}  # 'there is': no question now
    context, asked, answer = (_asked_context if rng.random() < 0.5 else _answered_context)(scene, rng)
    return {"prompt": f"{context}</s>Question: {asked} Answer:", "answer": answer}


def _asked_context(scene: Scene, rng: random.Random) -> tuple[str, str, str]:
    """A sentence about a pair of objects, a question about them, and its answer."""
    first, second, relation = rng.choice(clear_pairs(scene))
    context = Statement(describe(first, rng), relation, describe(second, rng)).wording(rng)
    return context, *question(rng, first, second, relation)


def _answered_context(scene: Scene, rng: random.Random) -> tuple[str, str, str]:
    """A context that holds the answer to a question about the scene, the question, and the answer."""
    asked = rng.choice(questions(scene, rng))
    other = statement(scene, rng).wording(rng)
    context = rng.choice((asked.answer, asked.answer, f"{asked.answer}. {other}", f"{other}. {asked.answer}"))
    return context, asked.text, asked.answer


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
