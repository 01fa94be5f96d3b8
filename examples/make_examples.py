"""Render the example pairs: three small scenes with exact depth, ours to redistribute.

    python examples/make_examples.py

Each scene is signed distance fields on a ground plane, sphere-traced with one sun, soft shadows,
ambient occlusion and a shallow focus. It writes `<name>_rgb.jpg`, `<name>_depth.png` and
`gt/<name>.png` (the object, 255) beside this file. The same seed gives the same pictures.

Lengths are metres; x is right, y up, z into the picture. P stands for a number of points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.raytrace import LATTICE, noise

Array = Any  # a float32 array, which NumPy's types lose sight of in arithmetic
Field = Callable[[Array], Array]
"""(P, 3) points -> (P,) distances."""
Paint = Callable[[Array], Array]
"""(P, 3) points -> (P, 3) linear albedo."""

WIDTH, HEIGHT = 640, 480
OVERSAMPLING = 1.5
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Thing:
    """One object; its field must be exact or short outside its bounding sphere."""

    field: Field
    paint: Paint
    centre: tuple[float, float, float]
    radius: float
    gloss: float = 0.0
    salient: bool = False


@dataclass(frozen=True)
class Scene:
    """Objects on the plane y = 0, before a wall or under a sky."""

    things: tuple[Thing, ...]
    ground: Paint
    wall: Paint | None
    """None is the open air."""
    wall_z: float
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    field_of_view: float
    """Vertical, in degrees."""
    sun: tuple[float, float, float]
    """Direction towards it."""
    sun_colour: tuple[float, float, float]
    sky_colour: tuple[float, float, float]
    penumbra: float
    """Higher is sharper."""
    blur: float
    """Radius of the most unfocused points, in pixels of the final picture."""


@dataclass(frozen=True)
class Rendering:
    """Arrays (H, W[, 3]) of one scene."""

    rgb: Array
    """Display values in [0, 1]."""
    depth: Array
    """Distance along the optical axis; infinite in the sky."""
    thing: NDArray[np.int32]
    """Index of the object, -1 for anything else."""


def vector(values: tuple[float, ...]) -> Array:
    """A point, direction or colour."""
    return np.array(values, np.float32)


# Fields


def lathe(radius_at: Callable[[Array], Array], height: float, at: tuple[float, float]) -> Field:
    """A solid of revolution that stands on the ground; its slope stays below 45 degrees or so."""

    def field(p: Array) -> Array:
        y = p[:, 1]
        around = np.hypot(p[:, 0] - at[0], p[:, 2] - at[1])
        side = 0.6 * (around - radius_at(np.clip(y, 0, height)))
        return np.maximum(side, np.maximum(y - height, -y))

    return field


def block(
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    turn: float = 0.0,
    edge: float = 0.006,
) -> Field:
    """A box with rounded edges, turned by `turn` degrees about the vertical."""
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))

    def field(p: Array) -> Array:
        x, y, z = (p - vector(centre)).T
        local = np.stack([cosine * x - sine * z, y, sine * x + cosine * z], axis=1)
        outside = np.abs(local) - vector(half) + edge
        return (
            np.linalg.norm(np.maximum(outside, 0), axis=1)
            + np.minimum(outside.max(axis=1), 0)
            - edge
        ).astype(np.float32)

    return field


def mug(at: tuple[float, float], radius: float, height: float) -> Field:
    """A hollow cylinder with a handle on its right."""

    def field(p: Array) -> Array:
        x, y, z = p[:, 0] - at[0], p[:, 1] - height / 2, p[:, 2] - at[1]
        around = np.hypot(x, z)
        outer = rounded(around - radius, np.abs(y) - height / 2, 0.004)
        inner = np.maximum(around - radius + 0.007, -(y + height / 2 - 0.01))
        hx = x - radius - 0.004
        ring = np.hypot(hx, y * 0.85) - 0.3 * height
        handle = np.hypot(ring, z) - 0.009
        handle = np.maximum(handle, radius - 0.003 - around)
        return np.minimum(np.maximum(outer, -inner), handle).astype(np.float32)

    return field


def rounded(a: Array, b: Array, edge: float) -> Array:
    """Intersection of two half-spaces with a rounded rim."""
    a, b = a + edge, b + edge
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - edge


def either(*fields: Field) -> Field:
    """The union."""
    return lambda p: np.minimum.reduce([field(p) for field in fields])


# Paints


def between(a: tuple[float, ...], b: tuple[float, ...], share: Array) -> Array:
    """Mix two colours."""
    share = np.clip(share, 0, 1)[:, None]
    return (vector(a) * (1 - share) + vector(b) * share).astype(np.float32)


def plain(colour: tuple[float, float, float], grain: float = 0.06) -> Paint:
    """One colour with a faint mottle."""

    def paint(p: Array) -> Array:
        mottle = noise(p[:, 0] * 40 + p[:, 2] * 23, p[:, 1] * 40) - 0.5
        return vector(colour) * (1 + 2 * grain * mottle[:, None])

    return paint


def planks(p: Array) -> Array:
    """Oiled boards that run to the right."""
    board = np.floor(p[:, 2] / 0.13)
    shift = LATTICE[board.astype(int) & 255, 3]
    grain = noise(p[:, 0] * 3 + 40 * shift, p[:, 2] * 90 + 6 * noise(p[:, 0] * 4, p[:, 2] * 5), 3)
    colour = between((0.19, 0.085, 0.035), (0.44, 0.235, 0.11), 0.75 * grain + 0.45 * shift)
    gap = np.abs(p[:, 2] / 0.13 - board - 0.5) > 0.485
    return np.where(gap[:, None], colour * 0.35, colour)


def plaster(p: Array) -> Array:
    """A painted wall."""
    stain = noise(p[:, 0] * 2.5, p[:, 1] * 2.5, 5)
    return between((0.36, 0.40, 0.39), (0.50, 0.53, 0.50), stain)


def desk(p: Array) -> Array:
    """A pale laminate."""
    return between((0.24, 0.225, 0.20), (0.33, 0.31, 0.28), noise(p[:, 0] * 30, p[:, 2] * 8, 4))


def wallpaper(p: Array) -> Array:
    """Broad, faint stripes."""
    stripe = (np.mod(p[:, 0], 0.16) < 0.08).astype(np.float32)
    return between((0.30, 0.27, 0.25), (0.36, 0.32, 0.29), stripe) * (
        0.9 + 0.2 * noise(p[:, 0] * 20, p[:, 1] * 20)[:, None]
    )


def meadow(p: Array) -> Array:
    """Grass with a worn patch."""
    blades = noise(p[:, 0] * 45, p[:, 2] * 28, 4)
    tufts = noise(p[:, 0] * 2.2, p[:, 2] * 2.2, 4)
    grass = between((0.035, 0.075, 0.015), (0.20, 0.30, 0.07), 1.5 * blades * tufts + 0.25 * tufts)
    soil = between((0.12, 0.085, 0.05), (0.24, 0.18, 0.11), blades)
    bare = np.clip((noise(p[:, 0] * 0.9 + 3, p[:, 2] * 0.9, 3) - 0.56) * 9, 0, 1)[:, None]
    return grass * (1 - bare) + soil * bare


def glaze(p: Array) -> Array:
    """Deep blue with two pale bands and a running edge."""
    run = 0.012 * noise(p[:, 0] * 30 + 9, p[:, 2] * 30, 2)
    y = p[:, 1] + run
    bands = ((np.abs(y - 0.235) < 0.008) | (np.abs(y - 0.1) < 0.012)).astype(np.float32)
    base = between((0.02, 0.07, 0.19), (0.04, 0.15, 0.30), noise(p[:, 0] * 25, p[:, 1] * 18))
    return base * (1 - bands[:, None]) + vector((0.72, 0.66, 0.52)) * bands[:, None]


def signal(p: Array) -> Array:
    """A traffic cone: orange, two white sleeves, a dark foot, a little dirt."""
    y = p[:, 1]
    white = ((np.abs(y - 0.27) < 0.045) | (np.abs(y - 0.425) < 0.03))[:, None]
    colour = np.where(white, vector((0.70, 0.70, 0.68)), vector((0.74, 0.115, 0.02)))
    colour = np.where((y < 0.035)[:, None], vector((0.05, 0.05, 0.055)), colour)
    dirt = np.clip(noise(p[:, 0] * 18 + p[:, 2] * 11, y * 18) - 0.35, 0, 1) * np.clip(
        1 - 2 * y, 0, 1
    )
    return (colour * (1 - 0.6 * dirt[:, None])).astype(np.float32)


def cardboard(p: Array) -> Array:
    """Brown with a strip of tape."""
    flute = noise(p[:, 0] * 12, p[:, 1] * 220 + p[:, 2] * 12, 2)
    return between((0.30, 0.19, 0.10), (0.40, 0.27, 0.15), flute)


def stone(p: Array) -> Array:
    """Weathered rock."""
    return between(
        (0.13, 0.13, 0.12), (0.36, 0.34, 0.31), noise(p[:, 0] * 9 + p[:, 2] * 7, p[:, 1] * 11, 5)
    )


# Rendering


def render(scene: Scene, seed: int) -> Rendering:
    """Trace one ray a sample, shade, blur by depth, and expose."""
    width, height = int(WIDTH * OVERSAMPLING), int(HEIGHT * OVERSAMPLING)
    eye = vector(scene.eye)
    forward = _unit(vector(scene.target) - eye)
    right = _unit(np.cross(vector((0, 1, 0)), forward))
    up = np.cross(forward, right)
    reach = np.tan(np.radians(scene.field_of_view) / 2)
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    u = ((u + 0.5) * 2 - width) / height * reach
    v = (height - (v + 0.5) * 2) / height * reach
    rays = _unit((forward + u[..., None] * right + v[..., None] * up).reshape(-1, 3))
    origins = np.broadcast_to(eye, rays.shape)

    with np.errstate(divide="ignore"):
        distance = np.where(rays[:, 1] < 0, -eye[1] / rays[:, 1], np.inf).astype(np.float32)
        if scene.wall is not None:
            to_wall = np.where(rays[:, 2] > 0, (scene.wall_z - eye[2]) / rays[:, 2], np.inf)
            behind = to_wall < distance
            distance = np.minimum(distance, to_wall).astype(np.float32)
        else:
            behind = np.zeros(len(rays), np.bool_)
    hit, along = _trace(scene, origins, rays, distance)
    distance = np.where(hit, along, distance)
    seen = np.isfinite(distance)

    points = (origins + rays * np.where(seen, distance, 0)[:, None]).astype(np.float32)
    colour = np.zeros_like(points)
    normals = np.tile(vector((0, 1, 0)), (len(points), 1))
    normals[behind] = (0, 0, -1)
    gloss = np.zeros(len(points), np.float32)
    ground = seen & ~hit & ~behind
    colour[ground] = scene.ground(points[ground])
    if scene.wall is not None:
        colour[behind & ~hit] = scene.wall(points[behind & ~hit])
    things = np.full(len(points), -1, np.int32)
    index = np.flatnonzero(hit)
    things[index] = np.argmin([thing.field(points[index]) for thing in scene.things], axis=0)
    for number, thing in enumerate(scene.things):
        mine = things == number
        colour[mine] = thing.paint(points[mine])
        normals[mine] = _normals(thing.field, points[mine])
        gloss[mine] = thing.gloss

    rgb = _shade(scene, points, rays, normals, colour, gloss, seen)
    if scene.wall is None:
        haze = np.clip(np.where(seen, distance, 60) / 60, 0, 1)[:, None] ** 1.5
        rgb = rgb * (1 - haze) + _sky(rays) * haze
    depth = np.where(seen, distance * (rays @ forward), np.inf).astype(np.float32)
    shape = (height, width)
    rgb = _focus(rgb.reshape(*shape, 3), depth.reshape(shape), things.reshape(shape), scene)
    rgb = _expose(rgb, seed)
    # Depth and identity come from the sample nearest to each pixel's centre: never a mixture.
    rows = ((np.arange(HEIGHT) + 0.5) * OVERSAMPLING).astype(int)
    columns = ((np.arange(WIDTH) + 0.5) * OVERSAMPLING).astype(int)
    pick = np.ix_(rows, columns)
    return Rendering(rgb, depth.reshape(shape)[pick], things.reshape(shape)[pick])


def _trace(
    scene: Scene, origins: Array, rays: Array, limit: Array
) -> tuple[NDArray[np.bool_], Array]:
    """Sphere tracing between each ray's entry to a bounding sphere and its exit."""
    along = np.full(len(rays), np.inf, np.float32)
    for thing in scene.things:
        offset = origins - vector(thing.centre)
        half = np.einsum("ij,ij->i", offset, rays)
        inside = half**2 - np.einsum("ij,ij->i", offset, offset) + thing.radius**2
        root = np.sqrt(np.maximum(inside, 0))
        index = np.flatnonzero((inside > 0) & (root > half) & (-half - root < limit))
        t, end = np.maximum(-half - root, 0)[index], (root - half)[index]
        for _ in range(90):
            step = thing.field(origins[index] + rays[index] * t[:, None])
            done = step < 4e-4
            along[index[done]] = np.minimum(along[index[done]], t[done])
            t = t + step
            going = ~done & (t < end)
            index, t, end = index[going], t[going], end[going]
            if not index.size:
                break
    hit = along < limit
    return hit, along


