"""Fonts for text of any script, found without asking the system's font service.

The first font that holds a character draws it: DejaVu Sans (it comes with matplotlib, which mmengine needs), then fonts
for East Asian scripts and symbols at their usual places, then Pillow's own.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

# File names as Linux distributions, macOS and Windows ship them; the first found of each row is used.
_FALLBACK_FAMILIES = (
    ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf"),
    (
        "NotoSansCJK-Regular.ttc",
        "NotoSansCJKsc-Regular.otf",
        "wqy-microhei.ttc",
        "Hiragino Sans GB.ttc",
        "PingFang.ttc",
        "msyh.ttc",
    ),
    ("NotoSansDevanagari-Regular.ttf", "Kohinoor.ttc", "Nirmala.ttf"),
    ("NotoSansThai-Regular.ttf", "Thonburi.ttc", "leelawui.ttf"),
    ("NotoSansSymbols2-Regular.ttf", "Symbola.ttf", "Apple Symbols.ttf", "seguisym.ttf"),
)

_FreeType = ImageFont.FreeTypeFont
# No font assigns a glyph to this noncharacter, so it draws what a font draws for the unknown.
_UNASSIGNED = "\U0010ffff"


@dataclass(frozen=True)
class FontStack:
    """Fonts of one size, in order of preference."""

    fonts: tuple[_FreeType, ...]

    @property
    def line_height(self) -> int:
        """Pixels from one baseline to the next."""
        ascent, descent = self.fonts[0].getmetrics()
        return round((ascent + descent) * 1.12)

    @property
    def ascent(self) -> int:
        """Pixels from the top of a line to its baseline."""
        return self.fonts[0].getmetrics()[0]

    def runs(self, text: str) -> Iterator[tuple[str, _FreeType]]:
        """`text` cut where the font changes."""
        for font, characters in groupby(text, key=self._font_for):
            yield "".join(characters), font

    def width(self, text: str) -> float:
        """Pixels that `text` takes in one line."""
        return sum(font.getlength(run) for run, font in self.runs(text))

    def _font_for(self, character: str) -> _FreeType:
        if character.isspace():
            return self.fonts[0]
        return next((font for font in self.fonts if _has_glyph(font, character)), self.fonts[0])


@lru_cache(maxsize=16)
def font_stack(size: int, font: str | Path | None = None) -> FontStack:
    """The fonts at `size` pixels; `font` (a .ttf, .otf or .ttc file) comes first if given.

    Raises:
        FileNotFoundError: `font` is no file that holds a font.
    """
    paths = [*_fallback_paths()]
    if font is not None:
        paths.insert(0, str(font))
    fonts = []
    for path in paths:
        try:
            fonts.append(ImageFont.truetype(path, size))
        except OSError as error:
            if path == str(font):
                raise FileNotFoundError(f"no font in {path!r} (wanted: a .ttf, .otf or .ttc file)") from error
    default = ImageFont.load_default(size)
    if isinstance(default, ImageFont.FreeTypeFont):
        fonts.append(default)
    if not fonts:
        raise FileNotFoundError("no scalable font found; name a .ttf file in text_cfg=dict(font=...)")
    return FontStack(tuple(fonts))


@cache
def _fallback_paths() -> tuple[str, ...]:
    bundled = _matplotlib_font_folder()
    found = []
    for family in _FALLBACK_FAMILIES:
        for name in family:
            if bundled is not None and (bundled / name).is_file():
                found.append(str(bundled / name))
                break
            try:
                # Pillow searches the font folders of the operating system for a bare file name.
                found.append(str(ImageFont.truetype(name, 16).path))
                break
            except OSError:
                continue
    return tuple(found)


def _matplotlib_font_folder() -> Path | None:
    spec = importlib.util.find_spec("matplotlib")  # finds the folder without importing the package
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@cache
def _has_glyph(font: _FreeType, character: str) -> bool:
    glyph, unknown = font.getmask(character), font.getmask(_UNASSIGNED)
    return glyph.size != unknown.size or bytes(glyph) != bytes(unknown)
