"""A small ray tracer of boxes, ellipsoids and frustums, in NumPy: colour, near-infrared, depth.

Every surface reflects four channels: red, green, blue, near-infrared. Lengths are metres; x is
right, y up, z into the picture. P stands for a number of rays or points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = Any  # a float32 array, which NumPy's types lose sight of in arithmetic
Paint = Callable[[Array], Array]
"""Points in a solid's own coordinates, (P, 3) -> what they reflect, (P, 4) in [0, 1]."""
Triplet = tuple[float, float, float]
Channels = tuple[float, float, float, float]

OVERSAMPLING = 2
GROUND, WALL, NOTHING = -1, -2, -3
LATTICE = np.random.default_rng(7).random((256, 256), dtype=np.float32)


@dataclass(frozen=True)
class Solid:
    """One convex body on or above the plane y = 0."""

    kind: Literal["box", "ellipsoid", "frustum"]
    centre: Triplet
    """Its middle; of a frustum, the middle of its base."""
    size: Triplet
    """Half lengths, or radii; of a frustum radius of the base, height, radius of the top."""
    paint: Paint
    turn: float = 0.0
    """About the vertical, in radians."""
    lying: bool = False
    """Whether a frustum's axis runs to the right in place of up."""
    gloss: float = 0.0
    salient: bool = False

    @property
    def reach(self) -> float:
        """Radius about `centre` that holds all of it."""
        a, b, c = self.size
        if self.kind == "frustum":
            return float(np.hypot(max(a, c), b))
        return float(np.hypot(a, np.hypot(b, c)))

    def local(self, vectors: Array) -> Array:
        """Directions of the world in the solid's own axes, (P, 3)."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        x, z = cos * x - sin * z, sin * x + cos * z
        return np.stack((-y, x, z) if self.lying else (x, y, z), axis=1)

    def world(self, vectors: Array) -> Array:
        """Inverse of `local`."""
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        if self.lying:
            x, y = y, -x
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        return np.stack((cos * x + sin * z, y, -sin * x + cos * z), axis=1)


@dataclass(frozen=True)
class Scene:
    """Solids on the ground, before a wall or under a sky."""

    solids: Sequence[Solid]
    ground: Paint
    wall: Paint | None
    wall_z: float
    eye: Triplet
    target: Triplet
    field_of_view: float
    """Vertical, in radians."""
    sun: Triplet
    """Direction towards it."""
    sun_light: Channels
    sky_light: Channels


class Rendering(NamedTuple):
    """Arrays (H, W[, 4]) of one scene."""

    light: NDArray[np.float32]
    """Linear, (H, W, 4): red, green, blue, near-infrared."""
    depth: NDArray[np.float32]
    """Along the optical axis in metres; infinite in the sky."""
    salient: NDArray[np.float32]
    """Share of each pixel that a salient solid covers."""


def noise(x: Array, y: Array, octaves: int = 4) -> Array:
    """Fractal value noise in [0, 1], (P,)."""
    total, weight = np.zeros_like(x), 0.0
    for octave in range(octaves):
        scale, share = 2.0**octave, 0.5**octave
        u, v = x * np.float32(scale) + 17.3 * octave, y * np.float32(scale) + 5.1 * octave
        i, j = np.floor(u), np.floor(v)
        f, g = u - i, v - j
        f, g = f * f * (3 - 2 * f), g * g * (3 - 2 * g)
        a, b = i.astype(np.int32) & 255, j.astype(np.int32) & 255
        c, d = (a + 1) & 255, (b + 1) & 255
        low = LATTICE[a, b] * (1 - f) + LATTICE[c, b] * f
        high = LATTICE[a, d] * (1 - f) + LATTICE[c, d] * f
        total += share * (low * (1 - g) + high * g)
        weight += share
    return (total / weight).astype(np.float32)


def render(scene: Scene, size: tuple[int, int]) -> Rendering:
    """Trace one ray a sample, four samples a pixel, and shade with hard shadows.

    Args:
        scene: what is seen.
        size: (height, width) in pixels.
    """
    height, width = (side * OVERSAMPLING for side in size)
    eye, forward, rays = _camera(scene, height, width)
    origins = np.broadcast_to(eye, rays.shape)
    along, who, normals = trace(scene, origins, rays)
    points = origins + rays * np.where(np.isfinite(along), along, 0)[:, None]
    light = _shade(scene, points, rays, normals, who)
    depth = along * (rays @ forward)
    salient = np.isin(who, [i for i, solid in enumerate(scene.solids) if solid.salient])
    return Rendering(
        _mean(light.reshape(height, width, 4)),
        # Of the sample nearest to a pixel's centre: never a mixture of near and far.
        depth.reshape(height, width)[1::OVERSAMPLING, 1::OVERSAMPLING].astype(np.float32),
        _mean(salient.reshape(height, width, 1).astype(np.float32))[..., 0],
    )


def _camera(scene: Scene, height: int, width: int) -> tuple[Array, Array, Array]:
    eye = np.array(scene.eye, np.float32)
    forward = _unit(np.array(scene.target, np.float32) - eye)
    right = _unit(np.cross(np.array((0, 1, 0), np.float32), forward))
    up = np.cross(forward, right)
    reach = np.tan(scene.field_of_view / 2)
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    u = (2 * (u.ravel() + 0.5) - width) / height * reach
    v = (height - 2 * (v.ravel() + 0.5)) / height * reach
    return eye, forward, _unit(forward + u[:, None] * right + v[:, None] * up)


def trace(scene: Scene, origins: Array, rays: Array) -> tuple[Array, Array, Array]:
    """What each ray meets first.

    Returns:
        Distance (P,), infinite where nothing is met; the solid's index, `GROUND`, `WALL` or
        `NOTHING` (P,); normal (P, 3).
    """
    along = np.full(len(rays), np.inf, np.float32)
    who = np.full(len(rays), NOTHING, np.int32)
    normals = np.zeros_like(rays)
    planes = [(GROUND, 1, 0.0, (0, 1, 0))]
    if scene.wall is not None:
        planes.append((WALL, 2, scene.wall_z, (0, 0, -1)))
    for name, axis, level, normal in planes:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (level - origins[:, axis]) / rays[:, axis]
        met = (t > 1e-4) & (t < along)
        along[met], who[met], normals[met] = t[met], name, normal
    for index, solid in enumerate(scene.solids):
        near = _near(solid, origins, rays)
        t, normal = _meet(solid, origins[near], rays[near])
        met = t < along[near]
        here = near[met]
        along[here], who[here], normals[here] = t[met], index, solid.world(normal[met])
    return along, who, normals


def _near(solid: Solid, origins: Array, rays: Array) -> Array:
    """Indices of the rays that meet the ball about a solid."""
    offset = origins - np.array(solid.centre, np.float32)
    half = np.einsum("ij,ij->i", offset, rays)
    inside = half**2 - np.einsum("ij,ij->i", offset, offset) + np.float32(solid.reach**2)
    return np.flatnonzero((inside > 0) & (half < solid.reach))


def _meet(solid: Solid, origins: Array, rays: Array) -> tuple[Array, Array]:
    """Distance to a solid, infinite where it is missed, and its normal in its own axes."""
    o = solid.local(origins - np.array(solid.centre, np.float32))
    d = solid.local(rays)
    d = np.where(np.abs(d) < 1e-7, np.float32(1e-7), d)
    size = np.array(solid.size, np.float32)
    if solid.kind == "box":
        edges = np.stack(((-size - o) / d, (size - o) / d))
        first, last = edges.min(axis=0), edges.max(axis=0)
        t = first.max(axis=1)
        axis = first.argmax(axis=1)
        normal = np.zeros_like(d)
        rows = np.arange(len(d))
        normal[rows, axis] = -np.sign(d[rows, axis])
        return np.where((t < last.min(axis=1)) & (t > 1e-4), t, np.inf), normal
    if solid.kind == "ellipsoid":
        u, v = o / size, d / size
        a, b = (v * v).sum(axis=1), (u * v).sum(axis=1)
        root = b * b - a * ((u * u).sum(axis=1) - 1)
        t = (-b - np.sqrt(np.maximum(root, 0))) / a
        t = np.where((root > 0) & (t > 1e-4), t, np.inf)
        at = u + np.where(np.isfinite(t), t, 0)[:, None] * v
        return t, _unit(at / size)
    return _meet_frustum(size, o, d)


def _meet_frustum(size: Array, o: Array, d: Array) -> tuple[Array, Array]:
    base, height, top = size
    slope = (top - base) / height
    radius = base + slope * o[:, 1]
    a = d[:, 0] ** 2 + d[:, 2] ** 2 - (slope * d[:, 1]) ** 2
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    b = o[:, 0] * d[:, 0] + o[:, 2] * d[:, 2] - slope * d[:, 1] * radius
    root = b * b - a * (o[:, 0] ** 2 + o[:, 2] ** 2 - radius**2)
    spread = np.sqrt(np.maximum(root, 0))
    best = np.full(len(o), np.inf, np.float32)
    normal = np.zeros_like(d)
    for t in ((-b - spread) / a, (-b + spread) / a):
        y = o[:, 1] + t * d[:, 1]
        met = (root > 0) & (t > 1e-4) & (y >= 0) & (y <= height) & (t < best)
        at = o[met] + t[met, None] * d[met]
        best[met] = t[met]
        outward = np.stack((at[:, 0], -slope * (base + slope * at[:, 1]), at[:, 2]), axis=1)
        normal[met] = _unit(outward)
    for level, reach, up in ((0.0, base, -1.0), (height, top, 1.0)):
        t = (level - o[:, 1]) / d[:, 1]
        x, z = o[:, 0] + t * d[:, 0], o[:, 2] + t * d[:, 2]
        met = (t > 1e-4) & (x * x + z * z <= reach * reach) & (t < best)
        best[met] = t[met]
        normal[met] = (0.0, up, 0.0)
    return best, normal


def _shade(scene: Scene, points: Array, rays: Array, normals: Array, who: Array) -> Array:
    colour = np.zeros((len(points), 4), np.float32)
    gloss = np.zeros(len(points), np.float32)
    for index, solid in enumerate(scene.solids):
        here = who == index
        colour[here] = solid.paint(solid.local(points[here] - np.array(solid.centre, np.float32)))
        gloss[here] = solid.gloss
    colour[who == GROUND] = scene.ground(points[who == GROUND])
    if scene.wall is not None:
        colour[who == WALL] = scene.wall(points[who == WALL])
    sun = _unit(np.array(scene.sun, np.float32))
    facing = np.clip(normals @ sun, 0, 1)
    lit = np.flatnonzero((who != NOTHING) & (facing > 0))
    start = points[lit] + normals[lit] * np.float32(2e-3)
    facing[lit] *= ~_hidden(scene, start, np.broadcast_to(sun, start.shape))
    open_sky = (0.45 + 0.55 * (0.5 + 0.5 * normals[:, 1])) * _openness(scene, points, who)
    mirror = rays - 2 * np.einsum("ij,ij->i", rays, normals)[:, None] * normals
    glint = gloss * (np.clip(mirror @ sun, 0, 1) ** 60 * (facing > 0) * 1.5)
    glint += gloss * 0.12 * np.clip(mirror[:, 1], 0, 1) * open_sky
    sun_light, sky_light = (np.array(x, np.float32) for x in (scene.sun_light, scene.sky_light))
    light = colour * (facing[:, None] * sun_light + open_sky[:, None] * sky_light)
    light += glint[:, None] * sun_light
    sky = who == NOTHING
    height = np.clip(rays[sky, 1] * 2.5 + 0.1, 0, 1)[:, None]
    cloud = noise(rays[sky, 0] * 5 + 3, rays[sky, 1] * 16, 3)[:, None]
    light[sky] = sky_light * (1.5 - 0.6 * height + 0.5 * np.clip(3 * cloud - 1.6, 0, 1))
    return light.astype(np.float32)


def _hidden(scene: Scene, points: Array, rays: Array) -> Array:
    """Whether something stands between a point and the sun, (P,)."""
    hidden = np.zeros(len(points), bool)
    for solid in scene.solids:
        near = _near(solid, points, rays)
        hidden[near] |= np.isfinite(_meet(solid, points[near], rays[near])[0])
    return hidden


def _openness(scene: Scene, points: Array, who: Array) -> Array:
    """Share of the sky that the ground sees beside what stands on it; 1 elsewhere."""
    share = np.ones(len(points), np.float32)
    ground = np.flatnonzero(who == GROUND)
    for solid in scene.solids:
        if solid.centre[1] - solid.reach > 0.05:
            continue
        x, _, z = solid.centre
        foot = max(solid.size[0], solid.size[2])
        apart = np.hypot(points[ground, 0] - x, points[ground, 2] - z) / np.float32(foot)
        share[ground] *= 1 - 0.55 * np.exp(-2.5 * np.maximum(apart - 0.7, 0))
    return share


def _mean(values: Array) -> Array:
    """Mean over the samples of each pixel, (h, w, C) -> (H, W, C)."""
    h, w, channels = values.shape
    n = OVERSAMPLING
    return values.reshape(h // n, n, w // n, n, channels).mean(axis=(1, 3))


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-9)).astype(np.float32)