def _sunlight(scene: Scene, points: Array, sun: Array) -> Array:
    """Share of the sun that each point sees, softened by near misses."""
    light = np.ones(len(points), np.float32)
    for thing in scene.things:
        offset = points - vector(thing.centre)
        half = offset @ sun
        apart = np.einsum("ij,ij->i", offset, offset) - half**2
        reach = thing.radius * 1.25
        index = np.flatnonzero((apart < reach**2) & (half < thing.radius))
        t = np.maximum(-half[index] - reach, 0.004)
        for _ in range(48):
            step = thing.field(points[index] + sun * t[:, None])
            light[index] = np.minimum(light[index], np.clip(scene.penumbra * step / t, 0, 1))
            t = t + np.clip(step, 0.004, 0.08)
            going = (light[index] > 0.01) & (t < -half[index] + reach)
            index, t = index[going], t[going]
            if not index.size:
                break
    return light * light * (3 - 2 * light)


def _openness(scene: Scene, points: Array, normals: Array) -> Array:
    """Share of the sky that each point sees, from the distance fields along its normal."""
    blocked = np.zeros(len(points), np.float32)
    for height, weight in ((0.02, 0.5), (0.06, 0.3), (0.15, 0.2)):
        probe = points + normals * height
        nearest = np.minimum(probe[:, 1], height)  # the ground counts too
        if scene.wall is not None:
            nearest = np.minimum(nearest, scene.wall_z - probe[:, 2])
        for thing in scene.things:
            near = np.linalg.norm(probe - vector(thing.centre), axis=1) < thing.radius + height
            nearest[near] = np.minimum(nearest[near], thing.field(probe[near]))
        blocked += weight * np.clip(1 - nearest / height, 0, 1)
    return 1 - 0.85 * blocked


