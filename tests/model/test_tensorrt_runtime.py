from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export import to_tensorrt
from model.engines import EngineOptions, Machine
from model.runtimes import tensorrt as subject
from model.runtimes.base import OutOfMemory, RuntimeFailure
from model.runtimes.echo import EchoRuntime
from tests.gpu import api
from tests.model.fake_tensorrt import CUDA, HEIGHT, TENSORRT, WIDTH, FakeCuda

OPTIONS = EngineOptions(typical_batch=2, max_batch=5)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def build(
        model: Path, machine: Machine, options: EngineOptions, folder: Path, report: Any
    ) -> bytes:
        assert machine == Machine("11.4.0.106", "9.0", "Fake 9000")
        return to_tensorrt.build(model, options, folder / "timing", report)

    monkeypatch.setitem(__import__("sys").modules, "tensorrt", TENSORRT)
    monkeypatch.setattr(subject, "_packages", lambda: (TENSORRT, CUDA))
    monkeypatch.setattr(subject, "ensure_engine", build)
    CUDA.reset()
    yield
    CUDA.reset()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"good")
    return path


def runtime(model: Path, **options: Any) -> subject.TensorRTRuntime:
    return subject.TensorRTRuntime(
        model, options=EngineOptions(**{**vars(OPTIONS), **options}), folder=model.parent
    )


