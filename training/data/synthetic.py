"""Generated data sets: tables with things on them and depth, vehicles in colour and near-infrared.

They need no download, are ours to redistribute, and follow from a seed alone. In a scene the thing
that stands nearest is meant, whatever its colour. Others like it stand behind, flat pictures lie on
wall and ground, and the ground comes nearer still, so neither colour nor depth tells it alone. What
a vehicle's paint reflects in near-infrared is not its colour, so both pictures tell something.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.raytrace import Array, Channels, Paint, Scene, Solid, noise, render

Rng = np.random.Generator

COLOURS: tuple[Channels, ...] = (
    (0.62, 0.07, 0.05, 0.5), (0.70, 0.30, 0.04, 0.6), (0.66, 0.52, 0.06, 0.65),
    (0.10, 0.36, 0.10, 0.55), (0.06, 0.30, 0.34, 0.3), (0.06, 0.14, 0.46, 0.35),
    (0.30, 0.09, 0.36, 0.45), (0.55, 0.54, 0.50, 0.6), (0.07, 0.07, 0.08, 0.1),
    (0.34, 0.20, 0.10, 0.5),
)  # fmt: skip
"""Paints of things: red, green, blue, near-infrared."""
PAINTS: tuple[Channels, ...] = (
    (0.55, 0.04, 0.04, 0.0), (0.05, 0.12, 0.40, 0.0), (0.60, 0.60, 0.58, 0.0),
    (0.05, 0.05, 0.055, 0.0), (0.30, 0.31, 0.33, 0.0), (0.05, 0.22, 0.10, 0.0),
    (0.66, 0.46, 0.05, 0.0),
)  # fmt: skip
"""Few, so that several vehicles share one; near-infrared is drawn for each vehicle."""
CAMERAS = 4
"""Of the generated vehicles: behind left, behind right, front left, front right."""


class RgbdScene(NamedTuple):
    """One picture of things."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    depth: NDArray[np.uint8]
    """(H, W), bright is near."""
    gt: NDArray[np.uint8]
    """(H, W), 0 or 255."""


