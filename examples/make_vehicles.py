"""Render the re-identification examples: two vehicles before two cameras, ours to redistribute.

    python -m examples.make_vehicles

Each is a scene of `make_examples`, rendered twice: what a surface reflects in near-infrared is not
its colour, so the second rendering has paints of its own. Beside this file it writes
`<vehicle>_<camera>_rgb.jpg` and `<vehicle>_<camera>_nir.png`, camera b's in 16 bits. The same seed
gives the same pictures.

In a vehicle's own coordinates x is right, y up and z forward; lengths are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.make_examples import (
    FOLDER,
    HEIGHT,
    WIDTH,
    Array,
    Field,
    Paint,
    Scene,
    Thing,
    block,
    either,
    render,
    rounded,
    vector,
)
from training.data.raytrace import noise

SIDE = 192
"""Height and width of a crop in pixels."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Vehicle:
    """A body on four wheels; half lengths of its lower and upper part, (x, y, z)."""

    body: tuple[float, float, float]
    cabin: tuple[float, float, float]
    cabin_z: float
    """Where the middle of the cabin is, forward of the middle of the body."""
    paint: Colour
    nir: float
    """What the paint reflects in near-infrared."""


@dataclass(frozen=True)
class Camera:
    """Where a camera stands, how the vehicle is turned before it, in degrees, and the sun."""

    eye: tuple[float, float, float]
    turn: float
    sun: tuple[float, float, float]


VEHICLES = {
    "hatchback": Vehicle((0.86, 0.30, 1.95), (0.70, 0.29, 1.15), -0.45, (0.46, 0.03, 0.03), 0.5),
    "van": Vehicle((0.95, 0.42, 2.3), (0.86, 0.48, 1.9), -0.3, (0.05, 0.16, 0.36), 0.12),
}
CAMERAS = {
    "a": Camera((1.6, 2.7, -8.6), 8.0, (0.7, 1.0, -0.7)),
    "b": Camera((-0.9, 3.4, -8.4), -7.0, (-0.9, 1.2, -0.4)),
}


def shape(vehicle: Vehicle, turn: float) -> tuple[Field, Field]:
    """The whole vehicle, and its wheels alone."""
    (width, low, length), (_, high, _) = vehicle.body, vehicle.cabin
    floor = 0.28
    body = block((0, floor + low, 0), vehicle.body, edge=0.12)
    roof_y = floor + 2 * low + high
    cabin = block((0, roof_y, vehicle.cabin_z), vehicle.cabin, edge=0.16)

    def upper(p: Array) -> Array:
        # It narrows towards the roof.
        lean = 1 + 0.2 * np.clip(p[:, 1] - roof_y + high, 0, 2 * high) / high
        return 0.8 * cabin(p * np.stack([lean, np.ones_like(lean), np.sqrt(lean)], axis=1))

    def wheels(p: Array) -> Array:
        radius = 0.34
        across = np.abs(np.abs(p[:, 0]) - width + 0.12) - 0.11
        along = np.hypot(np.abs(p[:, 2]) - 0.62 * length, p[:, 1] - radius)
        return rounded(along - radius, across, 0.03)

    return _turned(either(body, upper, wheels), turn), _turned(wheels, turn)


def paint(vehicle: Vehicle, turn: float, wheels: Field, *, nir: bool) -> Paint:
    """What every part reflects, in colour or, as grey, in near-infrared."""
    (width, low, length), (_, high, _) = vehicle.body, vehicle.cabin
    shoulder = 0.28 + 2 * low
    colours: dict[str, Colour] = {
        "paint": (vehicle.nir,) * 3 if nir else vehicle.paint,
        "glass": (0.05,) * 3 if nir else (0.015, 0.02, 0.025),
        # Red plastic lets near-infrared through to its mirror.
        "light": (0.55,) * 3 if nir else (0.42, 0.01, 0.01),
        "plate": (0.75,) * 3 if nir else (0.62, 0.60, 0.50),
        "black": (0.09,) * 3 if nir else (0.02, 0.02, 0.02),
    }

    def colour(world: Array) -> Array:
        p = _rotate(world, turn)
        x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
        rear = z < -length + 0.25
        along = np.abs(p[:, 2] - vehicle.cabin_z)
        corner = (x > 0.77 * vehicle.cabin[0]) & (along > 0.84 * vehicle.cabin[2])
        pillar = corner | (along < 0.05)
        parts = {
            "glass": (y > shoulder + 0.06) & (y < shoulder + 1.45 * high) & ~pillar,
            "light": rear & (x > 0.68 * width) & (np.abs(y - shoulder + 0.24) < 0.1),
            "plate": rear & (x < 0.26) & (np.abs(y - shoulder + 0.3) < 0.06),
            "black": (y < 0.42) | (wheels(world) < 0.01),
        }
        result = np.tile(vector(colours["paint"]), (len(p), 1))
        for part, inside in parts.items():
            result[inside] = vector(colours[part])
        mottle = 0.94 + 0.12 * noise(p[:, 0] * 20 + p[:, 2] * 13, p[:, 1] * 20)
        return (result * mottle[:, None]).astype(np.float32)

    return colour