def batch(size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(size)
    rgb = rng.integers(0, 256, (size, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return rgb, rng.random((size, HEIGHT, WIDTH, 1), dtype=np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 13])
@pytest.mark.parametrize("capturable", [True, False])
def test_row_i_answers_row_i(model: Path, size: int, capturable: bool) -> None:
    CUDA.capturable = capturable
    loaded = runtime(model)

    answers = loaded.run(*batch(size))

    np.testing.assert_array_equal(answers, EchoRuntime().run(*batch(size)))
    assert CUDA.launches == (-(-size // 5) if capturable else 0)
    assert (loaded.name, loaded.device) == ("tensorrt", "cuda:0")


def test_a_small_batch_after_a_large_one_keeps_its_own_rows(model: Path) -> None:
    loaded = runtime(model)
    first = loaded.run(*batch(5))
    before = first.copy()

    answer = loaded.run(*batch(2))

    np.testing.assert_array_equal(answer, EchoRuntime().run(*batch(2)))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (16, [1, 2, 4, 8, 16])]
)
def test_buckets_are_powers_of_two_and_the_most(most: int, expected: list[int]) -> None:
    assert subject.buckets(most) == expected


def test_closing_frees_everything(model: Path) -> None:
    loaded = runtime(model)
    loaded.run(*batch(3))
    assert CUDA.blocks
    assert CUDA.live > 1

    loaded.close()

    assert not CUDA.blocks
    assert CUDA.live == 0


def test_too_little_memory_is_said_as_such(model: Path) -> None:
    CUDA.free_bytes = 100

    with pytest.raises(OutOfMemory, match="cudaMallocHost: cudaErrorMemoryAllocation"):
        runtime(model)


@pytest.mark.parametrize("free_bytes", [2000, 4000])
def test_a_start_that_fails_half_way_frees_what_it_took(model: Path, free_bytes: int) -> None:
    CUDA.free_bytes = free_bytes

    with pytest.raises(OutOfMemory):
        runtime(model)

    assert (CUDA.blocks, CUDA.live, CUDA.free_bytes) == ({}, 0, free_bytes)


def test_a_fault_of_the_card_is_a_failure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = runtime(model)
    fault = (CUDA.cudaError_t.cudaErrorIllegalAddress,)
    monkeypatch.setattr(CUDA, "cudaStreamSynchronize", lambda _: fault)

    with pytest.raises(RuntimeFailure, match="cudaErrorIllegalAddress"):
        loaded.run(*batch(1))


@pytest.mark.parametrize("change", ["dtype", "shape", "rows"])
def test_a_batch_of_another_kind_is_refused(model: Path, change: str) -> None:
    rgb, aux = batch(2)
    given: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "dtype": (rgb.astype(np.float32), aux),
        "shape": (rgb[:, 1:], aux),
        "rows": (rgb, aux[:1]),
    }

    with pytest.raises(RuntimeFailure, match=r"rgb"):
        runtime(model).run(*given[change])


def test_a_graph_that_tensorrt_refuses_is_named(model: Path) -> None:
    model.write_bytes(b"bad")

    with pytest.raises(to_tensorrt.BuildError, match="node_7: what is this"):
        runtime(model)


def test_a_missing_package_is_a_failure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    with pytest.raises(RuntimeFailure, match="needs its extra"):
        subject.TensorRTRuntime(model)


def test_the_builder_sets_what_it_was_asked_for(model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    options = EngineOptions(
        2, 5, 4, version_compatible=True, hardware_compatibility="same_compute_capability"
    )
    timing = tmp_path / "timing"

    plan = to_tensorrt.build(model, options, timing, told.append).decode()

    assert '"network_flags": 2' in plan
    assert '"flags": ["VERSION_COMPATIBLE"]' in plan
    assert '"level": 4' in plan
    assert '"hardware": "SAME_COMPUTE_CAPABILITY"' in plan
    assert f'"rgb": [[1, {HEIGHT}, {WIDTH}, 3], [2, {HEIGHT}, {WIDTH}, 3], [5,' in plan
    assert "Building: 2 steps" in told
    assert "warning: worth telling" in told
    assert not any("not worth" in line for line in told)
    assert timing.read_bytes() == b"t"
    to_tensorrt.build(model, options, timing, told.append)
    assert timing.read_bytes() == b"tt"


def test_float32_keeps_its_bits_unless_tf32_is_chosen(model: Path, tmp_path: Path) -> None:
    plans = [
        to_tensorrt.build(model, EngineOptions(tf32=tf32), tmp_path / "timing", lambda _: None)
        for tf32 in (False, True)
    ]

    assert [b"TF32" in plan for plan in plans] == [False, True]


def test_a_timing_cache_of_another_card_is_not_used(model: Path, tmp_path: Path) -> None:
    timing = tmp_path / "timing"
    timing.write_bytes(b"foreign")

    to_tensorrt.build(model, OPTIONS, timing, lambda _: None)

    assert timing.read_bytes() == b"t"


@pytest.mark.parametrize(
    ("version", "known"), [("10.12.0.36", False), ("10.13.3.9.post1", True), ("11.4.0.106", True)]
)
def test_only_versions_that_will_do_are_taken(version: str, known: bool) -> None:
    if known:
        to_tensorrt.check_version(version)
    else:
        with pytest.raises(to_tensorrt.BuildError, match=r"10\.12\.0\.36 is too old"):
            to_tensorrt.check_version(version)


def test_the_fakes_offer_no_name_that_the_packages_lack() -> None:
    """So that whatever runs in this file needs only names that were found in the packages."""
    for name, members in api.TENSORRT.items():
        offered = {
            member
            for member in dir(getattr(TENSORRT, name))
            if not member.startswith("_") and member not in ("INFO", "INPUT", "name", "value")
        } - set(dir(int))
        allowed = set(members)
        assert offered <= allowed, name
    offered = {each for each in dir(FakeCuda) if each.startswith("cuda")}
    assert offered <= set(api.CUDA)


def test_the_cuda_bindings_have_every_name() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")

    missing = [name for name in api.CUDA if not hasattr(runtime, name)]

    assert missing == []
    assert hasattr(runtime.cudaError_t, "cudaErrorMemoryAllocation")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")


def test_the_builder_needs_nothing_that_serving_lacks() -> None:
    """It runs in the serving image, where there is neither torch nor onnx."""
    source = inspect.getsource(to_tensorrt)

    assert "import onnx" not in source
    assert "import torch" not in source
