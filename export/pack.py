"""Checkpoint -> bundle: convert, judge, describe, seal; all of it, or nothing is written."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from torch import nn

from export.card import training_data, write_card
from export.fold import fold_batch_norms
from export.inputs import parity_pairs, scenes
from export.judge import RealPairs
from export.operators import refused
from export.parity import MAX_ABS_ERROR, ParityError, Stage, check_parity
from export.precision import Low, check_range, emulate, lower, round_weights, store_as_float16
from export.to_onnx import ConversionError, example_pair, to_onnx
from model.bundle import (
    CANARY,
    CARD,
    MANIFEST,
    MODEL,
    NAME,
    PARITY,
    Bundle,
    Preprocessing,
    load_canary,
    seal_bundle,
)
from model.checkpoint import Checkpoint, source_commit
from model.config import Config, ReIDConfig, Task
from model.runtimes.onnx_runtime import OnnxRuntime
from model.runtimes.pytorch import PyTorchRuntime

Weights = Literal["float32", "float16"]
Precision = Literal["fp32"] | Low
OUTPUTS: dict[Task, str] = {"saliency": "saliency", "reid": "embedding"}
"""Name of a graph's only output."""
Report = Callable[[str], None]
"""Told what begins, in a few words."""


@dataclass(frozen=True)
class Options:
    """What the exporter decides; the rest is the checkpoint's."""

    name: str | None = None
    """Of the bundle, by which requests ask for it; none: the preset's."""
    version: str = "0.1.0"
    """Of the bundle."""
    opset: int = 20
    """ONNX operator set, 18 to 20."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels; none: the checkpoint's `input_size`."""
    weights: Weights = "float32"
    """How weights are stored where arithmetic is float32."""
    precision: Precision = "fp32"
    """Of products and convolutions; the rest, and inputs and outputs, are float32 always."""
    real: RealPairs | None = None
    """Pairs to judge on besides the formula-made ones."""
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    """Scores by test set; none: what the checkpoint measured in validation."""
    notes: str | None = None
    """Markdown in place of the card's general limits."""

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(NAME, self.name):
            raise ValueError(f"a bundle is named in {NAME}, got {self.name!r}")


@dataclass(frozen=True)
class Conversion:
    """A graph, and the forms of the network that led to it."""

    model: onnx.ModelProto
    forms: tuple[tuple[str, nn.Module, float | None], ...]
    """Step, its result, and how far it may be from the form before; the trained network first."""
    exact: onnx.ModelProto | None = None
    """The float32 graph, where `model` computes products in 16 bits."""
    precision: Precision = "fp32"
    """Of products in `model`."""

    @property
    def runnable(self) -> onnx.ModelProto:
        """What a CPU can run: `model`, or its emulation where there are no kernels."""
        return emulate(self.model) if self.precision == "bf16" else self.model


def export_bundle(
    checkpoint: Checkpoint, out: Path, options: Options, report: Report = lambda _: None
) -> Bundle:
    """Convert a checkpoint and write its bundle to `out`, replacing a bundle that is there.

    Raises:
        ValueError: the checkpoint or an option does not fit, or `out` holds something else.
        ConversionError: the network has no valid graph.
        ParityError: a step changed the answers; nothing is written.
        RangeError: a value does not fit into the precision; nothing is written.
    """
    check_target(out)
    if options.precision != "fp32" and options.weights != "float32":
        raise ValueError(f"weights of {options.precision} products are stored as such already")
    if options.size:
        config = replace(checkpoint.config, input_size=options.size)
        checkpoint = replace(checkpoint, config=config)
    conversion = convert(checkpoint, options, report)
    return write_bundle(checkpoint, conversion, out, options, report)


def check_target(out: Path) -> None:
    """Refuse to replace anything but a bundle; `ValueError` names what is there."""
    if out.exists() and not (
        out.is_dir() and ((out / MANIFEST).exists() or not any(out.iterdir()))
    ):
        raise ValueError(f"{out} exists and is not a bundle; choose another folder")