class Sight(NamedTuple):
    """One pair of pictures of a vehicle."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    nir: NDArray[np.uint8]
    """(H, W)."""


def render_rgbd(seed: int, size: tuple[int, int]) -> RgbdScene:
    """One scene of (height, width) pixels; the same seed gives the same bits."""
    for attempt in range(20):
        rng = np.random.default_rng((seed, attempt))
        picture = render(_things(rng), size)
        mask = picture.salient > 0.5
        if 0.02 < mask.mean() < 0.5:
            break
    values = _expose(picture.light, rng)
    return RgbdScene(values[..., :3], _sensed(picture.depth, rng), mask.astype(np.uint8) * 255)


def render_vehicle(pid: int, camid: int, view: int, size: tuple[int, int], seed: int = 0) -> Sight:
    """A vehicle as a camera sees it.

    Args:
        pid: which vehicle.
        camid: 1 to `CAMERAS`.
        view: which picture of it by this camera: the vehicle stands a little otherwise.
        size: (height, width) in pixels.
        seed: of all vehicles.
    """
    rng = np.random.default_rng((seed, pid, camid, view))
    picture = render(_road(_Vehicle(np.random.default_rng((seed, pid))), camid, rng), size)
    values = _expose(picture.light, rng)
    return Sight(values[..., :3], values[..., 3])


def write_scenes(out: Path, train: int, test: int, side: int, seed: int = 0) -> Iterator[str]:
    """Write `<out>/{train,test}/{rgb,depth,gt}`; yield each stem.

    Args:
        out: folder to write to.
        train: triples to train on.
        test: others, to judge on.
        side: height and width in pixels.
        seed: of all scenes.
    """
    for index in range(train + test):
        part = out / ("train" if index < train else "test")
        scene = render_rgbd(index + (seed << 20), (side, side))
        stem = f"{index:06}"
        for name, values, suffix in zip(scene._fields, scene, ("jpg", "png", "png"), strict=True):
            (part / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(part / name / f"{stem}.{suffix}", quality=92)
        yield stem


def write_vehicles(out: Path, train: int, test: int, side: int, seed: int = 0) -> Iterator[str]:
    """Write `<out>/{train,query,gallery}/{rgb,nir}/<id>_c<camera>_<view>`; yield each stem.

    Args:
        out: folder to write to.
        train: identities to train on, two pictures by each camera.
        test: identities to search for: one picture by each camera asks, another is found.
        side: height and width in pixels.
        seed: of all vehicles.
    """
    for pid in range(1, train + test + 1):
        for camid in range(1, CAMERAS + 1):
            for view in range(2):
                part = "train" if pid <= train else ("query", "gallery")[view]
                stem = f"{pid:04}_c{camid}_{view}"
                sight = render_vehicle(pid, camid, view, (side, side), seed)
                for name, values, suffix in zip(sight._fields, sight, ("jpg", "png"), strict=True):
                    (out / part / name).mkdir(parents=True, exist_ok=True)
                    file = out / part / name / f"{stem}.{suffix}"
                    Image.fromarray(values).save(file, quality=92)
                yield stem


# Things on a table


def _things(rng: Rng) -> Scene:
    colour = _colour(rng)
    near = rng.uniform(0.85, 1.25)
    scale = rng.uniform(0.11, 0.2)
    at = (rng.uniform(-0.3, 0.3) * near, near)
    solids = [*_thing(rng, at, scale, colour, salient=True)]
    places = [(*at, scale)]
    for _ in range(int(rng.integers(2, 8))):
        # What stands behind is no smaller in truth, and often of the same colour.
        size = rng.uniform(0.1, 0.24)
        z = near + rng.uniform(0.45, 2.2)
        x = rng.uniform(-0.75, 0.75) * z
        if all(np.hypot(x - u, z - v) > size + other + 0.08 for u, v, other in places):
            places.append((x, z, size))
            twin = colour if rng.random() < 0.4 else _colour(rng)
            solids += _thing(rng, (x, z), size, twin, salient=False)
    wall = rng.random() < 0.75
    return Scene(
        solids,
        _surface(rng, (0, 2), colour),
        _surface(rng, (0, 1), colour) if wall else None,
        wall_z=near + rng.uniform(2.0, 3.2),
        eye=(rng.uniform(-0.15, 0.15), rng.uniform(0.35, 0.8), -0.1),
        target=(rng.uniform(-0.1, 0.1), rng.uniform(0.0, 0.16), near + 0.25),
        field_of_view=np.radians(rng.uniform(42, 56)),
        sun=(rng.uniform(-1, 1), rng.uniform(0.8, 1.6), rng.uniform(-1, 0.2)),
        sun_light=_tinted(rng, 1.45),
        sky_light=_tinted(rng, 0.42),
    )


def _thing(
    rng: Rng, at: tuple[float, float], scale: float, colour: Channels, *, salient: bool
) -> Iterator[Solid]:
    """A ball, a box, a cup, a bottle, a cone, a stack or a lamp, about `scale` metres in radius."""
    x, z = at
    turn = rng.uniform(0, np.pi)
    look: dict[str, Any] = {"turn": turn, "gloss": rng.uniform(0, 0.6), "salient": salient}
    paint = _patterned(rng, colour, scale)
    other = _patterned(rng, _colour(rng), scale)
    kind = int(rng.integers(7))
    if kind == 0:
        height = scale * rng.uniform(0.6, 1.1)
        yield Solid("ellipsoid", (x, height, z), (scale, height, scale), paint, **look)
    elif kind == 1:
        half = scale * rng.uniform(0.5, 1.0, 3)
        yield Solid("box", (x, half[1], z), tuple(half), paint, **look)
    elif kind == 2:
        height = scale * rng.uniform(1.4, 2.0)
        size = (scale * 0.62, height, scale * rng.uniform(0.62, 0.85))
        yield Solid("frustum", (x, 0, z), size, paint, **look)
    elif kind == 3:
        body, neck = scale * rng.uniform(1.2, 1.8), scale * 0.5
        yield Solid("frustum", (x, 0, z), (scale * 0.5, body, scale * 0.5), paint, **look)
        shoulder = (scale * 0.5, neck, scale * 0.17)
        yield Solid("frustum", (x, body, z), shoulder, paint, **look)
        tall = (scale * 0.17, neck, scale * 0.17)
        yield Solid("frustum", (x, body + neck, z), tall, other, **look)
    elif kind == 4:
        yield Solid("box", (x, 0.04 * scale, z), (scale, 0.04 * scale, scale), other, **look)
        height = scale * rng.uniform(1.6, 2.4)
        yield Solid(
            "frustum", (x, 0.08 * scale, z), (scale * 0.7, height, 0.08 * scale), paint, **look
        )
    elif kind == 5:
        level = 0.0
        for part in range(int(rng.integers(2, 5))):
            wide, flat = scale * rng.uniform(0.55, 0.9), scale * rng.uniform(0.12, 0.3)
            look["turn"] = turn + rng.uniform(-0.4, 0.4)
            centre, made_of = (x, level + flat, z), other if part % 2 else paint
            yield Solid("box", centre, (wide, flat, wide), made_of, **look)
            level += 2 * flat
    else:
        yield Solid("frustum", (x, 0, z), (scale * 0.5, 0.1 * scale, scale * 0.45), other, **look)
        height = scale * rng.uniform(1.0, 1.5)
        yield Solid(
            "frustum", (x, 0.1 * scale, z), (0.07 * scale, height, 0.07 * scale), other, **look
        )
        shade = (scale * 0.9, scale * 0.8, scale * 0.45)
        yield Solid("frustum", (x, height, z), shade, paint, **look)


def _colour(rng: Rng) -> Channels:
    base = np.array(COLOURS[int(rng.integers(len(COLOURS)))])
    red, green, blue, nir = np.clip(base * rng.uniform(0.75, 1.25, 4), 0.02, 0.9)
    return (red, green, blue, nir)


def _tinted(rng: Rng, strength: float) -> Channels:
    warm = rng.uniform(-0.14, 0.14)
    level = strength * rng.uniform(0.8, 1.2)
    return (level * (1 + warm), level, level * (1 - warm), level)


def _patterned(rng: Rng, colour: Channels, scale: float) -> Paint:
    """One colour, or bands, checks or blots of two."""
    first, second = np.array(colour, np.float32), np.array(_colour(rng), np.float32)
    kind = int(rng.integers(5))
    period = scale * rng.uniform(0.25, 0.7)

    def paint(p: Array) -> Array:
        mottle = 0.88 + 0.24 * noise(p[:, 0] * 30 + p[:, 2] * 19, p[:, 1] * 30, 3)
        if kind == 1:
            other = np.mod(p[:, 1], period) < 0.4 * period
        elif kind == 2:
            other = (np.floor(p / period).astype(np.int32).sum(axis=1) % 2).astype(bool)
        elif kind == 3:
            other = noise(p[:, 0] * 3 / scale, (p[:, 1] + p[:, 2]) * 3 / scale, 2) > 0.58
        else:
            other = np.zeros(len(p), bool)
        return np.where(other[:, None], second, first) * mottle[:, None]

    return paint


def _surface(rng: Rng, axes: tuple[int, int], bait: Channels) -> Paint:
    """Wood, tiles, cloth or plaster, with flat pictures of things on it.

    Args:
        rng: where all chance comes from.
        axes: of the plane.
        bait: colour that some of the pictures have.
    """
    tone = np.array(_colour(rng), np.float32)
    grey = rng.uniform(0.15, 0.5)
    base = tone + (grey - tone) * np.float32(rng.uniform(0.55, 0.95))
    kind = int(rng.integers(4))
    period = rng.uniform(0.12, 0.4)
    spots = []
    for _ in range(int(rng.integers(0, 5))):
        colour = np.array(bait if rng.random() < 0.5 else _colour(rng), np.float32)
        place = rng.uniform(-1.4, 1.4), rng.uniform(0.2, 1.2 if axes == (0, 1) else 3.0)
        spots.append((place, rng.uniform(0.08, 0.25, 2), rng.random() < 0.5, colour))

    def paint(p: Array) -> Array:
        u, v = p[:, axes[0]], p[:, axes[1]]
        if kind == 0:  # boards
            board = np.floor(v / period)
            grain = noise(u * 4 + 31 * np.mod(board * 0.37, 1), v * 70, 2)
            shade = 0.7 + 0.35 * grain + 0.25 * np.mod(board * 0.618, 1)
            shade = np.where(np.abs(v / period - board - 0.5) > 0.48, 0.4 * shade, shade)
        elif kind == 1:  # tiles
            edge = np.minimum(np.mod(u, period), np.mod(v, period)) < 0.015
            shade = np.where(edge, 0.55, 0.9 + 0.2 * noise(u * 6, v * 6, 3))
        elif kind == 2:  # cloth
            weave = (np.mod(u, period) < period / 2).astype(np.float32)
            weave += np.mod(v, period) < period / 2
            shade = 0.7 + 0.2 * weave + 0.15 * noise(u * 50, v * 50, 2)
        else:
            shade = 0.75 + 0.5 * noise(u * 2.5, v * 2.5)
        colour = base * shade[:, None]
        for (x, y), (half_u, half_v), round_, other in spots:
            du, dv = np.abs(u - x) / half_u, np.abs(v - y) / half_v
            inside = du**2 + dv**2 < 1 if round_ else np.maximum(du, dv) < 1
            colour = np.where(inside[:, None], other * (0.8 + 0.2 * shade[:, None]), colour)
        return np.clip(colour, 0.01, 0.95).astype(np.float32)

    return paint


def _sensed(depth: NDArray[np.float32], rng: Rng) -> NDArray[np.uint8]:
    """8-bit inverse depth, as stereo gives it: blurred a little, noisy, bright is near."""
    near = (1 / depth).astype(np.float32)
    near = cv2.GaussianBlur(near, (0, 0), rng.uniform(0.4, 1.4))
    near += rng.standard_normal(near.shape, np.float32) * np.float32(rng.uniform(0, 0.02))
    low, high = near.min(), near.max()
    scaled: Array = (near - low) / max(high - low, 1e-6)
    return np.asarray(np.round(255 * scaled), np.uint8)


def _expose(light: NDArray[np.float32], rng: Rng) -> NDArray[np.uint8]:
    """Sensor noise, and a film-like curve to display values, (H, W, 4)."""
    x = light + rng.normal(0, 1, light.shape) * np.sqrt(np.maximum(light, 0) * 4e-4 + 4e-6)
    x = np.maximum(x, 0)
    x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return np.asarray(np.round(255 * np.clip(x, 0, 1) ** (1 / 2.2)), np.uint8)


# Vehicles on a road


class _Vehicle:
    """What is a vehicle's own: proportions, paints, and what is mounted on it."""

    def __init__(self, rng: Rng) -> None:
        self.kind = int(rng.integers(4))  # saloon, estate, van, pick-up
        self.width = rng.uniform(0.8, 0.98)
        self.length = rng.uniform(1.75, 2.35)
        self.low = rng.uniform(0.28, 0.4)
        self.high = rng.uniform(0.26, 0.34) + 0.22 * (self.kind == 2)
        self.paint = _painted(rng)
        self.roof = _painted(rng) if rng.random() < 0.35 else self.paint
        self.stripe = _painted(rng) if rng.random() < 0.5 else None
        self.stripe_y = rng.uniform(-0.5, 0.6)
        self.hub = np.array((*(rng.uniform(0.05, 0.6),) * 3, rng.uniform(0.1, 0.8)), np.float32)
        self.blocks = rng.random((3, 6)) < rng.uniform(0.1, 0.7)  # lettering on the sides
        self.letters = _painted(rng)
        self.rack = rng.random() < 0.3
        self.plate = np.array((0.6, 0.58, rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.9)), np.float32)

    def solids(self, turn: float) -> Iterator[Solid]:
        """Standing at the origin, its front towards +z where `turn` is 0."""
        low, high, length, width = self.low, self.high, self.length, self.width
        floor = 0.3

        def at(x: float, y: float, z: float) -> tuple[float, float, float]:
            cos, sin = np.cos(turn), np.sin(turn)
            return (cos * x + sin * z, y, -sin * x + cos * z)

        middle = floor + low
        body = (width, low, length)
        yield Solid("box", at(0, middle, 0), body, self._body, turn, gloss=0.5, salient=True)
        cabin = {0: (0.5, -0.12), 1: (0.66, -0.3), 2: (0.82, -0.1), 3: (0.34, 0.25)}[self.kind]
        half, place = cabin[0] * length, cabin[1] * length
        size = (0.88 * width, high, half)
        centre = at(0, middle + low + high, place)
        yield Solid("box", centre, size, self._cabin, turn, gloss=0.6, salient=True)
        if self.rack:
            rack = at(0, middle + low + 2 * high + 0.09, place)
            size = (0.7 * width, 0.09, 0.7 * half)
            yield Solid(
                "box", rack, size, lambda p: np.tile(self.hub, (len(p), 1)), turn, salient=True
            )
        for side in (-1, 1):
            for end in (-0.62, 0.62):
                wheel = at(side * width - (0.22 if side > 0 else 0.0), 0.33, end * length)
                size = (0.33, 0.22, 0.33)
                yield Solid("frustum", wheel, size, self._wheel, turn, lying=True, salient=True)

    def _body(self, p: Array) -> Array:
        x, y, z = np.abs(p[:, 0]), p[:, 1] / self.low, p[:, 2]
        colour = np.tile(self.paint, (len(p), 1))
        if self.stripe is not None:
            colour[np.abs(y - self.stripe_y) < 0.16] = self.stripe
        side = x > self.width - 0.02
        column = np.clip(((z / self.length + 1) * 3).astype(np.int32), 0, 5)
        row = np.clip(((y + 1) * 1.5).astype(np.int32), 0, 2)
        colour[side & self.blocks[row, column] & (y > -0.4)] = self.letters
        end = np.abs(z) > self.length - 0.02
        lamp = end & (x > 0.66 * self.width) & (np.abs(y - 0.35) < 0.28)
        # Red plastic lets near-infrared through to its mirror.
        colour[lamp & (z < 0)] = (0.5, 0.02, 0.02, 0.6)
        colour[lamp & (z > 0)] = (0.8, 0.8, 0.75, 0.8)
        colour[end & (x < 0.28) & (np.abs(y + 0.1) < 0.2)] = self.plate
        colour[y < -0.75] = (0.03, 0.03, 0.03, 0.08)
        return colour

    def _cabin(self, p: Array) -> Array:
        y = p[:, 1] / self.high
        colour = np.tile(self.roof, (len(p), 1))
        pillar = np.abs(np.mod(p[:, 2] + 0.05, 0.9)) < 0.1
        glass = (np.abs(y) < 0.72) & ~(pillar & (np.abs(p[:, 0]) > 0.85 * self.width))
        if self.kind == 2:  # a van is closed behind
            glass &= (p[:, 2] > 0.3 * self.length) | (np.abs(p[:, 0]) < 0.8 * self.width)
        colour[glass] = (0.02, 0.025, 0.03, 0.05)
        return colour

    def _wheel(self, p: Array) -> Array:
        rim = np.hypot(p[:, 0], p[:, 2]) < 0.2
        return np.where(rim[:, None], self.hub, np.array((0.02, 0.02, 0.02, 0.07), np.float32))


