"""The phantom world: procedural radiology-like pictures whose every fact is known exactly.

`make_phantom(seed, index)` draws picture number `index` of world `seed`: one of three modalities, one of three organs,
0, 1 or 2 lesions of different kinds in different quadrants, and the exact pixels of each lesion. The same numbers give
the same picture on every machine, so nothing has to be stored or downloaded. Words about a
phantom (questions, answers, statements) live in `phantom_text.py`.

Coordinates run from -1 to 1, x to the right and y down; "left" and "upper" are meant as seen in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator

SIZE = 112  # pixels a side
MODALITIES = ("ct", "mri", "x-ray")
ORGANS = ("brain", "lung", "liver")
KINDS = ("nodule", "cyst", "abscess", "calcification")
SIDES = ("left", "right")
LEVELS = ("upper", "lower")
LESION_COUNT_SHARES = (0.2, 0.5, 0.3)  # pictures with 0, 1, 2 lesions; two make a text-blind blob finder visible

Plane = Float[np.ndarray, "112 112"]
Row = Float[np.ndarray, "1 112"]
Column = Float[np.ndarray, "112 1"]

_TISSUES = ("background", "air", "fluid", "soft", "organ", "bone")
# Brightness of each before noise.
_BRIGHTNESS = {
    "ct": (0.03, 0.20, 0.32, 0.46, 0.54, 0.95),
    "mri": (0.03, 0.22, 0.80, 0.44, 0.56, 0.10),
    "x-ray": (0.12, 0.30, 0.42, 0.48, 0.53, 0.74),
}
_NOISE = {"ct": 0.035, "mri": 0.03, "x-ray": 0.05}
_EDGE = 0.018  # width of a soft border: one pixel


@dataclass(frozen=True)
class Finding:
    """One lesion in words."""

    kind: str
    side: str
    level: str

    @property
    def region(self) -> str:
        """The quadrant, e.g. "upper left"."""
        return f"{self.level} {self.side}"


@dataclass(frozen=True)
class Facts:
    """What is true about a picture; a picture never holds two lesions of a kind."""

    modality: str
    organ: str
    findings: tuple[Finding, ...]

    def find(self, kind: str) -> Finding | None:
        """The finding of this kind, or None."""
        return next((finding for finding in self.findings if finding.kind == kind), None)


@dataclass(frozen=True)
class Phantom:
    """A picture, its facts, and the exact pixels of each finding (the dots of a calcification count as one cluster)."""

    image: UInt8[np.ndarray, "112 112"]
    facts: Facts
    masks: tuple[Bool[np.ndarray, "112 112"], ...]  # in the order of facts.findings


def draw_facts(seed: int, index: int, *, lesion_count: int | None = None) -> Facts:
    """Draws what picture `index` of world `seed` shows, without rendering it.

    Args:
      seed: the world; pictures of different seeds share nothing.
      index: number of the picture, >= 0.
      lesion_count: 0, 1 or 2; None draws it with `LESION_COUNT_SHARES`.
    """
    random = np.random.default_rng((seed, index, 0))
    modality = MODALITIES[random.integers(len(MODALITIES))]
    organ = ORGANS[random.integers(len(ORGANS))]
    drawn_count = int(np.searchsorted(np.cumsum(LESION_COUNT_SHARES), random.random()))
    count = drawn_count if lesion_count is None else lesion_count
    kinds, quadrants = random.permutation(len(KINDS))[:count], random.permutation(4)[:count]
    return Facts(
        modality,
        organ,
        tuple(
            Finding(KINDS[kind], SIDES[quadrant % 2], LEVELS[quadrant // 2])
            for kind, quadrant in zip(kinds, quadrants, strict=True)
        ),
    )


def make_phantom(seed: int, index: int, *, lesion_count: int | None = None) -> Phantom:
    """Draws and renders picture `index` of world `seed`; arguments as `draw_facts`."""
    return render_phantom(seed, index, draw_facts(seed, index, lesion_count=lesion_count))


def render_phantom(seed: int, index: int, facts: Facts) -> Phantom:
    """Renders any facts with the anatomy of picture `index` of world `seed`."""
    random = np.random.default_rng((seed, index, 1))
    x, y = _coordinates()
    brightness = dict(zip(_TISSUES, _BRIGHTNESS[facts.modality], strict=True))
    picture = _ANATOMY[facts.organ](random, x, y, brightness)
    masks = []
    for finding in facts.findings:
        picture, mask = _add_lesion(random, picture, x, y, finding)
        masks.append(mask)
    picture = _acquire(random, picture, y, facts.modality)
    return Phantom(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8), facts, tuple(masks))


def mask_cells(mask: Bool[np.ndarray, "s s"], *, cells: int = 14, coverage: float = 0.15) -> Bool[np.ndarray, "c c"]:
    """The lesion on the judge's grid: cells of which it covers more than `coverage`.

    Args:
      mask: its pixels; `cells` divides the side.
      cells: of a side of the grid.
      coverage: share of a cell.
    """
    side = mask.shape[0] // cells
    return mask.reshape(cells, side, cells, side).mean((1, 3)) > coverage


def _coordinates() -> tuple[Row, Column]:
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    return axis[None, :], axis[:, None]


def _ellipse(x: Row, y: Column, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Plane:
    """Soft indicator of an ellipse: 1 inside, 0 outside, 0.5 on the outline."""
    cosine, sine = np.cos(turn), np.sin(turn)
    dx, dy = x - centre[0], y - centre[1]
    across = dx * (cosine / radii[0]) + dy * (sine / radii[0])
    along = dy * (cosine / radii[1]) - dx * (sine / radii[1])
    distance = (np.sqrt(across * across + along * along) - 1) * min(radii)
    return np.minimum(np.maximum(0.5 - distance / _EDGE, 0), 1)


def _paint(picture: Plane, where: Plane, brightness: float) -> Plane:
    return picture + where * (brightness - picture)


def _jitter(random: Generator, value: float, spread: float = 0.06) -> float:
    return value * (1 + spread * (2 * random.random() - 1))


def _brain(random: Generator, x: Row, y: Column, levels: dict[str, float]) -> Plane:
    """A skull with two ventricles beside the midline."""
    centre = (random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03))
    radii = (_jitter(random, 0.76), _jitter(random, 0.90))
    thickness = random.uniform(0.06, 0.09)
    picture = np.full((SIZE, SIZE), levels["background"])
    picture = _paint(picture, _ellipse(x, y, centre, radii), levels["bone"])
    picture = _paint(picture, _ellipse(x, y, centre, (radii[0] - thickness, radii[1] - thickness)), levels["organ"])
    for side in (-1, 1):
        ventricle = (centre[0] + side * _jitter(random, 0.10), centre[1] + random.uniform(-0.06, 0.02))
        size = (_jitter(random, 0.055, 0.2), _jitter(random, 0.17, 0.2))
        picture = _paint(picture, _ellipse(x, y, ventricle, size, side * random.uniform(0.0, 0.25)), levels["fluid"])
    return picture


def _lung(random: Generator, x: Row, y: Column, levels: dict[str, float]) -> Plane:
    """A chest with two air-filled lungs, ribs across them and the spine."""
    centre = (random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03))
    picture = np.full((SIZE, SIZE), levels["background"])
    body = _ellipse(x, y, centre, (_jitter(random, 0.93, 0.03), _jitter(random, 0.88, 0.04)))
    picture = _paint(picture, body, levels["soft"])
    lungs = np.zeros((SIZE, SIZE))
    for side in (-1, 1):
        lobe = (centre[0] + side * _jitter(random, 0.42), centre[1] + random.uniform(-0.04, 0.04))
        lungs = np.maximum(lungs, _ellipse(x, y, lobe, (_jitter(random, 0.30), _jitter(random, 0.64))))
    picture = _paint(picture, lungs, levels["air"])
    spacing, phase = random.uniform(0.24, 0.30), random.random()
    arcs = (y + 0.25 * np.abs(x - centre[0])) / spacing + phase
    ribs = np.exp(-(((arcs - np.rint(arcs)) * spacing / 0.028) ** 2)) * lungs * 0.45
    picture = _paint(picture, ribs, levels["bone"])
    spine = (centre[0] + random.uniform(-0.02, 0.02), centre[1] + _jitter(random, 0.55))
    return _paint(picture, _ellipse(x, y, spine, (_jitter(random, 0.09), _jitter(random, 0.13))), levels["bone"])


def _liver(random: Generator, x: Row, y: Column, levels: dict[str, float]) -> Plane:
    """An abdomen: a large lobe on the picture's left, the spleen on the right, spine and a bubble of gas."""
    centre = (random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03))
    body_radii = (_jitter(random, 0.92, 0.03), _jitter(random, 0.76, 0.04))
    body = _ellipse(x, y, centre, body_radii)
    picture = _paint(np.full((SIZE, SIZE), levels["background"]), body, levels["soft"])
    lobe = _ellipse(x, y, (centre[0] - 0.34, centre[1] - 0.06), (_jitter(random, 0.46), _jitter(random, 0.54)), 0.35)
    picture = _paint(picture, lobe * body, levels["organ"] + 0.06)
    spleen = (centre[0] + _jitter(random, 0.60), centre[1] + random.uniform(0.02, 0.16))
    picture = _paint(
        picture,
        _ellipse(x, y, spleen, (_jitter(random, 0.17), _jitter(random, 0.26)), -0.3) * body,
        levels["organ"] + 0.04,
    )
    spine = (centre[0] + random.uniform(-0.03, 0.03), centre[1] + _jitter(random, 0.52))
    picture = _paint(picture, _ellipse(x, y, spine, (_jitter(random, 0.12), _jitter(random, 0.12))), levels["bone"])
    gas = (centre[0] + random.uniform(0.10, 0.30), centre[1] - _jitter(random, 0.58, 0.05))
    return _paint(picture, _ellipse(x, y, gas, (_jitter(random, 0.14, 0.2), _jitter(random, 0.06, 0.2))), levels["air"])


