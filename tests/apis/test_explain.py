"""Heat maps of the small models on drawn scenes, of which it is known where everything is."""

import random

import numpy as np
import pytest
from PIL import Image

from blip2 import get_model
from blip2.apis import query_attention, word_maps
from blip2.datasets.scenes.render import draw_scene
from blip2.structures.scene import Scene, SceneObject


@pytest.fixture(scope="module")
def retrieval():
    return get_model("blip2-tiny_shapes-retrieval", pretrained=True)


def scene(seed: int) -> tuple[Scene, Image.Image]:
    """A circle at the top left and a square at the bottom right, of other colours each time."""
    rng = random.Random(seed)
    first, second = rng.sample(["red", "green", "blue", "purple", "brown"], 2)
    circle = SceneObject("circle", first, "large", "plain", 0.28, 0.28, 0.17)
    square = SceneObject("square", second, "large", "plain", 0.72, 0.72, 0.17)
    graph = Scene((circle, square), "flat")
    return graph, draw_scene(graph, rng, 120)


def share(heat: np.ndarray, thing: SceneObject) -> float:
    """How much of the map lies in the thing's box."""
    side = len(heat)
    x, y, r = (round(value * side) for value in (thing.x, thing.y, thing.radius))
    return float(heat[max(0, y - r) : y + r, max(0, x - r) : x + r].sum() / heat.sum())


def test_the_map_of_a_colour_lies_on_the_thing_of_that_colour(retrieval):
    own, other, box = [], [], []
    for seed in range(8):
        graph, picture = scene(seed)
        circle, square = graph.objects
        maps = dict(word_maps(retrieval, picture, f"a {circle.colour} circle above a {square.colour} square"))
        assert maps["circle"].shape == (120, 120)
        for thing, wrong in ((circle, square), (square, circle)):
            own.append(share(maps[thing.colour], thing))
            other.append(share(maps[thing.colour], wrong))
            box.append(4 * thing.radius**2)
    assert np.mean(own) > 3 * np.mean(box), "three times chance"
    assert np.mean(own) > 2 * np.mean(other)


def test_words_keep_their_order_and_their_punctuation(retrieval):
    words = [word for word, _ in word_maps(retrieval, scene(0)[1], "A red  CIRCLE, above a blue square.")]
    assert words == ["A", "red", "CIRCLE,", "above", "a", "blue", "square."]


@pytest.mark.parametrize("name", ["caption", "vqa", "retrieval"])
def test_queries_of_every_model_look_at_the_things_rather_than_the_ground(name):
    model = get_model(f"blip2-tiny_shapes-{name}", pretrained=True).train()
    modes = [module.training for module in model.modules()]
    graph, picture = scene(1)
    maps = query_attention(model, picture)
    assert maps.shape == (16, 120, 120) and [module.training for module in model.modules()] == modes
    sums = maps.sum((1, 2)) / 15**2  # of a patch
    assert (sums > 0.5).all() and (sums < 1.001).all(), "the class token has the rest"
    mean = maps.mean(0)
    assert sum(share(mean, thing) for thing in graph.objects) > 1.3 * sum(4 * o.radius**2 for o in graph.objects)


def test_a_picture_that_is_not_square_has_maps_of_its_own_size(retrieval):
    picture = scene(2)[1].resize((200, 100))
    assert query_attention(retrieval, picture).shape == (16, 100, 200)
    assert word_maps(retrieval, picture, "a circle")[0][1].shape == (100, 200)


def test_what_cannot_be_explained_is_named(retrieval):
    picture = scene(0)[1]
    captioner = get_model("blip2-tiny_shapes-caption")
    with pytest.raises(TypeError, match=r"Blip2Caption does not match texts .* retrieval model"):
        word_maps(captioner, picture, "a circle")
    with pytest.raises(ValueError, match="nothing to compare"):
        word_maps(retrieval, picture, "  ")
    with pytest.raises(ValueError, match=r"these have: \[0, 2\]"):
        query_attention(retrieval, picture, 1)