def _shade(
    scene: Scene,
    points: Array,
    rays: Array,
    normals: Array,
    colour: Array,
    gloss: Array,
    seen: NDArray[np.bool_],
) -> Array:
    sun = _unit(vector(scene.sun))
    facing = np.clip(normals @ sun, 0, 1)
    direct = np.zeros(len(points), np.float32)
    lit = seen & (facing > 0)
    direct[lit] = facing[lit] * _sunlight(scene, points[lit] + normals[lit] * 2e-3, sun)
    open_sky = np.ones(len(points), np.float32)
    open_sky[seen] = _openness(scene, points[seen], normals[seen])
    above = 0.5 + 0.5 * normals[:, 1]
    ambient = vector(scene.sky_colour) * (open_sky * (0.35 + 0.65 * above))[:, None]
    bounce = vector((0.16, 0.12, 0.08)) * ((1 - above) * open_sky)[:, None]
    rgb = colour * (direct[:, None] * vector(scene.sun_colour) + ambient + bounce)
    mirror = rays - 2 * np.einsum("ij,ij->i", rays, normals)[:, None] * normals
    toward = np.clip(mirror @ sun, 0, 1)
    fresnel = 0.04 + 0.96 * (1 - np.clip(-np.einsum("ij,ij->i", rays, normals), 0, 1)) ** 5
    window = np.exp(-(((mirror[:, 1] - 0.55) / 0.3) ** 2))  # a bright opening above eye height
    glint = gloss * (1.6 * toward**90 * (direct > 0) + fresnel * open_sky * (0.25 + 0.9 * window))
    return (rgb + glint[:, None] * vector(scene.sun_colour) * 0.6).astype(np.float32)


