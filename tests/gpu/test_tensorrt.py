"""The real TensorRT: names, builds, answers. Never run by the people who wrote it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.inputs import scenes
from export.to_tensorrt import check_version
from model.bundle import Bundle, load_canary
from model.engines import EngineKey, EngineOptions, engine_path
from model.runtimes.tensorrt import TensorRTRuntime, this_machine
from tests.gpu import api

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

OPTIONS = EngineOptions(typical_batch=4, max_batch=8)


def test_the_packages_have_every_name_that_is_used() -> None:
    import tensorrt
    from cuda.bindings import runtime

    missing = [
        f"{name}.{member}"
        for name, members in api.TENSORRT.items()
        for member in members
        if not hasattr(getattr(tensorrt, name, None), member)
    ]
    if int(tensorrt.__version__.split(".")[0]) > 10:  # where it is deprecated
        missing = [name for name in missing if not name.endswith(".STRONGLY_TYPED")]
    assert missing == []
    assert [name for name in api.CUDA if not hasattr(runtime, name)] == []
    check_version(tensorrt.__version__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def test_an_engine_answers_as_the_graph_does(bundle: Bundle, folder: Path) -> None:
    told: list[str] = []
    runtime = TensorRTRuntime(bundle.model_path, options=OPTIONS, folder=folder, report=told.append)
    rgb, aux, expected = load_canary(bundle)

    assert any("building an engine" in line for line in told)
    assert np.abs(runtime.run(rgb, aux) - expected).max() <= bundle.canary_tolerance
    assert all(bucket.graph is not None for bucket in runtime._buckets)
    for rows in (1, 2, 3, 5, 8, 11, 1):
        pair = scenes(rows, bundle.manifest.input_size)
        alone = np.concatenate(
            [runtime.run(pair[0][i : i + 1], pair[1][i : i + 1]) for i in range(rows)]
        )
        assert np.abs(runtime.run(*pair) - alone).max() <= bundle.canary_tolerance
    runtime.close()


def test_a_second_start_loads_and_a_spoiled_engine_is_built_anew(
    bundle: Bundle, folder: Path
) -> None:
    TensorRTRuntime(bundle.model_path, options=OPTIONS, folder=folder).close()
    told: list[str] = []

    started = time.monotonic()
    TensorRTRuntime(bundle.model_path, options=OPTIONS, folder=folder, report=told.append).close()

    assert told == []
    assert time.monotonic() - started < 30
    path = engine_path(folder, EngineKey.make(bundle.model_path, this_machine(), OPTIONS))
    path.write_bytes(path.read_bytes()[:-100])
    TensorRTRuntime(bundle.model_path, options=OPTIONS, folder=folder, report=told.append).close()
    assert any("truncated or altered" in line for line in told)


def test_compatible_engines_build_and_run(bundle: Bundle, folder: Path) -> None:
    options = replace(OPTIONS, version_compatible=True, hardware_compatibility="ampere_plus")
    rgb, aux, expected = load_canary(bundle)

    runtime = TensorRTRuntime(bundle.model_path, options=options, folder=folder)

    assert np.abs(runtime.run(rgb, aux) - expected).max() <= bundle.canary_tolerance
    runtime.close()
