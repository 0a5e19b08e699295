"""Draws scenes with PIL. Every thing is drawn once, four times too large, reduced, and kept as a sprite."""

import functools
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from fcit_ray.data.miniature.scenes import CELL, SIDE, Scene

RGB = dict[str, tuple[int, int, int]]
PAINT: RGB = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 220),
    "yellow": (240, 205, 30),
    "purple": (150, 55, 190),
    "orange": (245, 135, 25),
    "cyan": (50, 200, 210),
    "black": (30, 30, 30),
}
BACKGROUNDS: RGB = {
    "white": (255, 255, 255),
    "grey": (200, 200, 200),
    "grass": (216, 240, 208),
    "sky": (212, 230, 250),
    "sand": (250, 238, 212),
    "paper": (246, 240, 226),
    "slate": (120, 125, 135),
    "pink": (250, 222, 232),
}
OVERSIZE = 4  # sprites are drawn this many times too large, then reduced: smooth edges without a library
INK = (30, 30, 30, 255)
LIGHT = (255, 255, 255, 255)

Point = tuple[float, float]
Pen = Callable[..., None]


def draw(scene: Scene) -> Image.Image:
    """Draw a scene: RGB, `SIDE` pixels square."""
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[scene.background])
    if scene.axes:
        pen = ImageDraw.Draw(image)
        pen.line([(1, 1), (1, SIDE - 2)], fill=INK[:3])
        pen.line([(1, SIDE - 2), (SIDE - 2, SIDE - 2)], fill=INK[:3])
    for item in scene.items:
        if item.kind == "bar":
            left, bottom = item.col * CELL + 3 + item.shift[0], (item.row + 1) * CELL
            box = (left, bottom - item.height * CELL // 2, left + CELL - 7, bottom - 1)
            ImageDraw.Draw(image).rectangle(box, fill=PAINT[item.color], outline=INK[:3])
        elif item.kind == "line":
            y = item.row * CELL
            ImageDraw.Draw(image).line([(0, y), (SIDE, y)], fill=INK[:3])
        else:
            stamp = sprite(item.kind, item.name, item.color, item.size, item.span, item.style)
            image.paste(stamp, (item.col * CELL + item.shift[0], item.row * CELL + item.shift[1]), stamp)
    return image


@functools.cache
def sprite(kind: str, name: str, color: str, size: str, span: int, style: str) -> Image.Image:
    """One thing alone on a transparent square of `span` cells a side."""
    side = span * CELL
    if kind == "glyph":
        return _glyph(name, color)
    canvas = Image.new("RGBA", (side * OVERSIZE, side * OVERSIZE), (*PAINT[color], 0))
    brush = Brush(canvas, (*PAINT[color], 255), style, span)
    margin = 0.06 if size == "large" else 0.26
    brush.frame = (margin, 1 - 2 * margin)
    FIGURES[name](brush)
    return canvas.reduce(OVERSIZE)


def _glyph(character: str, color: str) -> Image.Image:
    # the bitmap font, as its pixels do not depend on the FreeType that PIL was built with
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = font.getbbox(character)
    mask = Image.new("L", (CELL, CELL), 0)
    glyph = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=font)
    glyph = glyph.crop(glyph.getbbox())
    glyph = glyph.resize((max(3, glyph.width * 13 // 10), glyph.height * 13 // 10), Image.Resampling.NEAREST)
    mask.paste(glyph, ((CELL - glyph.width) // 2, (CELL - glyph.height) // 2))
    stamp = Image.new("RGBA", (CELL, CELL), (*PAINT[color], 0))
    stamp.putalpha(mask)
    return stamp


class Brush:
    """Draws on the unit square, fitted into `frame`; y grows downwards.

    Args:
        canvas: where to draw, RGBA.
        main: the thing's own colour.
        style: "outline" leaves the inside of what is in the main colour empty.
        span: cells a side, which the outline's width follows.
    """

    def __init__(self, canvas: Image.Image, main: tuple[int, int, int, int], style: str, span: int):
        self.pen = ImageDraw.Draw(canvas)
        self.side = canvas.width
        self.main = main
        self.outline = style == "outline"
        self.width = max(OVERSIZE, OVERSIZE * span)
        self.frame = (0.0, 1.0)

    def _at(self, points: tuple[float, ...]) -> list[float]:
        start, scale = self.frame
        return [(start + scale * p) * self.side for p in points]

    def _ink(self, fill: tuple[int, int, int, int] | None) -> dict[str, object]:
        if fill is None and self.outline:
            return {"outline": self.main, "width": self.width}
        return {"fill": self.main if fill is None else fill}

    def disc(self, *box: float, fill: tuple[int, int, int, int] | None = None) -> None:
        self.pen.ellipse(self._at(box), **self._ink(fill))  # type: ignore[arg-type]

    def box(self, *box: float, fill: tuple[int, int, int, int] | None = None) -> None:
        self.pen.rectangle(self._at(box), **self._ink(fill))  # type: ignore[arg-type]

    def face(self, *points: float, fill: tuple[int, int, int, int] | None = None) -> None:
        self.pen.polygon(self._at(points), **self._ink(fill))  # type: ignore[arg-type]

    def half_disc(self, *box: float, start: int, end: int) -> None:
        self.pen.pieslice(self._at(box), start, end, **self._ink(None))  # type: ignore[arg-type]

    def stroke(self, *points: float, width: float = 0.1, fill: tuple[int, int, int, int] | None = INK) -> None:
        self.pen.line(self._at(points), fill=fill or self.main, width=max(1, round(width * self.side * self.frame[1])))


def _cube(b: Brush) -> None:
    b.face(0, 0.25, 0.25, 0, 1, 0, 0.75, 0.25, fill=LIGHT)
    b.face(0.75, 0.25, 1, 0, 1, 0.75, 0.75, 1, fill=INK)
    b.box(0, 0.25, 0.75, 1)


def _sphere(b: Brush) -> None:
    b.disc(0, 0, 1, 1)
    b.disc(0.2, 0.15, 0.45, 0.4, fill=LIGHT)


def _cylinder(b: Brush) -> None:
    b.box(0.15, 0.15, 0.85, 0.95)
    b.disc(0.15, 0, 0.85, 0.3, fill=LIGHT)
    b.stroke(0.85, 0.15, 0.85, 0.95, width=0.08)


def _cone(b: Brush) -> None:
    b.face(0.5, 0, 0.95, 0.9, 0.05, 0.9)
    b.disc(0.05, 0.8, 0.95, 1, fill=INK)


def _circle(b: Brush) -> None:
    b.disc(0.08, 0.08, 0.92, 0.92)


def _square(b: Brush) -> None:
    b.box(0.08, 0.08, 0.92, 0.92)


def _triangle(b: Brush) -> None:
    b.face(0.5, 0.02, 1, 0.95, 0, 0.95)


def _star(b: Brush) -> None:
    b.face(0.5, 0, 0.63, 0.36, 1, 0.38, 0.71, 0.6, 0.82, 0.98, 0.5, 0.76, 0.18, 0.98, 0.29, 0.6, 0, 0.38, 0.37, 0.36)


def _heart(b: Brush) -> None:
    b.disc(0.02, 0.08, 0.52, 0.56)
    b.disc(0.48, 0.08, 0.98, 0.56)
    b.face(0.06, 0.44, 0.94, 0.44, 0.5, 1)


def _diamond(b: Brush) -> None:
    b.face(0.5, 0, 0.88, 0.5, 0.5, 1, 0.12, 0.5)


def _cross(b: Brush) -> None:
    b.box(0.36, 0, 0.64, 1)
    b.box(0, 0.36, 1, 0.64)


def _moon(b: Brush) -> None:
    b.disc(0.05, 0.02, 0.97, 0.98)
    b.disc(0.38, -0.06, 1.12, 0.8, fill=(*b.main[:3], 0))


def _apple(b: Brush) -> None:
    b.disc(0.08, 0.25, 0.92, 1)
    b.stroke(0.5, 0.3, 0.58, 0.02, width=0.1)
    b.disc(0.56, 0.04, 0.88, 0.22, fill=INK)


def _pizza(b: Brush) -> None:
    b.face(0, 0.12, 1, 0.12, 0.5, 1)
    b.box(0, 0, 1, 0.16, fill=INK)
    for x, y in ((0.3, 0.3), (0.62, 0.36), (0.46, 0.6)):
        b.disc(x, y, x + 0.15, y + 0.15, fill=LIGHT)


def _carrot(b: Brush) -> None:
    b.face(0.2, 0.35, 0.72, 0.22, 0.66, 1)
    for x in (0.1, 0.4, 0.75):
        b.stroke(0.45, 0.32, x, 0, width=0.1)


def _cake(b: Brush) -> None:
    b.box(0.08, 0.42, 0.92, 1)
    b.box(0.08, 0.6, 0.92, 0.72, fill=LIGHT)
    for x in (0.25, 0.5, 0.75):
        b.stroke(x, 0.08, x, 0.42, width=0.09)


def _fish(b: Brush) -> None:
    b.disc(0, 0.22, 0.76, 0.78)
    b.face(0.66, 0.5, 1, 0.18, 1, 0.82)
    b.disc(0.14, 0.36, 0.27, 0.49, fill=INK)


def _bird(b: Brush) -> None:
    b.disc(0.25, 0.38, 0.95, 0.86)
    b.disc(0.1, 0.12, 0.48, 0.5)
    b.face(0.12, 0.24, 0.12, 0.4, -0.06, 0.34, fill=INK)
    b.stroke(0.52, 0.84, 0.52, 1.02, width=0.08)
    b.stroke(0.68, 0.84, 0.68, 1.02, width=0.08)
    b.face(0.4, 0.52, 0.78, 0.5, 0.6, 0.74, fill=INK)


def _cat(b: Brush) -> None:
    b.disc(0.08, 0.25, 0.92, 0.98)
    b.face(0.1, 0, 0.48, 0.34, 0.1, 0.55)
    b.face(0.9, 0, 0.52, 0.34, 0.9, 0.55)
    b.disc(0.26, 0.46, 0.4, 0.62, fill=INK)
    b.disc(0.6, 0.46, 0.74, 0.62, fill=INK)
    b.disc(0.42, 0.7, 0.58, 0.82, fill=LIGHT)


def _snail(b: Brush) -> None:
    b.disc(0.3, 0.1, 0.98, 0.8)
    b.disc(0.5, 0.3, 0.78, 0.58, fill=LIGHT)
    b.box(0, 0.8, 1, 0.96, fill=INK)
    b.stroke(0.08, 0.85, 0.08, 0.35, width=0.14)


def _car(b: Brush) -> None:
    b.face(0.22, 0.45, 0.36, 0.16, 0.68, 0.16, 0.82, 0.45)
    b.box(0, 0.42, 1, 0.74)
    b.disc(0.12, 0.6, 0.38, 0.9, fill=INK)
    b.disc(0.62, 0.6, 0.88, 0.9, fill=INK)


def _boat(b: Brush) -> None:
    b.face(0, 0.66, 1, 0.66, 0.78, 1, 0.22, 1)
    b.stroke(0.45, 0, 0.45, 0.7, width=0.08)
    b.face(0.53, 0.04, 0.94, 0.58, 0.53, 0.58)


def _truck(b: Brush) -> None:
    b.box(0, 0.12, 0.62, 0.76)
    b.box(0.68, 0.38, 1, 0.76)
    b.box(0.78, 0.44, 0.94, 0.58, fill=LIGHT)
    b.disc(0.08, 0.68, 0.34, 0.96, fill=INK)
    b.disc(0.66, 0.68, 0.92, 0.96, fill=INK)


def _rocket(b: Brush) -> None:
    b.face(0.5, 0, 0.7, 0.3, 0.7, 0.76, 0.3, 0.76, 0.3, 0.3)
    b.face(0.3, 0.5, 0.04, 0.86, 0.3, 0.76, fill=INK)
    b.face(0.7, 0.5, 0.96, 0.86, 0.7, 0.76, fill=INK)
    b.disc(0.41, 0.3, 0.59, 0.48, fill=LIGHT)
    b.face(0.38, 0.8, 0.62, 0.8, 0.5, 1, fill=INK)


def _house(b: Brush) -> None:
    b.box(0.12, 0.45, 0.88, 1)
    b.face(0.5, 0, 1, 0.46, 0, 0.46, fill=INK)
    b.box(0.42, 0.66, 0.6, 1, fill=LIGHT)


def _tree(b: Brush) -> None:
    b.box(0.4, 0.6, 0.6, 1, fill=INK)
    b.disc(0.1, 0, 0.9, 0.68)


def _umbrella(b: Brush) -> None:
    b.half_disc(0, 0.05, 1, 1.05, start=180, end=360)
    b.stroke(0.5, 0.5, 0.5, 0.95, width=0.09)
    b.stroke(0.5, 0.93, 0.3, 0.93, width=0.09)


def _cup(b: Brush) -> None:
    b.disc(0.55, 0.36, 1, 0.8, fill=INK)
    b.disc(0.64, 0.45, 0.91, 0.71, fill=LIGHT)
    b.face(0.04, 0.2, 0.76, 0.2, 0.68, 0.98, 0.12, 0.98)


_ALL = (
    _cube,
    _sphere,
    _cylinder,
    _cone,
    _circle,
    _square,
    _triangle,
    _star,
    _heart,
    _diamond,
    _cross,
    _moon,
    _apple,
    _pizza,
    _carrot,
    _cake,
    _fish,
    _bird,
    _cat,
    _snail,
    _car,
    _boat,
    _truck,
    _rocket,
    _house,
    _tree,
    _umbrella,
    _cup,
)
FIGURES: dict[str, Callable[[Brush], None]] = {figure.__name__.removeprefix("_"): figure for figure in _ALL}
