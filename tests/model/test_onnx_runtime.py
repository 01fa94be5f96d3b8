from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from model.runtimes.base import OutOfMemory, RuntimeFailure
from model.runtimes.echo import EchoEmbeddingRuntime, EchoRuntime
from model.runtimes.onnx_runtime import OnnxRuntime
from tests.app.tiny import SIDE, write_onnx, write_reid_onnx


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_onnx(path)
    return path


def batch(size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(size)
    rgb = rng.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8)
    return rgb, rng.random((size, SIDE, SIDE, 1), dtype=np.float32)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_row_i_answers_row_i(model_path: Path, size: int) -> None:
    runtime = OnnxRuntime(model_path, threads=1)
    rgb, aux = batch(size)

    answers = runtime.run(rgb, aux)

    assert (answers.dtype, answers.shape) == (np.dtype(np.float32), (size, SIDE, SIDE))
    # Another order of float32 additions.
    np.testing.assert_allclose(answers, EchoRuntime().run(rgb, aux), atol=1e-6)
    alone = np.concatenate([runtime.run(rgb[i : i + 1], aux[i : i + 1]) for i in range(size)])
    np.testing.assert_array_equal(alone, answers)


def test_rows_of_embeddings_stay_in_order(tmp_path: Path) -> None:
    write_reid_onnx(tmp_path / "model.onnx")
    rgb, aux = batch(8)

    answers = OnnxRuntime(tmp_path / "model.onnx", threads=1).run(rgb, aux)

    # Another order of float32 additions.
    np.testing.assert_allclose(answers, EchoEmbeddingRuntime().run(rgb, aux), atol=1e-6)


def test_it_says_where_it_runs(model_path: Path) -> None:
    runtime = OnnxRuntime(model_path)

    assert (runtime.name, runtime.device) == ("onnxruntime", "cpu")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this build has CUDA"
)
def test_a_missing_gpu_is_a_failure_unless_fallback_is_chosen(model_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="CUDAExecutionProvider"):
        OnnxRuntime(model_path, device="cuda")

    assert OnnxRuntime(model_path, device="cuda", provider_policy="fallback").device == "cpu"


def test_a_gpu_that_does_not_start_is_a_failure(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is in the build, but the session comes back without it, as it does then."""
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    session = ort.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_args, **_options: session)

    with pytest.raises(RuntimeFailure, match="did not start"):
        OnnxRuntime(model_path, device="cuda")

    assert OnnxRuntime(model_path, device="cuda", provider_policy="fallback").device == "cpu"


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph_is_a_failure(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(RuntimeFailure, match=r"model\.onnx"):
        OnnxRuntime(path)


def test_a_graph_with_other_inputs_is_a_failure(model_path: Path) -> None:
    graph = onnx.load(model_path)
    for node in graph.graph.node:
        node.input[:] = ["depth" if name == "aux" else name for name in node.input]
    graph.graph.input[1].name = "depth"
    onnx.save(graph, model_path)

    with pytest.raises(RuntimeFailure, match="expected inputs rgb and aux"):
        OnnxRuntime(model_path)


def test_a_batch_of_another_shape_is_a_failure(model_path: Path) -> None:
    rgb, aux = batch(1)

    with pytest.raises(RuntimeFailure, match="onnxruntime"):
        OnnxRuntime(model_path).run(rgb[:, 1:], aux[:, 1:])


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal Failed to "
        "allocate memory for requested buffer of size 1048576",
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0",
        "std::bad_alloc",
    ],
)
def test_too_little_memory_is_said_as_such(
    model_path: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = OnnxRuntime(model_path)

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(runtime, "_run", fail)

    with pytest.raises(OutOfMemory, match="onnxruntime: "):
        runtime.run(*batch(2))


def test_bound_inputs_answer_the_same(model_path: Path) -> None:
    """As on a GPU, where it cannot be seen here."""
    runtime = OnnxRuntime(model_path)

    for size, seed in ((2, 1), (3, 2), (2, 3)):
        rgb, aux = batch(size)
        inputs: dict[str, NDArray[Any]] = {"rgb": rgb // seed, "aux": aux / seed}
        answer = runtime._run_bound(inputs)
        np.testing.assert_array_equal(answer, runtime.run(inputs["rgb"], inputs["aux"]))


def test_a_gpu_gets_its_limits(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    session = ort.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )

    def start(*_: object, providers: list[Any]) -> ort.InferenceSession:
        asked.extend(providers)
        return session

    monkeypatch.setattr(ort, "InferenceSession", start)

    OnnxRuntime(
        model_path,
        device="cuda",
        provider_policy="fallback",
        memory_limit_bytes=2**30,
    )

    (cuda, settings), (cpu, none) = asked
    assert (cuda, cpu, none) == ("CUDAExecutionProvider", "CPUExecutionProvider", {})
    assert settings == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "gpu_mem_limit": "1073741824",
    }
