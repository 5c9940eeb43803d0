"""Drawing a scene. Everything is drawn larger and reduced, so that a picture looks alike at any size."""

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from blip2.structures.scene import Scene, SceneObject

PALETTE = {
    "red": (214, 38, 40),
    "orange": (250, 138, 20),
    "yellow": (246, 222, 50),
    "green": (46, 150, 62),
    "blue": (40, 84, 214),
    "purple": (132, 48, 168),
    "pink": (250, 150, 196),
    "brown": (118, 70, 32),
}
SUPERSAMPLING = 3


def draw_scene(scene: Scene, rng: random.Random, size: int = 96) -> Image.Image:
    """The picture of `scene`, `size` × `size` RGB, with jittered colours, turned shapes and sensor noise from `rng`."""
    side = size * SUPERSAMPLING
    canvas = Image.fromarray(_background(scene.background, rng, side))
    for obj in scene.objects:
        _draw_object(canvas, obj, rng, side)
    pixels = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.clip(pixels + rng.uniform(0, 6) * noise, 0, 255).astype(np.uint8))


def _background(kind: str, rng: random.Random, side: int) -> np.ndarray:
    """side × side × 3 uint8: pale or dark, never as strongly coloured as an object."""
    base = np.array([rng.uniform(175, 245)] * 3) if rng.random() < 0.75 else np.array([rng.uniform(25, 70)] * 3)
    base = base + np.array([rng.uniform(-10, 10) for _ in range(3)])
    other = base + np.array([rng.uniform(-22, 22)] * 3)
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    if kind == "flat":
        weight = np.zeros((side, side), np.float32)
    elif kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        weight = 0.5 + 0.5 * (np.cos(angle) * (ramp[None] - 0.5) + np.sin(angle) * (ramp[:, None] - 0.5)) * 1.4
    elif kind == "tiles":
        cells = np.floor(ramp * rng.randint(3, 7)).astype(int)
        weight = ((cells[None] + cells[:, None]) % 2).astype(np.float32)
    else:
        coarse = np.random.default_rng(rng.getrandbits(32)).random((5, 5), dtype=np.float32)
        weight = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    mixed = base + weight[..., None] * (other - base)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _draw_object(canvas: Image.Image, obj: SceneObject, rng: random.Random, side: int) -> None:
    radius = obj.radius * side
    box = math.ceil(2 * radius) + 2
    turn = rng.uniform(-12, 12)
    colour = tuple(max(0, min(255, c + rng.randint(-12, 12))) for c in PALETTE[obj.colour])
    patch = Image.new("RGB", (box, box), colour)
    if obj.texture != "plain":  # inside a rim of the plain colour, so that the outline stays clear
        textured = Image.new("RGB", (box, box), colour)
        _draw_texture(ImageDraw.Draw(textured), obj.texture, colour, box, radius, rng)
        patch.paste(textured, mask=_shape_mask(obj.shape, box, 0.82 * radius, turn))
    corner = round(obj.x * side - box / 2), round(obj.y * side - box / 2)
    canvas.paste(patch, corner, _shape_mask(obj.shape, box, radius, turn))


def _shape_mask(shape: str, box: int, radius: float, turn: float) -> Image.Image:
    mask = Image.new("L", (box, box), 0)
    _fill_shape(ImageDraw.Draw(mask), shape, box / 2, radius, math.radians(turn))
    return mask


def _draw_texture(
    draw: ImageDraw.ImageDraw, texture: str, colour: tuple[int, ...], box: int, radius: float, rng: random.Random
) -> None:
    """Stripes or dots in a paler tone; the period follows the object, so that small ones show it too."""
    pale = tuple(round(c + 0.75 * (255 - c)) for c in colour)
    if texture == "striped":
        period, slope = 0.46 * radius, rng.choice((-1.0, 0.0, 1.0))
        start = -box if slope else 0
        for k in range(math.ceil(2 * box / period) + 1):
            x = start + k * period
            draw.line([(x, 0), (x + slope * box, box)], fill=pale, width=round(0.17 * radius))
    else:
        period, dot = 0.5 * radius, 0.16 * radius
        for i in range(math.ceil(box / period) + 1):
            for j in range(math.ceil(box / period) + 1):
                x, y = (i + 0.5 * (j % 2)) * period, j * period
                draw.ellipse([x - dot, y - dot, x + dot, y + dot], fill=pale)


def _fill_shape(draw: ImageDraw.ImageDraw, shape: str, centre: float, radius: float, turn: float) -> None:
    """Fills `shape` inside the circle of `radius` around (`centre`, `centre`)."""

    def polygon(points: list[tuple[float, float]]) -> None:
        cos, sin = math.cos(turn), math.sin(turn)
        draw.polygon(
            [(centre + radius * (cos * x - sin * y), centre + radius * (sin * x + cos * y)) for x, y in points],
            fill=255,
        )

    def circle(scale: float, fill: int) -> None:
        r = scale * radius
        draw.ellipse([centre - r, centre - r, centre + r, centre + r], fill=fill)

    if shape == "circle":
        circle(0.9, 255)
    elif shape == "ring":
        circle(0.95, 255)
        circle(0.5, 0)
    elif shape == "square":
        polygon([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)])
    elif shape == "diamond":
        polygon([(0, -1), (0.68, 0), (0, 1), (-0.68, 0)])
    elif shape == "triangle":
        polygon([(0, -0.95), (0.9, 0.7), (-0.9, 0.7)])
    elif shape == "cross":
        w, r = 0.3, 0.95
        polygon(
            [(-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w), (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w)]
        )
    elif shape == "star":
        spokes = [(1.0 if k % 2 == 0 else 0.42, math.pi * (k / 5 - 0.5)) for k in range(10)]
        polygon([(r * math.cos(a), r * math.sin(a)) for r, a in spokes])
    elif shape == "heart":
        ts = [2 * math.pi * k / 40 for k in range(40)]
        polygon(
            [
                (
                    16 * math.sin(t) ** 3 / 17,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
                )
                for t in ts
            ]
        )
    else:
        raise ValueError(f"unknown shape {shape!r}")
