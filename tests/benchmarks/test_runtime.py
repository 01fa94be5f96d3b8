from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.runtime import copied_bytes, flops, table


def test_products_of_one_row_are_counted() -> None:
    weight = np.zeros((8, 2, 3, 3), np.float32)  # four groups of two channels
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["maps"], group=2, pads=[1, 1, 1, 1]),
            helper.make_node("Reshape", ["maps", "shape"], ["tokens"]),
            helper.make_node("MatMul", ["tokens", "v"], ["y"]),
        ],
        "two products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 7])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-1, 8, 30]), "shape"),
            numpy_helper.from_array(np.zeros((30, 7), np.float32), "v"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])

    assert flops(model) == 2 * (8 * 5 * 6) * (2 * 3 * 3) + 2 * (8 * 7) * 30
    assert copied_bytes(model) == 4 * (4 * 5 * 6 + 8 * 7)


def test_the_table_gives_rates_and_shares() -> None:
    report = {
        "network": "tiny@1",
        "gflop_per_row": 2.0,
        "mb_per_row": 5.0,
        "machine": "Some CPU, one thread",
        "versions": {"torch": "2.14"},
        "date": "2025-01-01",
        "peak_tflops": {"fp32": 0.1},
        "copy_gb_per_s": None,
        "rows": [{"runtime": "torch", "precision": "fp32", "batch": 4, "seconds": [0.2, 0.1, 0.3]}],
    }

    lines = table(report).splitlines()

    assert lines[0] == "tiny@1, 2.00 GFLOP a row; Some CPU, one thread; torch 2.14; 2025-01-01."
    assert "| torch | fp32 | 4 | 200.0 | 100.0 | 20.0 | 40% | |" in lines
    assert lines[-1] == "Peak, TFLOP/s: fp32 0.100."
    lines = table({**report, "copy_gb_per_s": 0.4}).splitlines()
    assert "| torch | fp32 | 4 | 200.0 | 100.0 | 20.0 | 40% | 25% |" in lines
    assert lines[-1] == "Peak, TFLOP/s: fp32 0.100; copies: 0.4 GB/s."
