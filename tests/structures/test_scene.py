"""What is true of two objects, against angles in place of the comparisons that the code makes."""

import math

import pytest

from blip2.structures import Scene, SceneObject
from blip2.structures.scene import CONVERSE, HELD_OUT, RELATIONS, dominant_relation, place_holds, relation_holds

AXIS = {"right": 0, "below": 90, "left": 180, "above": 270}  # degrees, y downwards


def at(x, y):
    return SceneObject("star", "red", "small", "plain", x, y, 0.05)


def around(step, radius):
    """Objects on a circle around the middle: (degrees, object)."""
    for degrees in range(3, 363, step):
        angle = math.radians(degrees)
        yield degrees, at(0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle))


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_holds_within_63_degrees_of_its_axis_and_from_a_tenth_on(relation):
    widest = math.degrees(math.atan(2))
    for degrees, obj in around(4, 0.4):
        away = abs((degrees - AXIS[relation] + 180) % 360 - 180)
        assert relation_holds(obj, relation, at(0.5, 0.5)) == (away <= widest), degrees
    for _, obj in around(4, 0.09):
        assert not relation_holds(obj, relation, at(0.5, 0.5))


def test_the_converse_holds_of_the_other_object():
    for _, obj in around(7, 0.3):
        for relation, converse in CONVERSE.items():
            assert relation_holds(obj, relation, at(0.5, 0.5)) == relation_holds(at(0.5, 0.5), converse, obj)


def test_the_dominant_relation_is_that_of_the_nearest_axis_and_holds():
    for degrees, obj in around(4, 0.3):
        if degrees % 90 == 45:
            continue  # two axes are equally near
        nearest = min(AXIS, key=lambda name: abs((degrees - AXIS[name] + 180) % 360 - 180))
        assert dominant_relation(obj, at(0.5, 0.5)) == nearest
        assert relation_holds(obj, nearest, at(0.5, 0.5))
    assert dominant_relation(at(0.5, 0.5), at(0.6, 0.6)) is None


def test_places_are_words_of_the_picture_and_a_margin_asks_for_a_clearer_case():
    assert place_holds(at(0.1, 0.9), "bottom left") and not place_holds(at(0.1, 0.9), "bottom right")
    assert place_holds(at(0.5, 0.5), "middle") and not place_holds(at(0.1, 0.5), "middle")
    assert place_holds(at(0.5, 0.4), "top") and not place_holds(at(0.5, 0.4), "top", margin=0.05)


def test_a_scene_survives_its_file():
    scene = Scene((at(0.2, 0.3), at(0.7, 0.8)), "plain")
    assert Scene.from_dict(scene.to_dict()) == scene


def test_each_colour_and_each_shape_is_held_out_once():
    colours, shapes = zip(*HELD_OUT, strict=True)
    assert len(set(colours)) == len(set(shapes)) == len(HELD_OUT) == 8
