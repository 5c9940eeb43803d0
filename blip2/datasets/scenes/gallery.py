"""Texts for retrieval: each true of exactly one picture of a gallery."""

import random
from collections.abc import Sequence

from blip2.datasets.scenes.grammar import statement
from blip2.structures.scene import Scene
from blip2.structures.scene_reading import judge_caption

TEXTS_PER_PICTURE = 5
TRIES = 400


def gallery_captions(scenes: Sequence[Scene], rng: random.Random, count: int = TEXTS_PER_PICTURE) -> list[list[str]]:
    """`count` captions for each scene, all different, each true of that scene and of no other of `scenes`.

    Raises ValueError if two scenes are too much alike to be told apart in words.
    """
    pairs = [{(o.colour, o.shape) for o in scene.objects} for scene in scenes]
    written: set[str] = set()
    texts = []
    for place, scene in enumerate(scenes):
        found: list[str] = []
        for _ in range(TRIES):
            sentence = statement(scene, rng).wording(rng)
            if sentence not in written and _fits_only(sentence, place, scenes, pairs):
                found.append(sentence)
                written.add(sentence)
            if len(found) == count:
                break
        else:
            raise ValueError(f"scene {place} of the gallery cannot be told from the others: draw a smaller gallery")
        texts.append(found)
    return texts


def _fits_only(sentence: str, place: int, scenes: Sequence[Scene], pairs: Sequence[set[tuple[str, str]]]) -> bool:
    # Only a scene that shares two pairs of colour and shape with this one, or one that stands for both, can fit too.
    rivals = (other for other in range(len(scenes)) if other != place and pairs[other] & pairs[place])
    return not any(judge_caption(sentence, scenes[other]).exact for other in rivals)
