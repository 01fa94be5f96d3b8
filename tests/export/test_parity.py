from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.inputs import parity_pairs, scenes
from export.parity import MAX_ABS_ERROR, MAX_BATCH_EFFECT, ParityError, Run, Stage, check_parity
from model.runtimes.echo import EchoRuntime

SIZE = (32, 48)
ECHO = EchoRuntime().run


def off_by(error: float) -> Run:
    """Answers that are off by `error` in one pixel of the white picture, the last."""

    def run(rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = ECHO(rgb, aux)
        answer[rgb.min(axis=(1, 2, 3)) == 255, 3, 4] += error
        return answer

    return run


def stages(*runs: tuple[str, Run, float | None]) -> list[Stage]:
    return [Stage("trained", ECHO, None), *(Stage(*each) for each in runs)]


def step_of(parity: dict[str, Any], name: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [step for step in parity["steps"] if step["step"] == name]
    assert len(steps) == 1
    return steps[0]


def test_equal_answers_pass_with_no_error() -> None:
    parity = check_parity(stages(("onnxruntime", ECHO, MAX_ABS_ERROR)), SIZE)

    names = [step["step"] for step in parity["steps"]]
    assert names == ["onnxruntime", "end_to_end", "batch_invariance"]
    assert all(step["max_abs_error"] == 0 for step in parity["steps"])
    assert list(step_of(parity, "onnxruntime")["by_batch"]) == ["1", "3", "8"]
    assert parity["size"] == [32, 48]
    assert {"torch", "onnx", "onnxruntime"} <= set(parity["versions"])


@pytest.mark.parametrize("error", [2e-5, -2e-5, float("nan"), float("inf")])
def test_one_wrong_pixel_fails(error: float) -> None:
    with pytest.raises(ParityError, match=r"onnxruntime: max abs error .*, at most 1e-05"):
        check_parity(stages(("onnxruntime", off_by(error), MAX_ABS_ERROR)), SIZE)


def test_a_step_without_tolerance_is_measured() -> None:
    rounding = ("float16_weights", off_by(0.25), None)

    parity = check_parity(stages(rounding, ("onnxruntime", off_by(0.25), MAX_ABS_ERROR)), SIZE)

    step = step_of(parity, "float16_weights")
    assert step["max_abs_error"] == pytest.approx(0.25, rel=1e-6)
    assert step["by_batch"]["1"]["mean_abs_error"] == pytest.approx(0.25 / (32 * 48), rel=1e-6)
    assert step_of(parity, "end_to_end")["max_abs_error"] == step["max_abs_error"]
    assert step_of(parity, "end_to_end")["tolerance"] is None
    assert step_of(parity, "onnxruntime")["max_abs_error"] == 0


def test_what_float32_itself_is_off_by_is_allowed_twice() -> None:
    plain = off_by(-2e-5)

    parity = check_parity(stages(("onnxruntime", off_by(3.9e-5), MAX_ABS_ERROR)), SIZE, plain=plain)

    assert step_of(parity, "onnxruntime")["tolerance"] == pytest.approx(4e-5, rel=0.01)
    assert step_of(parity, "end_to_end")["tolerance"] == pytest.approx(4e-5, rel=0.01)
    assert step_of(parity, "batch_invariance")["tolerance"] == MAX_BATCH_EFFECT
    assert parity["float32_error"]["formula"] == pytest.approx(2e-5, rel=0.01)
    with pytest.raises(ParityError, match=r"onnxruntime: max abs error 4.2.*e-05, at most 4.*e-05"):
        check_parity(stages(("onnxruntime", off_by(4.2e-5), MAX_ABS_ERROR)), SIZE, plain=plain)


def test_small_errors_may_not_add_up() -> None:
    runs = [(f"step {i}", off_by(0.8e-5 * i), MAX_ABS_ERROR) for i in (1, 2)]

    with pytest.raises(ParityError, match=r"^end_to_end"):
        check_parity(stages(*runs), SIZE)


def test_an_answer_that_depends_on_its_batch_fails() -> None:
    def leaks(rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        return ECHO(rgb, aux) + np.float32(1e-6 * len(rgb) * 0.6)

    with pytest.raises(ParityError, match=f"batch_invariance.*at most {MAX_BATCH_EFFECT:g}"):
        check_parity(stages(("onnxruntime", leaks, MAX_ABS_ERROR)), SIZE)


def test_another_shape_fails() -> None:
    def flat(rgb: NDArray[np.uint8], aux: NDArray[np.float32]) -> NDArray[np.float32]:
        return ECHO(rgb, aux).reshape(len(rgb), -1)

    with pytest.raises(ParityError, match=r"onnxruntime: shape \(1, 1536\), expected \(1, 32, 48"):
        check_parity(stages(("onnxruntime", flat, MAX_ABS_ERROR)), SIZE)


def test_pairs_have_the_contracts_types_and_cover_its_range() -> None:
    rgb, aux = parity_pairs(SIZE)

    assert rgb.dtype == np.uint8
    assert aux.dtype == np.float32
    assert (rgb.shape, aux.shape) == ((8, *SIZE, 3), (8, *SIZE, 1))
    assert (rgb.min(), rgb.max()) == (0, 255)
    assert (aux.min(), aux.max()) == (0, 1)
    for rows in (rgb, aux):
        for i in range(8):
            assert not any(np.array_equal(rows[i], rows[j]) for j in range(i))


def test_two_scenes_are_small_in_a_file(tmp_path: Path) -> None:
    rgb, aux = scenes(2, (320, 320))

    np.savez_compressed(tmp_path / "canary.npz", rgb=rgb, aux=aux)

    # A bundle is shipped in the repository; its canary holds the answers besides.
    assert (tmp_path / "canary.npz").stat().st_size < 200_000


def test_pairs_are_the_same_every_time_and_differ_by_seed() -> None:
    rgb, aux = scenes(2, SIZE)
    again_rgb, again_aux = scenes(2, SIZE)
    other_rgb, other_aux = scenes(2, SIZE, seed=1)

    np.testing.assert_array_equal(rgb, again_rgb)
    np.testing.assert_array_equal(aux, again_aux)
    assert not np.array_equal(rgb, other_rgb)
    assert not np.array_equal(aux, other_aux)


def vectors(turn: float = 0.0, length: float = 1.0) -> Run:
    """Embeddings (B, 2) of one angle, `turn` radians off in the white picture, the last."""

    def run(rgb: NDArray[np.uint8], _aux: NDArray[np.float32]) -> NDArray[np.float32]:
        angle = 0.7 + turn * (rgb.min(axis=(1, 2, 3)) == 255)
        return (length * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)

    return run


def check_vectors(before: Run, after: Run, tolerance: float | None) -> dict[str, Any]:
    return check_parity(
        [Stage("trained", before, None), Stage("onnxruntime", after, tolerance)], SIZE
    )


def test_the_direction_of_embeddings_is_measured() -> None:
    parity = check_vectors(vectors(), vectors(0.1), None)

    step = step_of(parity, "onnxruntime")
    assert step["min_cosine"] == pytest.approx(np.cos(0.1), abs=1e-6)  # float32
    assert step["by_batch"]["8"]["min_cosine"] == step["min_cosine"]
    assert step_of(parity, "batch_invariance")["min_cosine"] == pytest.approx(1, abs=1e-12)
    assert "min_cosine" not in step_of(check_parity(stages(("x", ECHO, None)), SIZE), "x")


def test_embeddings_of_another_direction_fail_however_short_they_are() -> None:
    # All numbers are under the bar on absolute errors.
    runs = vectors(length=1e-6), vectors(turn=0.1, length=1e-6)

    with pytest.raises(ParityError, match=r"onnxruntime: cosine 0\.995.*, must be above 0\.99999"):
        check_vectors(*runs, MAX_ABS_ERROR)


def test_embeddings_of_no_direction_fail() -> None:
    with pytest.raises(ParityError, match=r"cosine nan"):
        check_vectors(vectors(), vectors(length=0.0), 2.0)
