from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.data.polarity import brighter_object
from training.data.raytrace import Array, Scene, Solid, render, trace
from training.data.synthetic import CAMERAS, render_rgbd, render_vehicle
from training.doctor import examine_saliency
from training.doctor_reid import examine_reid


def plain(p: Array) -> Array:
    return np.full((len(p), 4), 0.5, np.float32)


def scene_of(*solids: Solid) -> Scene:
    return Scene(
        solids, plain, None, 0.0, (0, 1, -4), (0, 1, 0), 1.0, (0.3, 1, -0.5), (1.0,) * 4, (0.3,) * 4
    )


SOLIDS = [
    Solid("box", (0.1, 1.0, 0.2), (0.5, 0.3, 0.2), plain, turn=0.4),
    Solid("ellipsoid", (-0.2, 1.1, 0.0), (0.5, 0.3, 0.7), plain, turn=1.0),
    Solid("frustum", (0.0, 0.5, 0.0), (0.6, 0.9, 0.2), plain),
    Solid("frustum", (-0.4, 1.0, 0.1), (0.3, 0.8, 0.3), plain, turn=0.3, lying=True),
]


def outside(solid: Solid, points: Array) -> Array:
    """How far outside a solid points are, in units of its size; 0 on its surface."""
    p = solid.local(points - np.array(solid.centre, np.float32))
    a, b, c = solid.size
    if solid.kind == "box":
        return (np.abs(p) / np.array(solid.size)).max(axis=1) - 1
    if solid.kind == "ellipsoid":
        return np.linalg.norm(p / np.array(solid.size), axis=1) - 1
    radius = a + (c - a) * p[:, 1] / b
    side = np.hypot(p[:, 0], p[:, 2]) / np.maximum(radius, 1e-3) - 1
    return np.maximum(side, np.abs(p[:, 1] / b - 0.5) * 2 - 1)


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda s: f"{s.kind}{'-lying' if s.lying else ''}")
def test_rays_end_on_the_surface_and_never_pass_through(solid: Solid) -> None:
    rng = np.random.default_rng(0)
    origins = np.broadcast_to(np.array((0, 1, -4), np.float32), (4000, 3))
    rays = np.stack((*rng.uniform(-0.3, 0.3, (2, 4000)), np.ones(4000)), axis=1)
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)

    along, who, normals = trace(scene_of(solid), origins, rays)

    hit = who == 0
    assert 0.02 < hit.mean() < 0.9
    points = origins[hit] + along[hit, None] * rays[hit]
    assert np.abs(outside(solid, points)).max() < 0.01
    assert ((normals[hit] * rays[hit]).sum(axis=1) < 1e-3).all()
    for share in np.linspace(0, 0.99, 50):
        before = origins[hit] + share * along[hit, None] * rays[hit]
        assert outside(solid, before).min() > -0.02
    beyond = np.linspace(0, 8, 160)[None, :, None] * rays[~hit, None] + origins[~hit, None]
    assert outside(solid, beyond.reshape(-1, 3)).min() > -0.02


def test_what_is_nearer_hides_and_shades_what_is_behind() -> None:
    near = Solid("box", (0, 1, 0), (0.4, 0.4, 0.1), plain, salient=True)
    far = Solid("box", (0, 1, 1.5), (2, 1, 0.1), plain)

    picture = render(scene_of(near, far), (48, 48))

    inside = picture.salient > 0.9
    assert picture.depth[inside] == pytest.approx(3.9, abs=0.01)
    wall = picture.depth[20:28, 8:12]
    assert wall == pytest.approx(5.4, abs=0.01)
    alone = render(scene_of(far), (48, 48))
    shaded = (picture.light[..., 0] < 0.8 * alone.light[..., 0]) & ~(picture.salient > 0)
    assert shaded.sum() > 10


def test_a_seed_gives_the_same_scene_and_another_gives_another() -> None:
    one, same, other = (render_rgbd(seed, (64, 64)) for seed in (5, 5, 6))

    for first, second in zip(one, same, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one.rgb, other.rgb)


def test_in_every_scene_the_thing_that_is_meant_stands_before_its_surroundings() -> None:
    scenes = [render_rgbd(seed, (64, 64)) for seed in range(12)]

    shares = [(scene.gt > 0).mean() for scene in scenes]
    differences = [brighter_object(scene.depth, scene.gt > 0) for scene in scenes]

    assert min(shares) > 0.01
    assert max(shares) < 0.55
    assert np.mean(np.array(differences) > 0.05) > 0.8
    assert all(set(np.unique(scene.gt)) == {0, 255} for scene in scenes)


def test_near_infrared_is_not_a_function_of_colour() -> None:
    sights = [render_vehicle(pid, 1, 0, (48, 48)) for pid in range(1, 13)]
    grey = [sight.rgb[24:36, 16:32].mean() for sight in sights]
    nir = [sight.nir[24:36, 16:32].mean() for sight in sights]

    assert abs(np.corrcoef(grey, nir)[0, 1]) < 0.8
    assert np.std(nir) > 10


def test_cameras_see_one_vehicle_differently_and_views_a_little_less() -> None:
    def apart(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        one, other = (render_vehicle(*which, (48, 48)).rgb.astype(float) for which in (a, b))
        return float(np.abs(one - other).mean())

    views = np.mean([apart((pid, 1, 0), (pid, 1, 1)) for pid in (1, 2, 3)])
    cameras = np.mean([apart((pid, 1, 0), (pid, 3, 0)) for pid in (1, 2, 3)])

    assert 1 < views < cameras


def test_rendered_sets_are_found_good(tmp_path: Path) -> None:
    runner = CliRunner()
    small = ["--train", "3", "--test", "2", "--side", "48", "--out"]
    scenes = runner.invoke(app, ["synthesise", "saliency", *small, str(tmp_path / "scenes")])
    cars = runner.invoke(app, ["synthesise", "reid", *small, str(tmp_path / "cars")])
    again = runner.invoke(app, ["synthesise", "reid", *small, str(tmp_path / "cars")])

    assert scenes.output == f"5 rendered: {tmp_path / 'scenes'}\n"
    report = examine_saliency(tmp_path / "scenes")
    assert report.good, report
    assert [(row[0], row[2]) for row in report.rows[1:]] == [("test", "2"), ("train", "3")]
    reid = examine_reid(tmp_path / "cars", "folders")
    assert reid.good, reid
    assert not [finding for finding in reid.findings if finding.level != "note"], reid
    assert reid.rows[1:] == [
        ("train", "3", str(6 * CAMERAS), str(CAMERAS)),
        ("query", "2", str(2 * CAMERAS), str(CAMERAS)),
        ("gallery", "2", str(2 * CAMERAS), str(CAMERAS)),
    ]
    assert cars.exit_code == 0
    assert (again.exit_code, "is not empty" in again.stderr) == (2, True)
