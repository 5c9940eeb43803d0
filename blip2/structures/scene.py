"""A drawn scene as a graph: its objects, and which statements about them are true.

Positions and radii are fractions of the picture's side; x grows to the right and y downwards, as in the picture.
"""

from dataclasses import asdict, dataclass
from typing import Any

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
RELATIONS = ("left", "right", "above", "below")
CONVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACES = ("top", "bottom", "left", "right", "top left", "top right", "bottom left", "bottom right", "middle")

# Pairs of colour and shape that no training picture holds: each colour and each shape is left out once.
HELD_OUT = frozenset(zip(COLOURS, SHAPES[3:] + SHAPES[:3], strict=True))


@dataclass(frozen=True)
class SceneObject:
    """One object: ``x`` and ``y`` are its centre, ``radius`` that of its enclosing circle."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The objects of one picture, in drawing order (a later one covers an earlier one)."""

    objects: tuple[SceneObject, ...]
    background: str

    def to_dict(self) -> dict[str, Any]:
        return {"background": self.background, "objects": [asdict(o) for o in self.objects]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scene":
        return cls(tuple(SceneObject(**o) for o in data["objects"]), data["background"])


def relation_holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    """Whether `first` is `relation` ('left', 'right', 'above', 'below') of `second`.

    The centres must be a tenth of the picture apart in that direction, and the direction within 63° of the axis: what
    lies diagonally is both left of and above. The grammar states only the dominant direction.
    """
    dx, dy = second.x - first.x, second.y - first.y
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along >= 0.1 and along >= 0.5 * abs(across)


def dominant_relation(first: SceneObject, second: SceneObject) -> str | None:
    """The direction in which `first` lies from `second`; None when they are too close to tell."""
    dx, dy = second.x - first.x, second.y - first.y
    if max(abs(dx), abs(dy)) < 0.15:
        return None
    if abs(dx) >= abs(dy):
        return "left" if dx > 0 else "right"
    return "above" if dy > 0 else "below"


def place_holds(obj: SceneObject, place: str, margin: float = 0.0) -> bool:
    """Whether `obj` lies at `place` of the picture; a larger `margin` asks for a clearer case."""
    if place == "middle":
        return max(abs(obj.x - 0.5), abs(obj.y - 0.5)) <= 0.18 - margin
    low, high = 0.42 - margin, 0.58 + margin
    tests = {"top": obj.y <= low, "bottom": obj.y >= high, "left": obj.x <= low, "right": obj.x >= high}
    return all(tests[word] for word in place.split())
