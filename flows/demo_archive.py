"""A sample archive for ``ddfm demo``, computed from formulas: no download, no licence, the same bytes every time.

Two data sets are written, each as two folders whose files pair by stem::

    infrared_visible/infrared, visible   street scenes at night; one infrared picture has 16 bits, one is cut short
    ct_mri/ct, mri                       head phantoms

A scene is painted from back to front. Each object covers a part of the picture in both sources at once, with the
colour that reflects light and the warmth that an infrared camera sees, so the two sources agree in geometry and
differ in what they show: the people are warm and almost unlit, the markings are lit and as warm as the road.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.publish.png import encode_png

_Plane: TypeAlias = NDArray[np.float64]
_Colour: TypeAlias = tuple[float, float, float]

_SCENE_HEIGHT: Final = 240
_SCENE_WIDTH: Final = 320
_HEAD_SIDE: Final = 224
_OVERSAMPLING: Final = 2
_COUNTS: Final = (7200.0, 9400.0)
"""Raw values between which the 16-bit infrared picture lies, as a 14-bit camera writes them."""


@dataclass(frozen=True)
class DemoSet:
    """One data set of the sample archive.

    Attributes:
        name: of the data set.
        first, second: the folders of its two sources, named as their modalities.
        pairs: how many stems both folders hold, broken ones among them.
        broken: how many of those cannot be read.
    """

    name: str
    first: Path
    second: Path
    pairs: int
    broken: int


def make_demo_archive(folder: Path) -> list[DemoSet]:
    """Write the sample archive into ``folder``, made if missing; files of the same names are replaced."""
    streets = DemoSet(
        "infrared_visible",
        folder / "infrared_visible" / "infrared",
        folder / "infrared_visible" / "visible",
        len(_SCENES) + 1,
        1,
    )
    heads = DemoSet("ct_mri", folder / "ct_mri" / "ct", folder / "ct_mri" / "mri", len(_HEADS), 0)
    for path in (streets.first, streets.second, heads.first, heads.second):
        path.mkdir(parents=True, exist_ok=True)
    for scene in _SCENES:
        infrared, visible = _paint_scene(scene)
        name = f"{scene.name}.png"
        (streets.first / name).write_bytes(_encode_counts(infrared) if scene.sixteen_bits else _encode(infrared[None]))
        (streets.second / name).write_bytes(_encode(visible))
    whole = (streets.first / f"{_SCENES[0].name}.png").read_bytes()
    (streets.first / "06_copy_cut_short.png").write_bytes(whole[: len(whole) * 6 // 10])
    (streets.second / "06_copy_cut_short.png").write_bytes((streets.second / f"{_SCENES[0].name}.png").read_bytes())
    for head in _HEADS:
        ct, mri = _paint_head(head)
        (heads.first / f"{head.name}.png").write_bytes(_encode(ct[None]))
        (heads.second / f"{head.name}.png").write_bytes(_encode(mri[None]))
    return [streets, heads]


def _encode(picture: _Plane) -> bytes:
    """[C, H, W] in [0, 1] as a PNG of 8 bits."""
    return encode_png((picture * 2 - 1).astype(np.float32), 8)


def _encode_counts(picture: _Plane) -> bytes:
    """[H, W] in [0, 1] as a PNG of 16 bits that holds a camera's raw counts."""
    counts = _COUNTS[0] + picture * (_COUNTS[1] - _COUNTS[0])
    return encode_png((counts[None] / 65535 * 2 - 1).astype(np.float32), 16)


# Painting


def _texture(generator: np.random.Generator, shape: tuple[int, int], size: float, roughness: float = 1.5) -> _Plane:
    """Random texture [H, W] of unit variance: noise whose spectrum falls off beyond features of ``size`` pixels."""
    down = np.fft.fftfreq(shape[0])[:, None]
    across = np.fft.rfftfreq(shape[1])[None]
    gain = (1 + (size * np.hypot(down, across)) ** 2) ** -roughness
    plane = np.fft.irfft2(np.fft.rfft2(generator.standard_normal(shape)) * gain, shape)
    centred: _Plane = (plane - plane.mean()) / plane.std()
    return centred


def _step(signed_distance: _Plane, softness: float = 1.0) -> _Plane:
    """Coverage 0..1 from a distance in pixels that is positive inside."""
    return np.clip(signed_distance / softness + 0.5, 0, 1)