def _painted(rng: Rng) -> NDArray[np.float32]:
    red, green, blue, _ = PAINTS[int(rng.integers(len(PAINTS)))]
    return np.array((red, green, blue, rng.uniform(0.05, 0.75)), np.float32)


def _road(vehicle: _Vehicle, camid: int, rng: Rng) -> Scene:
    of_camera = np.random.default_rng((99, camid))
    behind, right = camid <= 2, camid % 2 == 0
    turn = (0.0 if behind else np.pi) + np.radians(28 if right else -28) + rng.normal(0, 0.12)
    distance = 8.2 + of_camera.uniform(-0.5, 0.5)
    height = of_camera.uniform(2.0, 3.6)
    day = rng.uniform(0.55, 1.2)
    sun = (of_camera.uniform(-1, 1), 1.0, of_camera.uniform(-1, 0))
    tint = of_camera.uniform(-0.12, 0.12)
    grass = rng.uniform(2.6, 3.6)

    def ground(p: Array) -> Array:
        grain = (0.75 + 0.5 * noise(p[:, 0] * 30, p[:, 2] * 30, 3))[:, None]
        colour = np.tile(np.array((0.11, 0.11, 0.115, 0.17), np.float32), (len(p), 1))
        line = (np.abs(np.abs(p[:, 0]) - 1.9) < 0.07) & (np.mod(p[:, 2], 3.0) < 1.8)
        colour[line] = 0.6
        # Grass is dark green, and shines in near-infrared.
        verge = np.abs(p[:, 0]) > grass + 0.4 * noise(p[:, 2] * 2, p[:, 0], 2)
        colour[verge] = (0.07, 0.13, 0.03, 0.5)
        return colour * grain

    return Scene(
        [*vehicle.solids(turn)],
        ground,
        None,
        0.0,
        eye=(rng.normal(0, 0.25), height, -distance),
        target=(rng.normal(0, 0.08), 0.85 + rng.normal(0, 0.05), 0),
        field_of_view=np.radians(33),
        sun=sun,
        sun_light=(1.8 * day * (1 + tint), 1.7 * day, 1.6 * day * (1 - tint), 1.3 * day),
        # The sky scatters little near-infrared.
        sky_light=(0.45 * day, 0.5 * day, 0.6 * day, 0.2 * day),
    )
