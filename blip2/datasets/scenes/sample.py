"""Random scenes: what is in a picture, before it is drawn."""

import random

from blip2.structures.scene import COLOURS, HELD_OUT, SHAPES, SIZES, Scene, SceneObject, dominant_relation

BACKGROUNDS = ("flat", "gradient", "tiles", "cloudy")
RADII = {"small": (0.085, 0.105), "large": (0.15, 0.18)}
TEXTURE_CHOICES = ("plain", "plain", "plain", "striped", "dotted")


def random_scene(rng: random.Random, combinations: str = "seen") -> Scene:
    """Two to four objects on a background, at least one pair of them in a clear relation.

    Args:
        rng: Source of randomness; the same state gives the same scene.
        combinations: 'seen' leaves out the pairs of colour and shape in `HELD_OUT`; 'held_out' puts such a pair on at
            least one object and lets the others be anything; 'any' allows everything (for text alone).
    """
    while True:
        count = rng.choices((2, 3, 4), (5, 3, 2))[0]
        pairs = [_colour_and_shape(rng, combinations, first=i == 0) for i in range(count)]
        if count > 2 and rng.random() < 0.4:  # twins, so that there is something to count
            pairs[1] = pairs[0]
        rng.shuffle(pairs)
        objects = _place(rng, pairs)
        if objects and any(dominant_relation(a, b) for a in objects for b in objects if a is not b):
            return Scene(tuple(objects), rng.choice(BACKGROUNDS))


def _colour_and_shape(rng: random.Random, combinations: str, first: bool) -> tuple[str, str]:
    if combinations == "held_out" and first:
        return rng.choice(sorted(HELD_OUT))
    while True:
        pair = rng.choice(COLOURS), rng.choice(SHAPES)
        if combinations != "seen" or pair not in HELD_OUT:
            return pair


def _place(rng: random.Random, pairs: list[tuple[str, str]]) -> list[SceneObject]:
    """Objects that overlap a little at most; an empty list when they do not fit."""
    objects: list[SceneObject] = []
    for colour, shape in pairs:
        size = rng.choice(SIZES)
        radius = rng.uniform(*RADII[size])
        for _ in range(30):
            x, y = rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius)
            if all(((x - o.x) ** 2 + (y - o.y) ** 2) ** 0.5 > 0.85 * (radius + o.radius) for o in objects):
                break
        else:
            return []
        texture = rng.choice(TEXTURE_CHOICES)
        objects.append(SceneObject(shape, colour, size, texture, round(x, 4), round(y, 4), round(radius, 4)))
    return objects