def _blur(plane: _Plane, sigma: float) -> _Plane:
    """Gaussian blur of [H, W] by the FFT, mirrored at the borders."""
    height, width = plane.shape
    mirrored = np.block([[plane, plane[:, ::-1]], [plane[::-1], plane[::-1, ::-1]]])
    down = np.fft.fftfreq(2 * height)[:, None]
    across = np.fft.rfftfreq(2 * width)[None]
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (down**2 + across**2))
    blurred: _Plane = np.fft.irfft2(np.fft.rfft2(mirrored) * gain, mirrored.shape)[:height, :width]
    return blurred


def _shrink(plane: _Plane) -> _Plane:
    """Average blocks of the oversampled plane [..., H, W]."""
    *leading, height, width = plane.shape
    blocks = plane.reshape(*leading, height // _OVERSAMPLING, _OVERSAMPLING, width // _OVERSAMPLING, _OVERSAMPLING)
    shrunk: _Plane = blocks.mean((-3, -1))
    return shrunk


class _Canvas:
    """Reflectance, emitted light and warmth of a scene, painted from back to front.

    Coordinates are pixels of the final picture, x to the right and y down; the planes are oversampled.
    """

    def __init__(self, height: int, width: int) -> None:
        step = 1 / _OVERSAMPLING
        self.y, self.x = np.mgrid[step / 2 : height : step, step / 2 : width : step]
        self.reflectance = np.zeros((3, *self.x.shape))
        self.light = np.zeros((3, *self.x.shape))
        self.warmth = np.zeros(self.x.shape)

    def paint(
        self,
        coverage: _Plane,
        colour: _Colour,
        warmth: float | _Plane,
        texture: float | _Plane = 0.0,
        light: _Colour = (0, 0, 0),
    ) -> None:
        """Lay an object over what is there.

        Args:
            coverage: 0..1 per pixel.
            colour: its reflectance, varied by the factor 1 + ``texture``.
            light: what it emits itself, seen without a lamp.
        """
        rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
        if not rows.size:
            return
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = coverage[window]

        def blend(plane: _Plane, value: float | _Plane) -> None:
            inside = plane[window]
            inside += part * ((value[window] if isinstance(value, np.ndarray) else value) - inside)

        for channel in range(3):
            blend(self.reflectance[channel], colour[channel] * (1 + texture))
            blend(self.light[channel], light[channel])
        blend(self.warmth, warmth)

    def box(self, left: float, top: float, right: float, bottom: float) -> _Plane:
        """Coverage of a rectangle."""
        inside = np.minimum(np.minimum(self.x - left, right - self.x), np.minimum(self.y - top, bottom - self.y))
        return _step(inside)

    def ellipse(self, x: float, y: float, across: float, down: float) -> _Plane:
        """Coverage of an ellipse of the given half-axes."""
        radius = np.hypot((self.x - x) / across, (self.y - y) / down)
        return _step((1 - radius) * min(across, down))

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float) -> _Plane:
        """Coverage of a straight limb with round ends."""
        (x0, y0), (x1, y1) = start, end
        along = ((self.x - x0) * (x1 - x0) + (self.y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        along = np.clip(along, 0, 1)
        return _step(width / 2 - np.hypot(self.x - x0 - along * (x1 - x0), self.y - y0 - along * (y1 - y0)))


# Streets at night


@dataclass(frozen=True)
class _House:
    left: float
    right: float
    eaves: float
    base: float
    colour: _Colour
    gable: float = 0.0


@dataclass(frozen=True)
class _Scene:
    """What stands where, in pixels. People and cars stand with their feet and wheels at ``y``."""

    name: str
    seed: int
    horizon: float
    vanishing: float
    houses: tuple[_House, ...]
    trees: tuple[tuple[float, float, float], ...]
    lamps: tuple[tuple[float, float, float], ...]
    people: tuple[tuple[float, float, float], ...]
    cars: tuple[tuple[float, float, float], ...] = ()
    moonlight: float = 0.10
    sixteen_bits: bool = False


_BRICK: Final[_Colour] = (0.62, 0.36, 0.28)
_PLASTER: Final[_Colour] = (0.70, 0.66, 0.56)
_GREY_WALL: Final[_Colour] = (0.50, 0.52, 0.55)
_OCHRE: Final[_Colour] = (0.72, 0.56, 0.34)

_SCENES: Final = (
    _Scene(
        name="01_street_lamp",
        seed=101,
        horizon=128,
        vanishing=170,
        houses=(_House(-5, 96, 44, 146, _BRICK, 26), _House(216, 330, 34, 150, _PLASTER)),
        trees=((124, 140, 30), (196, 136, 20)),
        lamps=((112, 190, 128),),
        people=((78, 206, 66), (238, 198, 54), (254, 200, 52)),
    ),
    _Scene(
        name="02_parked_car",
        seed=202,
        horizon=120,
        vanishing=110,
        houses=(_House(120, 232, 30, 140, _OCHRE, 24), _House(244, 340, 58, 144, _GREY_WALL, 20)),
        trees=((52, 138, 44), (100, 134, 24)),
        lamps=((246, 176, 112),),
        people=((62, 204, 62),),
        cars=((196, 206, 92),),
    ),
    _Scene(
        name="03_crossing_16_bit",
        seed=303,
        horizon=112,
        vanishing=150,
        houses=(
            _House(-10, 70, 20, 134, _GREY_WALL),
            _House(84, 140, 56, 126, _BRICK, 16),
            _House(232, 335, 40, 138, _OCHRE, 30),
        ),
        trees=((206, 128, 26),),
        lamps=((60, 178, 118), (222, 150, 78)),
        people=((120, 192, 56), (140, 196, 58), (184, 166, 36)),
        cars=((262, 216, 96),),
        sixteen_bits=True,
    ),
    _Scene(
        name="04_park",
        seed=404,
        horizon=118,
        vanishing=210,
        houses=(_House(18, 74, 70, 128, _PLASTER, 18),),
        trees=((104, 134, 40), (160, 128, 26), (270, 140, 54), (4, 140, 40)),
        lamps=((196, 172, 100),),
        people=((130, 190, 54), (238, 212, 70)),
        moonlight=0.13,
    ),
    _Scene(
        name="05_back_yard",
        seed=505,
        horizon=134,
        vanishing=120,
        houses=(_House(-8, 128, 18, 158, _PLASTER), _House(140, 328, 48, 154, _BRICK, 28)),
        trees=((292, 158, 40),),
        lamps=((150, 200, 132),),
        people=((206, 214, 68), (40, 208, 62)),
        cars=((96, 220, 84),),
        moonlight=0.08,
    ),
)


def _paint_scene(scene: _Scene) -> tuple[_Plane, _Plane]:
    """(infrared [H, W], visible [3, H, W]), both in [0, 1]."""
    generator = np.random.default_rng(scene.seed)
    canvas = _Canvas(_SCENE_HEIGHT, _SCENE_WIDTH)
    shape = canvas.x.shape
    _paint_ground(canvas, scene, generator)
    for house in scene.houses:
        _paint_house(canvas, house, generator)
    for x, base, radius in scene.trees:
        _paint_tree(canvas, x, base, radius, generator)
    for x, base, height in sorted(scene.lamps, key=lambda lamp: lamp[1]):
        _paint_lamp(canvas, x, base, height)
    standing = [(_paint_person, *person) for person in scene.people] + [(_paint_car, *car) for car in scene.cars]
    for paint, x, y, size in sorted(standing, key=lambda entry: entry[2]):
        paint(canvas, x, y, size, generator)
    illumination = _illumination(canvas, scene)
    visible = canvas.reflectance * illumination + canvas.light
    bloom = np.stack([_blur(np.maximum(plane - 0.75, 0), 5 * _OVERSAMPLING) for plane in visible])
    visible = _shrink(visible + 1.2 * bloom)
    visible = np.clip(visible, 0, 1) ** (1 / 1.9) + generator.normal(0, 0.012, (3, _SCENE_HEIGHT, _SCENE_WIDTH))
    drift = 0.015 * _texture(generator, shape, 60 * _OVERSAMPLING)
    infrared = _shrink(_blur(canvas.warmth + drift, 0.8 * _OVERSAMPLING))
    infrared = infrared + generator.normal(0, 0.008, infrared.shape)
    return np.clip(infrared, 0, 1), np.clip(visible, 0, 1)


def _paint_ground(canvas: _Canvas, scene: _Scene, generator: np.random.Generator) -> None:
    """Sky, lawn, pavement and road in perspective, with its markings."""
    x, y = canvas.x, canvas.y
    everywhere = np.ones(x.shape)
    height = np.clip((scene.horizon - y) / scene.horizon, 0, 1)
    clouds = _texture(generator, x.shape, 90, 1.2)
    canvas.paint(everywhere, (0, 0, 0), 0.05 + 0.10 * (1 - height) ** 2 + 0.012 * clouds)
    for channel, tint in enumerate((0.020, 0.028, 0.055)):
        canvas.light[channel] = tint * (0.5 + 0.9 * (1 - height)) * (1 + 0.25 * clouds)
    ground = _step((y - scene.horizon) * _OVERSAMPLING)
    grass = _texture(generator, x.shape, 3, 1.0)
    canvas.paint(ground, (0.30, 0.42, 0.22), 0.24 + 0.035 * grass, 0.28 * grass)
    # Distances across the road scale with the distance below the horizon.
    depth = np.maximum(y - scene.horizon, 0.5) / (_SCENE_HEIGHT - scene.horizon)
    across = (x - scene.vanishing) / depth
    asphalt = _texture(generator, x.shape, 2, 0.8)
    patches = _texture(generator, x.shape, 40, 1.5)
    pavement = ground * _step((190 - np.abs(across)) * depth)
    slabs = 0.10 * ((np.floor(60 / (depth + 0.08)) + np.floor(across / 24)) % 2) - 0.05
    canvas.paint(pavement, (0.52, 0.50, 0.47), 0.34 + 0.012 * patches, slabs + 0.06 * asphalt)
    road = ground * _step((140 - np.abs(across)) * depth)
    canvas.paint(road, (0.27, 0.27, 0.28), 0.41 + 0.015 * patches, 0.10 * asphalt + 0.07 * patches)
    kerb = ground * _step((4 - np.abs(np.abs(across) - 142)) * depth)
    canvas.paint(kerb, (0.62, 0.60, 0.56), 0.38, 0.05 * asphalt)
    dashes = (1 / (depth + 0.12)) % 1.6 < 0.9
    line = ground * _step((3.5 - np.abs(across)) * depth) * dashes
    canvas.paint(line, (0.92, 0.90, 0.84), 0.40)


def _paint_house(canvas: _Canvas, house: _House, generator: np.random.Generator) -> None:
    """A front wall of courses of brick or of plaster, windows (some lit), a door and a roof."""
    x, y = canvas.x, canvas.y
    grain = _texture(generator, x.shape, 4, 1.0)
    stains = _texture(generator, x.shape, 30, 1.5)
    course = np.floor(y / 4)
    joint = (y % 4 < 0.9) | ((x + 4 * (course % 2)) % 8 < 0.9)
    relief = np.where(joint, -0.30, 0.10) if house.colour == _BRICK else 0.0
    middle = (house.left + house.right) / 2
    half = (house.right - house.left) / 2
    if house.gable:
        rise = house.eaves - house.gable * np.clip(1 - np.abs(x - middle) / (half + 5), 0, 1)
        roof = _step(np.minimum(y - rise, house.eaves + 3 - y)) * _step(half + 5 - np.abs(x - middle))
        tiles = 0.16 * np.sin(2 * np.pi * y / 3.4) * np.cos(2 * np.pi * (x + 2 * np.floor(y / 3.4)) / 5)
        canvas.paint(roof, (0.34, 0.20, 0.17), 0.17 + 0.015 * stains, tiles + 0.10 * grain)
    wall = canvas.box(house.left, house.eaves, house.right, house.base)
    warm = 0.33 + 0.02 * stains + 0.03 * (y - house.eaves) / (house.base - house.eaves)
    canvas.paint(wall, house.colour, warm, relief + 0.08 * grain + 0.07 * stains)
    columns = max(2, round(2 * half / 30))
    rows = max(1, round((house.base - house.eaves - 34) / 34))
    for row in range(rows):
        for column in range(columns):
            left = house.left + (column + 0.5) * 2 * half / columns - 6
            top = house.eaves + 10 + row * 34
            frame = canvas.box(left - 1.5, top - 1.5, left + 13.5, top + 19.5)
            canvas.paint(frame, (0.75, 0.74, 0.70), 0.37)
            pane = canvas.box(left, top, left + 12, top + 18)
            if generator.random() < 0.3:
                canvas.paint(pane, (0.2, 0.2, 0.2), 0.47, light=(0.58, 0.44, 0.22))
                canvas.paint(canvas.box(left, top, left + 12, top + 4), (0.2, 0.2, 0.2), 0.45, light=(0.40, 0.28, 0.13))
            else:
                canvas.paint(pane, (0.10, 0.12, 0.16), 0.29, 0.4 * np.sin((x + y) / 3))
            canvas.paint(canvas.box(left + 5.4, top, left + 6.6, top + 18), (0.75, 0.74, 0.70), 0.35)
    door = house.left + (columns // 2) * 2 * half / columns
    canvas.paint(canvas.box(door - 7, house.base - 30, door + 7, house.base), (0.30, 0.18, 0.10), 0.40, 0.15 * grain)


def _paint_tree(canvas: _Canvas, x: float, base: float, radius: float, generator: np.random.Generator) -> None:
    """A trunk, and a crown whose outline is broken up by leaves; leaves are colder than walls and roads."""
    leaves = _texture(generator, canvas.x.shape, 5, 0.9)
    clumps = _texture(generator, canvas.x.shape, 18, 1.4)
    crown_y = base - 1.5 * radius
    canvas.paint(canvas.bar((x, base + 4), (x, crown_y), 0.16 * radius), (0.24, 0.17, 0.11), 0.30, 0.2 * leaves)
    inside = 1 - np.hypot((canvas.x - x) / radius, (canvas.y - crown_y) / (1.05 * radius))
    crown = _step((inside * radius + 4 * clumps + 1.5 * leaves) * 0.7)
    canvas.paint(crown, (0.16, 0.30, 0.12), 0.21 + 0.022 * clumps + 0.018 * leaves, 0.35 * leaves + 0.25 * clumps)


def _paint_lamp(canvas: _Canvas, x: float, base: float, height: float) -> None:
    """A post with an arm and a lantern, the only strong light."""
    top = base - height
    canvas.paint(canvas.bar((x, base), (x, top), 2.6), (0.22, 0.24, 0.24), 0.27)
    canvas.paint(canvas.bar((x, top), (x + 14, top - 3), 2.2), (0.22, 0.24, 0.24), 0.27)
    lantern = canvas.ellipse(x + 16, top - 1.5, 5, 2.6)
    canvas.paint(lantern, (1, 1, 1), 0.78, light=(1.9, 1.6, 1.1))


def _paint_person(canvas: _Canvas, x: float, y: float, size: float, generator: np.random.Generator) -> None:
    """A walker in dark clothes; face and hands are the warmest, cloth keeps some of it in."""
    unit = size / 8
    stride = generator.uniform(0.5, 1.0) * unit
    cloth = (0.09, 0.085, 0.11)
    folds = 0.035 * _texture(generator, canvas.x.shape, 6, 1.5)
    hip = (x, y - 4 * unit)
    for side in (-1, 1):
        canvas.paint(canvas.bar(hip, (x + side * stride, y - 0.3 * unit), 0.95 * unit), cloth, 0.66 + folds)
        canvas.paint(canvas.ellipse(x + side * stride + 0.2 * unit, y, 0.6 * unit, 0.3 * unit), (0.1, 0.1, 0.1), 0.50)
        hand = (x + side * 1.35 * unit, y - 3.6 * unit)
        canvas.paint(canvas.bar((x + side * 0.8 * unit, y - 6.2 * unit), hand, 0.6 * unit), cloth, 0.70 + folds)
        canvas.paint(canvas.ellipse(*hand, 0.32 * unit, 0.36 * unit), (0.40, 0.29, 0.23), 0.90)
    torso = np.maximum(
        canvas.ellipse(x, y - 5.3 * unit, 1.1 * unit, 1.6 * unit),
        canvas.box(x - unit, y - 6.2 * unit, x + unit, y - 3.8 * unit),
    )
    canvas.paint(torso, (0.10, 0.09, 0.12), 0.74 + folds)
    canvas.paint(canvas.bar((x, y - 6.6 * unit), (x, y - 7 * unit), 0.6 * unit), (0.40, 0.29, 0.23), 0.90)
    canvas.paint(canvas.ellipse(x, y - 7.4 * unit, 0.55 * unit, 0.68 * unit), (0.40, 0.29, 0.23), 0.95)
    canvas.paint(canvas.ellipse(x, y - 7.75 * unit, 0.56 * unit, 0.42 * unit), (0.10, 0.07, 0.05), 0.72)


def _paint_car(canvas: _Canvas, x: float, y: float, size: float, generator: np.random.Generator) -> None:
    """A car from the side, just parked: bonnet, tyres and exhaust are hot, the glass is cold."""
    unit = size / 10
    paintwork: _Colour = (0.30, 0.10, 0.10) if generator.random() < 0.5 else (0.12, 0.18, 0.30)
    across = (canvas.x - x) / unit
    canvas.paint(canvas.ellipse(x, y + 0.1 * unit, 5.2 * unit, 0.5 * unit), (0.05, 0.05, 0.05), 0.46)
    engine = 0.40 + 0.42 * np.exp(-(((across + 3.4) / 1.3) ** 2))
    cabin = _step(np.minimum(canvas.y - (y - 3.4 * unit), y - 1.8 * unit - canvas.y)) * _step(
        (2.6 - 0.55 * (canvas.y - (y - 1.8 * unit)) / (-1.6 * unit) - np.abs(across - 0.4)) * unit
    )
    canvas.paint(cabin, paintwork, 0.38)
    body = np.maximum(
        canvas.box(x - 4.6 * unit, y - 2.0 * unit, x + 4.6 * unit, y - 0.6 * unit),
        canvas.ellipse(x, y - 1.25 * unit, 5 * unit, 0.95 * unit),
    )
    sheen = 0.6 * np.exp(-(((canvas.y - (y - 1.7 * unit)) / (0.25 * unit)) ** 2))
    canvas.paint(body, paintwork, engine, sheen)
    for left, right in ((-1.55, 0.25), (0.5, 2.3)):
        glass = canvas.box(x + left * unit, y - 3.1 * unit, x + right * unit, y - 2.05 * unit)
        canvas.paint(glass, (0.12, 0.15, 0.18), 0.24)
    for wheel in (-2.9, 2.9):
        canvas.paint(
            canvas.ellipse(x + wheel * unit, y - 0.6 * unit, 0.95 * unit, 0.95 * unit), (0.06, 0.06, 0.06), 0.62
        )
        canvas.paint(canvas.ellipse(x + wheel * unit, y - 0.6 * unit, 0.5 * unit, 0.5 * unit), (0.55, 0.55, 0.57), 0.75)
    canvas.paint(
        canvas.ellipse(x + 4.75 * unit, y - 1.5 * unit, 0.22 * unit, 0.3 * unit),
        (0.6, 0.1, 0.1),
        0.45,
        light=(0.5, 0.05, 0.04),
    )
    canvas.paint(canvas.ellipse(x - 4.75 * unit, y - 1.4 * unit, 0.25 * unit, 0.3 * unit), (0.9, 0.9, 0.9), 0.60)


def _illumination(canvas: _Canvas, scene: _Scene) -> _Plane:
    """Light [3, H, W] that falls on the scene: the moon's everywhere, the lamps' around their foot and lantern."""
    light = np.stack([np.full(canvas.x.shape, scene.moonlight * tint) for tint in (0.75, 0.90, 1.25)])
    for x, base, height in scene.lamps:
        # A pool of light on the ground, and a glow on what stands near the lantern.
        pool = np.hypot((canvas.x - x - 16) / (1.1 * height), (canvas.y - base) / (0.42 * height))
        glow = np.hypot(canvas.x - x - 16, canvas.y - base + height) / (0.62 * height)
        strength = 0.85 / (1 + (1.7 * pool) ** 3) + 0.75 / (1 + (1.6 * glow) ** 3)
        light += np.stack([strength * tint for tint in (1.0, 0.84, 0.58)])
    return light


# Heads


@dataclass(frozen=True)
class _Head:
    """A level of the head: half-axes in pixels, size of the ventricles (1 is large), lesion (x, y, radius)."""

    name: str
    seed: int
    across: float
    down: float
    ventricles: float
    lesion: tuple[float, float, float] | None = None


_HEADS: Final = (
    _Head("01_ventricles", 11, 82, 100, 1.0),
    _Head("02_lesion", 22, 79, 97, 0.75, (34, -22, 13)),
    _Head("03_upper_level", 33, 72, 90, 0.0),
)


def _paint_head(head: _Head) -> tuple[_Plane, _Plane]:
    """(CT, MRI), each [H, W] in [0, 1]: the same anatomy, bone bright in one and soft tissue told apart in the other.

    The MRI is weighted as T2 is: fluid bright, grey matter brighter than white, bone dark.
    """
    generator = np.random.default_rng(head.seed)
    step = 1 / _OVERSAMPLING
    y, x = np.mgrid[step / 2 : _HEAD_SIDE : step, step / 2 : _HEAD_SIDE : step] - _HEAD_SIDE / 2
    shape = x.shape
    angle = np.arctan2(y, x)
    outline = 1 + 0.02 * np.cos(2 * angle + 0.4) + 0.012 * np.cos(3 * angle) + 0.006 * np.sin(5 * angle)
    # Depth below the skin, in pixels.
    depth = (1 - np.hypot(x / head.across, y / head.down) / outline) * min(head.across, head.down)
    skull_inner = 11.5 + 1.2 * np.cos(2 * angle)
    tissue, bone, brain = _step(depth), _step(depth - 4.5), _step(depth - skull_inner)
    cortex_depth = depth - skull_inner

    soft = _texture(generator, shape, 8 * _OVERSAMPLING, 1.5)
    # Gyri: the zero lines of a texture, warped and nearly mirrored, are sulci; they fade out with depth.
    waves = _texture(generator, shape, 11 * _OVERSAMPLING, 3.0)
    waves = 0.75 * waves + 0.45 * waves[:, ::-1]
    valley = np.abs(waves) * 9
    reach = np.clip((30 - cortex_depth) / 8, 0, 1)
    sulcus = brain * reach * _step(1.2 + 0.5 * soft - valley)
    ribbon = brain * np.maximum(reach * _step(5.5 - valley), _step(5.5 - cortex_depth))
    fissure = brain * _step(1.2 - np.abs(x - 1.5 * np.sin(y / 26))) * _step(np.abs(y) - (26 if head.ventricles else 0))
    rim = brain * _step(1.0 + 0.8 * soft - cortex_depth)

    fluid = np.maximum(np.maximum(sulcus, fissure), rim)
    nuclei = np.zeros(shape)
    if head.ventricles:
        for side in (-1, 1):
            bend = x * side - 5 - 7 * (y / 32) ** 2
            horn = np.hypot(bend / (6.5 * head.ventricles), y / (30 * head.ventricles))
            fluid = np.maximum(fluid, brain * _step((1 - horn) * 6))
            nucleus = np.hypot((x * side - 21) / 8, (y + 3) / 15)
            nuclei = np.maximum(nuclei, brain * _step((1 - nucleus) * 6, 2))
    grey = np.maximum(ribbon, nuclei)

    diploe = np.exp(-(((depth - (4.5 + skull_inner) / 2) / 1.8) ** 2)) * (1 + 0.4 * soft)
    ct = 0.30 * tissue
    ct += bone * ((0.98 - 0.22 * diploe) - ct)
    ct += brain * (0.40 + 0.008 * soft - ct)
    ct += 0.035 * grey - 0.10 * fluid
    mri = 0.62 * tissue * (1 + 0.1 * soft)
    mri += bone * (0.05 + 0.10 * diploe - mri)
    mri += brain * (0.36 + 0.02 * soft - mri)
    mri += grey * (0.56 + 0.03 * soft - mri)
    mri += fluid * (0.92 - mri)
    if head.ventricles:
        for side in (-1, 1):
            # Calcified plexus: bright in CT, a void in MRI.
            spot = _step(2.0 - np.hypot(x - side * 13, y - 22))
            ct += spot * (0.95 - ct)
            mri += spot * (0.12 - mri)
    if head.lesion is not None:
        lesion_x, lesion_y, radius = head.lesion
        distance = np.hypot(x - lesion_x, y - lesion_y) + 1.6 * soft
        oedema = brain * _step(radius * 1.6 - distance, 6)
        core = brain * _step(radius * 0.75 - distance, 2)
        ct += -0.07 * oedema + 0.10 * core
        mri += oedema * (0.80 - mri)
        mri += core * (0.48 + 0.08 * soft - mri)
    # Receive coils fade towards the middle, detectors are noisy.
    mri *= 1.04 - 0.12 * np.exp(-((np.hypot(x, y) / 60) ** 2))
    ct = _shrink(_blur(ct, 0.7 * _OVERSAMPLING)) + generator.normal(0, 0.010, (_HEAD_SIDE, _HEAD_SIDE))
    mri = _shrink(_blur(mri, 0.5 * _OVERSAMPLING)) + generator.normal(0, 0.012, (_HEAD_SIDE, _HEAD_SIDE))
    # Air holds noise in both, of one sign only.
    return np.clip(np.abs(ct), 0, 1), np.clip(np.abs(mri), 0, 1)
