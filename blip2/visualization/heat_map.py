"""Heat maps over pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from .caption import CaptionStyle
from .contact_sheet import draw_contact_sheet


def draw_heat_map(
    picture: Image.Image, heat: ArrayLike, *, peak: float | None = None, opacity: float = 0.75
) -> Image.Image:
    """A new RGB picture: `picture` in grey with `heat` over it in colours, from green over yellow to red.

    Args:
        picture: of any mode and size.
        heat: h×w numbers, 0 or more; stretched over the picture. Where it is 0 the grey picture shows. Colours follow
            the square root, so that a weak place is seen beside a strong one.
        peak: the number that is hottest; by default the map's own largest. Give one for maps that shall be compared.
        opacity: 0 to 1, how much the hottest place covers.

    Raises:
        ValueError: not h×w numbers, a NaN, or `opacity` out of range.
    """
    values = np.asarray(heat, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"heat: wanted h×w finite numbers, got an array of shape {values.shape} or with NaN in it")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}: wanted 0 to 1")
    from matplotlib import colormaps

    picture = picture.convert("RGB")
    top = float(values.max()) if peak is None else peak
    scaled = np.clip(values / top if top > 0 else np.zeros_like(values), 0, 1)
    stretched = np.asarray(Image.fromarray(scaled).resize(picture.size, Image.Resampling.BILINEAR))
    shown = np.sqrt(stretched)[..., None]
    colours = colormaps["turbo"](0.45 + 0.45 * shown[..., 0])[..., :3] * 255
    grey = np.asarray(picture.convert("L").convert("RGB"))
    drawn = grey * (1 - opacity * shown) + colours * opacity * shown
    return Image.fromarray(drawn.round().astype(np.uint8))


def draw_heat_maps(
    heading: str,
    picture: Image.Image,
    heats: Sequence[tuple[str, ArrayLike]],
    *,
    height: int = 224,
    width: int = 1600,
    style: CaptionStyle | None = None,
) -> Image.Image:
    """A sheet: the picture, then the picture under each map with the map's name below it, all on one scale of colours.

    Args:
        heats: names and maps, as `draw_heat_map` takes them; at least one.
        heading, height, width, style: as in `draw_contact_sheet`.
    """
    if not heats:
        raise ValueError("no map to draw")
    peak = max(float(np.max(heat)) for _, heat in heats)
    large = picture.convert("RGB")
    if large.height < height:  # the map, too, is to be smooth
        large = large.resize((max(1, round(large.width * height / large.height)), height), Image.Resampling.BICUBIC)
    drawn = [draw_heat_map(large, heat, peak=peak) for _, heat in heats]
    labels = ["", *(name for name, _ in heats)]
    return draw_contact_sheet(heading, [large, *drawn], labels, height=height, width=width, style=style)