def _sky(rays: Array) -> Array:
    height = np.clip(rays[:, 1] * 2.5 + 0.05, 0, 1)
    blue = between((0.72, 0.80, 0.88), (0.24, 0.44, 0.78), height**0.7)
    cloud = noise(rays[:, 0] * 4 + 2, rays[:, 1] * 14 + 1, 5)
    return between((0, 0, 0), (1, 1, 1), (cloud - 0.5) * 3) * 0.35 + blue * 0.75


def _focus(rgb: Array, depth: Array, things: NDArray[np.int32], scene: Scene) -> Array:
    """Blur what is far from the salient object's depth, then reduce to the final size."""
    salient = np.isin(things, [i for i, thing in enumerate(scene.things) if thing.salient])
    focus = float(np.median(depth[salient]))
    defocus = np.clip(np.abs(1 - focus / depth) * 1.6 - 0.12, 0, 1)
    sharp = _resize(rgb)
    result = sharp
    for radius in (scene.blur / 3, scene.blur * 2 / 3, scene.blur):
        # The object's own light must not leak into its blurred surroundings.
        weight = np.where(salient, 0.0, 1.0).astype(np.float32)
        weights = _blur(_resize(weight[..., None]), radius) + 1e-4
        blurred = _blur(_resize(rgb * weight[..., None]), radius) / weights
        share = np.clip(_resize(defocus[..., None]) * scene.blur - radius + 1, 0, 1)
        outside = 1 - _resize(salient[..., None].astype(np.float32))
        share = share * outside
        result = result * (1 - share) + blurred * share
    return result