def convert(
    checkpoint: Checkpoint, options: Options, report: Report = lambda _: None
) -> Conversion:
    """Strip, fold, round and convert; nothing is compared yet."""
    size = checkpoint.config.input_size
    network = checkpoint.build()
    report("folding batch normalisation")
    folded = fold_batch_norms(for_serving(checkpoint).build(), *example_pair(size))
    report("converting to ONNX, the longest step: a minute or more")
    model = to_onnx(folded, size, OUTPUTS[checkpoint.task], options.opset)
    forms = (("trained", network, None), ("batch_norm_folding", folded, MAX_ABS_ERROR))
    conversion = Conversion(model, forms)
    if options.precision != "fp32":
        return with_precision(conversion, options.precision)
    return with_float16_weights(conversion) if options.weights == "float16" else conversion


def for_serving(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the classifiers, which only training reads; answers stay the same."""
    config = checkpoint.config
    if not isinstance(config, ReIDConfig):
        return checkpoint
    state = {key: value for key, value in checkpoint.state.items() if ".classifier." not in key}
    return replace(checkpoint, config=replace(config, num_classes=0), state=state)


def with_float16_weights(conversion: Conversion) -> Conversion:
    """The same graph with rounded weights, to be compared with the network rounded alike."""
    *_, (_, network, _) = conversion.forms
    rounded = ("float16_weights", round_weights(network), None)
    return Conversion(store_as_float16(conversion.model), (*conversion.forms, rounded))


def with_precision(conversion: Conversion, precision: Low) -> Conversion:
    """The same graph with products in 16 bits."""
    lowered = lower(conversion.model, precision)
    return Conversion(lowered, conversion.forms, conversion.model, precision)


def write_bundle(
    checkpoint: Checkpoint,
    conversion: Conversion,
    out: Path,
    options: Options,
    report: Report = lambda _: None,
) -> Bundle:
    """Judge a conversion and write its bundle; arguments and errors as in `export_bundle`."""
    checkpoint = for_serving(checkpoint)
    size = checkpoint.config.input_size
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as name:
        folder = Path(name) / out.name
        folder.mkdir()
        _save_model(conversion.model, folder / MODEL)
        report("comparing with torch, batch by batch")
        runnable = Path(name) / ".judged" / MODEL
        runnable.parent.mkdir()
        onnx.save(conversion.runnable, runnable)
        parity = _parity(conversion, runnable, size, options.real)
        (folder / PARITY).write_text(json.dumps(parity, indent=2) + "\n")
        report("writing canary, card and manifest")
        _write_canary(folder, runnable, size)
        fields = _manifest_fields(checkpoint, conversion, options)
        card = write_card(checkpoint, fields, parity, options.notes)
        (folder / CARD).write_text(card, encoding="utf-8")
        bundle = seal_bundle(folder, **fields)
        report("opening the bundle as the service does")
        _check_canary(bundle, runnable)
        _move_into_place(folder, out, Path(name) / "replaced")
    return replace(bundle, path=out)


def _save_model(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the graph is not valid: {error}") from error


def _parity(
    conversion: Conversion, runnable: Path, size: tuple[int, int], real: RealPairs | None
) -> dict[str, Any]:
    # In float64, or torch's own rounding would count twice against a graph that is as good.
    stages = [
        Stage(step, PyTorchRuntime(copy.deepcopy(network).double()).run, tolerance)
        for step, network, tolerance in conversion.forms
    ]
    runtimes = []
    facts: dict[str, Any] = {}
    if conversion.exact is None:
        runtimes.append(OnnxRuntime(runnable))
        stages.append(Stage("onnxruntime", runtimes[0].run, MAX_ABS_ERROR))
    else:
        exact = runnable.with_name("exact.onnx")
        onnx.save(conversion.exact, exact)
        runtimes += [OnnxRuntime(exact), OnnxRuntime(runnable)]
        name = "fp16" if conversion.precision == "fp16" else "bf16_emulated"
        stages += [
            Stage("onnxruntime", runtimes[0].run, MAX_ABS_ERROR),
            Stage(name, runtimes[1].run, None, low=True),
        ]
        facts = _range(conversion, size, real)
    try:
        plain = PyTorchRuntime(conversion.forms[0][1])
        parity = check_parity(stages, size, real, plain=plain.run)
    finally:
        for runtime in runtimes:
            runtime.close()
    return {**parity, **facts, "tensorrt": _tensorrt(conversion), "not_run": _not_run(conversion)}


def _range(conversion: Conversion, size: tuple[int, int], real: RealPairs | None) -> dict[str, Any]:
    """The largest values that float16 has to hold; bfloat16 reaches as far as float32."""
    if conversion.precision != "fp16" or conversion.exact is None:
        return {}
    pairs = [parity_pairs(size)]
    if real is not None:
        pairs += [
            (real.rgb[start : start + 4], real.aux[start : start + 4])
            for start in range(0, len(real), 4)
        ]
    largest = check_range(conversion.exact, conversion.model, pairs)
    worst = sorted(largest, key=lambda name: -largest[name])[:5]
    return {"largest_values": {name: largest[name] for name in worst}}


def _tensorrt(conversion: Conversion) -> dict[str, Any]:
    return {
        "checked_against": "the operator list of onnx-tensorrt 10.15, see export/operators.py",
        "refused": refused(conversion.model),
    }


def _not_run(conversion: Conversion) -> list[str]:
    """What this certificate says nothing about."""
    not_run = ["a TensorRT engine: built, and held against the canary, where it is run"]
    if conversion.precision == "bf16":
        not_run.append(
            "the bfloat16 graph itself: ONNX Runtime has no such kernels on CPUs; a float32 graph "
            "that rounds in the same places stands for it"
        )
    return not_run


def _write_canary(folder: Path, runnable: Path, size: tuple[int, int]) -> None:
    rgb, aux = scenes(2, size)
    runtime = OnnxRuntime(runnable)
    # 16 bits: half the file, and at most 7.6e-6 from the answer.
    expected = (runtime.run(rgb, aux) * 65536).round() / 65536
    runtime.close()
    np.savez_compressed(folder / CANARY, rgb=rgb, aux=aux, expected=expected)


def _check_canary(bundle: Bundle, runnable: Path) -> None:
    rgb, aux, expected = load_canary(bundle)
    runtime = OnnxRuntime(runnable)
    error = float(np.abs(runtime.run(rgb, aux) - expected).max())
    runtime.close()
    if not error <= MAX_ABS_ERROR:
        raise ParityError(f"canary: max abs error {error:.3g}, at most {MAX_ABS_ERROR:g}")


def _manifest_fields(
    checkpoint: Checkpoint, conversion: Conversion, options: Options
) -> dict[str, Any]:
    measured = {"validation": checkpoint.metrics} if checkpoint.metrics else {}
    return {
        **_task_fields(checkpoint.config),
        "name": options.name or checkpoint.config.name,
        "version": options.version,
        "input_size": checkpoint.config.input_size,
        "precision": conversion.precision,
        "weights_precision": ("fp16" if options.weights == "float16" else conversion.precision),
        "opset": conversion.model.opset_import[0].version,
        "training_data": training_data(checkpoint.recipe),
        "metrics": measured if options.metrics is None else options.metrics,
        "licence": checkpoint.licence or "not stated",
        "modality_policy": modality_policy(checkpoint),
        "created": datetime.now(UTC).date().isoformat(),
        "source_commit": source_commit(),
        "config": checkpoint.config.to_dict(),
    }


def modality_policy(checkpoint: Checkpoint) -> Literal["reject", "substitute"]:
    """What a request without depth or near-infrared gets.

    Only a network that was without it in training has learned to answer so; a stand-in that was
    never in use is as good as random.
    """
    return "substitute" if checkpoint.recipe.get("drop_aux") else "reject"


def _task_fields(config: Config) -> dict[str, Any]:
    fields = {"task": config.task, "output": OUTPUTS[config.task]}
    if not isinstance(config, ReIDConfig):
        return fields
    preprocessing = Preprocessing(preprocess_id="reid-1", aux="full_range")
    return {**fields, "preprocessing": preprocessing, "dim": config.embedding_dim}


def _move_into_place(folder: Path, out: Path, replaced: Path) -> None:
    """Put `folder` at `out`; an old bundle waits in `replaced` until that is done."""
    if out.exists():
        out.rename(replaced)
    try:
        folder.rename(out)
    except OSError:
        if replaced.exists():
            replaced.rename(out)
        raise