_ANATOMY = {"brain": _brain, "lung": _lung, "liver": _liver}


def _add_lesion(
    random: Generator, picture: Plane, x: Row, y: Column, finding: Finding
) -> tuple[Plane, Bool[np.ndarray, "112 112"]]:
    """Paints one lesion over the anatomy, brightness relative to what it covers; returns its filled outline too."""
    centre = (
        random.uniform(0.25, 0.50) * (1 if finding.side == "right" else -1),
        random.uniform(0.24, 0.48) * (1 if finding.level == "lower" else -1),
    )
    is_large = random.random() < 0.5
    radius = random.uniform(0.15, 0.21) if is_large else random.uniform(0.09, 0.125)
    stretch = random.uniform(0.85, 1.18)  # the area stays that of the circle: at most 3.5 % of the picture
    radii, turn = (radius * stretch, radius / stretch), random.uniform(0, np.pi)
    inside = _ellipse(x, y, centre, radii, turn)
    if finding.kind == "nodule":
        change = 0.38 * inside
    elif finding.kind == "cyst":
        core = _ellipse(x, y, centre, (radii[0] - 0.03, radii[1] - 0.03), turn)
        change = -0.38 * core + 0.16 * (inside - core)
    elif finding.kind == "abscess":
        wall = max(0.035, 0.32 * radius)
        core = _ellipse(x, y, centre, (radii[0] - wall, radii[1] - wall), turn)
        change = 0.45 * (inside - core) - 0.22 * core
    else:
        change = 0.55 * _dots(random, x, y, centre, min(radii), 8 if is_large else 4)
    return np.clip(picture + change, 0, 1), inside > 0.5