def _resize(image: Array) -> Array:
    return _each_channel(image, lambda plane: plane.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def _blur(image: Array, radius: float) -> Array:
    def blur(plane: Image.Image) -> Image.Image:
        # Pillow blurs 8-bit planes only; three passes of a box in 32-bit come close to a Gaussian.
        values = np.asarray(plane)
        reach = max(1, round(radius))
        for axis in (0, 1, 0, 1):
            padded = np.pad(
                values, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)], "edge"
            )
            sums = np.cumsum(padded, axis=axis, dtype=np.float64)
            sums = np.insert(sums, 0, 0, axis=axis)
            size = 2 * reach + 1
            count = values.shape[axis]
            values = (
                np.take(sums, range(size, size + count), axis) - np.take(sums, range(count), axis)
            ) / size
        return Image.fromarray(values.astype(np.float32))

    return _each_channel(image, blur)


def _each_channel(image: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    planes = [
        np.asarray(change(Image.fromarray(np.ascontiguousarray(image[..., channel]))))
        for channel in range(image.shape[2])
    ]
    return np.stack(planes, axis=-1)


def _expose(rgb: Array, seed: int) -> Array:
    """Vignette, sensor noise, and a film-like curve to display values."""
    v, u = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    rgb = rgb * (1 - 0.16 * (u**2 + v**2))[..., None]
    rng = np.random.default_rng(seed)
    rgb = rgb + rng.normal(0, 1, rgb.shape) * np.sqrt(np.maximum(rgb, 0) * 2.2e-4 + 2e-6)
    rgb = np.maximum(rgb, 0)
    curve = rgb * (2.51 * rgb + 0.03) / (rgb * (2.43 * rgb + 0.59) + 0.14)
    return (np.clip(curve, 0, 1) ** (1 / 2.2)).astype(np.float32)


def _normals(field: Field, points: Array) -> Array:
    step = np.float32(4e-4)
    slopes = [
        field(points + step * axis) - field(points - step * axis)
        for axis in np.eye(3, dtype=np.float32)
    ]
    return _unit(np.stack(slopes, axis=1))


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-9)).astype(np.float32)