def road(*, nir: bool) -> Paint:
    """Asphalt with a broken line, and a verge whose grass shines in near-infrared."""

    def colour(p: Array) -> Array:
        grain = 0.75 + 0.5 * noise(p[:, 0] * 30, p[:, 2] * 30, 3)[:, None]
        base = vector((0.17,) * 3) if nir else vector((0.105, 0.105, 0.11))
        line = (np.abs(np.abs(p[:, 0]) - 1.75) < 0.07) & (np.mod(p[:, 2], 3.0) < 1.8)
        result = np.where(line[:, None], vector((0.6,) * 3), base)
        grass = vector((0.5,) * 3) if nir else vector((0.07, 0.12, 0.03))
        edge = 3.2 + 0.3 * noise(p[:, 2] * 2, p[:, 0] * 0.5)
        return (np.where((p[:, 0] > edge)[:, None], grass, result) * grain).astype(np.float32)

    return colour


def scene(vehicle: Vehicle, camera: Camera, *, nir: bool) -> Scene:
    """One vehicle on a road."""
    field, wheels = shape(vehicle, camera.turn)
    middle = vehicle.body[1] + 0.5
    white = (0.95,) * 3
    return Scene(
        things=(
            Thing(
                field,
                paint(vehicle, camera.turn, wheels, nir=nir),
                (0, middle, 0),
                1.3 * vehicle.body[2],
                0.35,
                True,
            ),
        ),
        ground=road(nir=nir),
        wall=None,
        wall_z=np.inf,
        eye=camera.eye,
        target=(0, middle, 0),
        field_of_view=29,
        sun=camera.sun,
        sun_colour=white if nir else (1.9, 1.75, 1.55),
        # The sky scatters little near-infrared.
        sky_colour=(0.12,) * 3 if nir else (0.42, 0.50, 0.62),
        penumbra=9,
        blur=1.5,
    )


def crop(name: str, camera: str, *, nir: bool) -> NDArray[np.float32]:
    """Display values (H, W, 3) in [0, 1]; near-infrared has three equal channels but for noise."""
    seed = 10 * list(VEHICLES).index(name) + list(CAMERAS).index(camera) + 100 * nir
    view = render(scene(VEHICLES[name], CAMERAS[camera], nir=nir), seed)
    rows, columns = np.nonzero(view.thing == 0)
    # As a detector would cut it: square, with a margin.
    y, x = (int(each.min() + each.max()) // 2 for each in (rows, columns))
    half = int(0.56 * max(np.ptp(rows), np.ptp(columns)))
    half = min(half, y, x, HEIGHT - y, WIDTH - x)
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        for plane in np.moveaxis(view.rgb[y - half : y + half, x - half : x + half], -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _rotate(p: Array, turn: float) -> Array:
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    x, y, z = p.T
    return np.stack([cosine * x - sine * z, y, sine * x + cosine * z], axis=1).astype(np.float32)


def _turned(field: Field, turn: float) -> Field:
    return lambda p: field(_rotate(p, turn)).astype(np.float32)


def main() -> None:
    """Render and write every pair."""
    for name in VEHICLES:
        for camera in CAMERAS:
            rgb = np.rint(255 * crop(name, camera, nir=False)).astype(np.uint8)
            Image.fromarray(rgb).save(FOLDER / f"{name}_{camera}_rgb.jpg", quality=90)
            nir = crop(name, camera, nir=True).mean(axis=-1)
            full, dtype = (65535, np.uint16) if camera == "b" else (255, np.uint8)
            grey = Image.fromarray(np.rint(full * nir).astype(dtype))
            grey.save(FOLDER / f"{name}_{camera}_nir.png", optimize=True)


if __name__ == "__main__":
    main()