def _dots(random: Generator, x: Row, y: Column, centre: tuple[float, float], radius: float, count: int) -> Plane:
    """A ring of bright specks that spans the lesion, one of them near the middle."""
    dots, start = np.zeros((SIZE, SIZE)), random.uniform(0, 2 * np.pi)
    for number in range(count):
        angle = start + 2 * np.pi * (number + 0.5 * random.random()) / (count - 1)
        reach = 0.15 if number == 0 else random.uniform(0.6, 0.85)
        dot_x, dot_y = centre[0] + reach * radius * np.cos(angle), centre[1] + reach * radius * np.sin(angle)
        speck = np.exp(-((y - dot_y) ** 2) / (2 * 0.022**2)) * np.exp(-((x - dot_x) ** 2) / (2 * 0.022**2))
        dots = np.maximum(dots, speck)
    return dots


def _acquire(random: Generator, picture: Plane, y: Column, modality: str) -> Plane:
    """What the scanner adds: a smooth bias field (MRI), a vertical gradient (x-ray), noise."""
    if modality == "mri":
        picture = picture * (1 + 0.22 * _smooth_field(random))
    elif modality == "x-ray":
        picture = 0.12 + 0.80 * picture + random.uniform(-0.08, 0.08) * y
    return picture + _NOISE[modality] * random.standard_normal(picture.shape)


def _smooth_field(random: Generator) -> Plane:
    """Bilinear enlargement of 4x4 random numbers in [-1, 1]."""
    coarse = random.uniform(-1, 1, (4, 4))
    position = np.linspace(0, 3, SIZE)
    low = np.minimum(position.astype(int), 2)
    weight = position - low
    rows = coarse[low] * (1 - weight[:, None]) + coarse[low + 1] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