# The scenes


def vase() -> Scene:
    """A glazed vase on boards before a wall."""

    def profile(y: Array) -> Array:
        belly = 0.082 * np.clip(1 - ((y - 0.145) / 0.15) ** 2, 0, 1) ** 0.9
        lip = 0.024 * np.clip((y - 0.285) / 0.045, 0, 1) ** 2
        foot = 0.03 * np.clip(1 - y / 0.03, 0, 1) ** 0.5
        return (0.036 + np.maximum(belly, foot) + lip).astype(np.float32)

    def hollow(p: Array) -> Array:
        inside = lathe(lambda y: profile(y) - 0.007, 0.5, (0.03, 0.0))(p)
        return np.maximum(body(p), -np.maximum(inside, 0.05 - p[:, 1]))

    body = lathe(profile, 0.33, (0.03, 0.0))

    return Scene(
        things=(
            Thing(hollow, glaze, (0.03, 0.165, 0), 0.24, 0.9, True),
            Thing(
                either(
                    block((-0.36, 0.018, 0.24), (0.13, 0.018, 0.09), 14),
                    block((-0.35, 0.05, 0.25), (0.11, 0.014, 0.08), -9),
                ),
                plain((0.24, 0.10, 0.07)),
                (-0.36, 0.035, 0.245),
                0.19,
                0.1,
            ),
        ),
        ground=planks,
        wall=plaster,
        wall_z=0.62,
        eye=(-0.12, 0.42, -1.05),
        target=(0.0, 0.15, 0.0),
        field_of_view=32,
        sun=(-0.75, 1.0, -0.65),
        sun_colour=(2.3, 2.1, 1.8),
        sky_colour=(0.50, 0.55, 0.62),
        penumbra=5,
        blur=3.5,
    )


def cup() -> Scene:
    """A yellow mug among boxes on a desk."""
    return Scene(
        things=(
            Thing(
                mug((-0.03, 0.0), 0.052, 0.125),
                plain((0.74, 0.42, 0.03), 0.03),
                (0, 0.0625, 0),
                0.13,
                0.7,
                True,
            ),
            Thing(
                block((0.25, 0.075, 0.22), (0.10, 0.075, 0.07), 24),
                cardboard,
                (0.25, 0.075, 0.22),
                0.16,
            ),
            Thing(
                block((-0.27, 0.11, 0.26), (0.075, 0.11, 0.075), -18),
                cardboard,
                (-0.27, 0.11, 0.26),
                0.17,
            ),
            Thing(
                block((0.24, 0.19, 0.23), (0.06, 0.04, 0.05), 2),
                plain((0.22, 0.26, 0.31)),
                (0.24, 0.19, 0.23),
                0.1,
            ),
        ),
        ground=desk,
        wall=wallpaper,
        wall_z=0.5,
        eye=(0.07, 0.33, -0.72),
        target=(0.0, 0.075, 0.04),
        field_of_view=36,
        sun=(0.8, 1.2, -0.55),
        sun_colour=(1.9, 1.8, 1.65),
        sky_colour=(0.50, 0.53, 0.58),
        penumbra=6,
        blur=3.0,
    )


def cone() -> Scene:
    """A traffic cone on a meadow with stones."""

    def profile(y: Array) -> Array:
        return np.float32(0.135) - np.float32(0.223) * (y - np.float32(0.035))

    def rock(x: float, z: float, size: float) -> Thing:
        def field(p: Array) -> Array:
            centre = vector((x, 0.25 * size, z))
            bumps = noise(p[:, 0] * 5 / size * 0.3, p[:, 2] * 5 / size * 0.3 + p[:, 1] * 9, 2)
            flat = (p - centre) * vector((1, 1.5, 1.1))
            return (0.55 * (np.linalg.norm(flat, axis=1) - size * (0.75 + 0.3 * bumps))).astype(
                np.float32
            )

        return Thing(field, stone, (x, 0.25 * size, z), 1.2 * size)

    return Scene(
        things=(
            Thing(
                either(
                    lathe(profile, 0.55, (-0.12, 0.0)),
                    block((-0.12, 0.018, 0.0), (0.19, 0.018, 0.19), 28, 0.012),
                ),
                signal,
                (-0.12, 0.275, 0),
                0.4,
                0.15,
                True,
            ),
            rock(0.85, 1.6, 0.22),
            rock(1.5, 2.3, 0.3),
            rock(-1.6, 3.2, 0.34),
        ),
        ground=meadow,
        wall=None,
        wall_z=np.inf,
        eye=(0.1, 0.62, -1.9),
        target=(0.02, 0.30, 0.2),
        field_of_view=36,
        sun=(0.9, 1.0, -0.6),
        sun_colour=(2.6, 2.4, 2.0),
        sky_colour=(0.42, 0.52, 0.68),
        penumbra=22,
        blur=3.5,
    )


# Depth as three kinds of camera write it


def near_bright(depth: Array) -> NDArray[np.uint8]:
    """8-bit inverse depth, as stereo gives it: near is bright."""
    inverse = 1 / depth
    share = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    return np.asarray(np.rint(255 * share), np.uint8)


def near_dark(depth: Array) -> NDArray[np.uint8]:
    """8-bit distance up to 8 m: near is dark, the sky white."""
    return np.asarray(np.rint(255 * np.clip(depth / 8, 0, 1)), np.uint8)


def millimetres(depth: Array, seed: int) -> NDArray[np.uint16]:
    """16-bit millimetres with a structured-light camera's noise, and 0 where it sees nothing."""
    rng = np.random.default_rng(seed)
    # Disparity comes in eighths of a pixel (575 pixels of focal length, 75 mm apart), with the
    # flicker of its last step.
    steps = np.rint(8 * 575 * 0.075 / depth + rng.normal(0, 0.22, depth.shape))
    measured = 8 * 575 * 0.075 / steps
    # The projector sits to one side: what a nearer surface hides from it stays unmeasured.
    hidden = np.zeros(depth.shape, np.bool_)
    for shift in range(1, 9):
        hidden[:, :-shift] |= depth[:, shift:] < depth[:, :-shift] - 0.006 * shift
    speckle = rng.random(depth.shape) < 0.002
    values = np.asarray(np.rint(1000 * measured), np.uint16)
    values[hidden | speckle] = 0
    return values


def main() -> None:
    """Render and write every example."""
    (FOLDER / "gt").mkdir(exist_ok=True)
    for seed, (name, scene) in enumerate(
        {"vase": vase(), "mug": cup(), "cone": cone()}.items(), start=1
    ):
        picture = render(scene, seed)
        if name == "vase":
            depth: NDArray[np.uint8] | NDArray[np.uint16] = near_bright(picture.depth)
        elif name == "mug":
            depth = millimetres(picture.depth, seed)
        else:
            depth = near_dark(picture.depth)
        rgb = Image.fromarray(np.rint(255 * picture.rgb).astype(np.uint8))
        rgb.save(FOLDER / f"{name}_rgb.jpg", quality=88)
        Image.fromarray(depth).save(FOLDER / f"{name}_depth.png", optimize=True)
        salient = [index for index, thing in enumerate(scene.things) if thing.salient]
        gt = np.where(np.isin(picture.thing, salient), 255, 0).astype(np.uint8)
        Image.fromarray(gt).save(FOLDER / "gt" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
