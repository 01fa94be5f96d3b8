"""The training loop of every task: optimiser, schedule, averaging, validation, exact resume.

Everything random in step s follows from (seed, s): samples by their index, drop path by a seed set
anew each step. So a state to resume from is weights, averages, optimiser and the step, and a run
that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning_fabric import Fabric
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from model.checkpoint import source_commit
from training.recipe import Recipe, differences
from training.task import Task

log = logging.getLogger(__name__)

PACKAGES = (
    "torch", "torchvision", "timm", "lightning-fabric", "numpy", "opencv-python-headless", "pillow",
    "pysodmetrics", "pytorch-metric-learning",
)  # fmt: skip
"""Whose versions a run notes: results depend on them."""


class Interrupted(Exception):  # noqa: N818 - an outcome, not an error
    """The run was asked to stop, and saved its state first."""


@dataclass
class Timing:
    """Where the seconds of a run went."""

    steps: int = 0
    compute_s: float = 0.0
    """Forward, backward."""
    total_s: float = 0.0
    """Everything, without validation and saving."""
    images: int = 0

    def report(self) -> dict[str, float]:
        """Images/s, share of time outside forward and backward, peak resident memory in MiB."""
        total = max(self.total_s, 1e-9)
        own, workers = (
            resource.getrusage(who).ru_maxrss / 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return {
            "images_per_s": self.images / total,
            "outside_share": 1 - self.compute_s / total,
            "peak_rss_mib": own,
            "peak_rss_largest_worker_mib": workers,
        }


def fit(task: Task, recipe: Recipe, run: Path, *, resume: bool = False) -> dict[str, float]:
    """Train to the recipe's last step.

    Writes into `run`: `recipe.yaml`, with every field; `origin.jsonl`, a line for each start with
    commit, versions, device and what was found of the data; `state.pt` (to resume),
    `last.safetensors` and `best.safetensors` (averaged weights), `log.jsonl`, `tensorboard/`.

    Args:
        task: what to train.
        recipe: how.
        run: folder of this run, which all nodes see.
        resume: continue from `state.pt`; without it, a folder that holds a state is refused.

    Returns:
        The last validation's scores, and `Timing.report`.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
        ValueError: the folder and `resume` do not fit each other, or the recipe changed.
        FloatingPointError: the loss is not finite.
    """
    devices, nodes = _devices(recipe)
    fabric = Fabric(
        accelerator="auto", devices=devices, num_nodes=nodes, precision=recipe.precision
    )
    fabric.launch()
    state_file = run / "state.pt"
    if fabric.is_global_zero:
        _claim(run, state_file, recipe, resume)
    fabric.barrier()
    average = AveragedModel(
        task.network, multi_avg_fn=_averaging(recipe.ema_decay), use_buffers=True
    ).to(fabric.device)
    optimiser = _optimiser(task.network, recipe)
    if recipe.compile:
        method = getattr(task.network, task.forward_method)
        setattr(task.network, task.forward_method, torch.compile(method))
    network, optimiser = fabric.setup(task.network, optimiser)
    network.mark_forward_method(task.forward_method)
    step = 0
    best = -math.inf
    if resume:
        state = torch.load(state_file, map_location=fabric.device, weights_only=True)
        task.network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        step, best = state["step"], state["best"]
        log.info("resumed at step %d of %d", step, recipe.steps)
    if fabric.is_global_zero:
        _forget_after(run, step)
        _note_origin(run, task, recipe, step, fabric)

    def save_state() -> None:
        if not fabric.is_global_zero:
            return
        state = {
            "network": task.network.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "step": step,
            "best": best,
        }
        # A reader sees the old state or the whole new one, also after a power cut.
        temporary = state_file.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(state_file)

    alone = fabric.world_size == 1
    metrics: dict[str, float] = {}
    timing = Timing()
    loader = fabric.setup_dataloaders(
        task.loader(step, recipe.steps, fabric.global_rank, fabric.world_size),
        use_distributed_sampler=False,
    )
    writer = (
        SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        if fabric.is_global_zero
        else None
    )
    with _signals() as stop_signal, _progress(recipe.steps, step, fabric.is_global_zero) as show:
        mark = time.perf_counter()
        batches = iter(loader)
        while step < recipe.steps:
            _train_mode(network, recipe.frozen)
            lr = _set_lr(optimiser, recipe, step)
            value = 0.0
            for part in range(recipe.accumulate):
                batch = next(batches)
                draw = step * recipe.accumulate + part
                seed = (recipe.seed << 32) + draw * fabric.world_size + fabric.global_rank
                torch.manual_seed(seed)
                started = time.perf_counter()
                last_part = part == recipe.accumulate - 1
                with nullcontext() if last_part or alone else fabric.no_backward_sync(network):
                    loss, parts = task.loss(network, batch)
                    # Of all processes: one that fails must not leave the others waiting.
                    mean: Any = fabric.all_reduce(loss.detach(), reduce_op="mean")
                    value += float(mean)
                    if not math.isfinite(value):
                        raise FloatingPointError(f"loss is {value} in step {step + 1}")
                    fabric.backward(loss / recipe.accumulate)
                timing.compute_s += time.perf_counter() - started
            value /= recipe.accumulate
            fabric.clip_gradients(network, optimiser, max_norm=recipe.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            average.update_parameters(task.network)
            step += 1
            timing.steps += 1
            timing.images += recipe.batch_size * recipe.accumulate * fabric.world_size
            timing.total_s += time.perf_counter() - mark
            show(step, value, timing)
            if writer and step % 10 == 0:
                entries = {"loss": value, "lr": lr, **{k: float(v) for k, v in parts.items()}}
                for name, entry in entries.items():
                    writer.add_scalar(f"train/{name}", entry, step)
            last = step == recipe.steps
            if last or step % recipe.validate_every == 0:
                metrics = task.validate(average.module.eval())
                if fabric.is_global_zero:
                    _record(run, writer, step, metrics, timing)
                    task.save(run / "last.safetensors", average.module, metrics)
                    if metrics["score"] > best:
                        best = metrics["score"]
                        task.save(run / "best.safetensors", average.module, metrics)
            # Every process stops at the same step, whichever was asked.
            stop = bool(fabric.all_reduce(torch.tensor(float(stop_signal())), reduce_op="sum"))
            if last or stop or step % recipe.save_every == 0:
                save_state()
            if stop and not last:
                raise Interrupted(f"stopped at step {step} of {recipe.steps}; state saved")
            mark = time.perf_counter()
    if writer:
        writer.close()
    return {**metrics, **timing.report()}


def _devices(recipe: Recipe) -> tuple[int | Literal["auto"], int]:
    """Devices of a node, and nodes: what torchrun says, where it started this process."""
    if torch.distributed.is_torchelastic_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    return "auto" if torch.cuda.is_available() else recipe.processes, 1


def _claim(run: Path, state_file: Path, recipe: Recipe, resume: bool) -> None:
    """Make the run's folder, or check that it is the one to resume."""
    run.mkdir(parents=True, exist_ok=True)
    recipe_file = run / "recipe.yaml"
    if resume:
        if not state_file.is_file():
            raise ValueError(f"nothing to resume: {state_file} does not exist")
        started = yaml.safe_load(recipe_file.read_text())
        if changes := differences(started, recipe.to_dict()):
            raise ValueError(
                f"the recipe differs from {recipe_file}, which this run started with: "
                + "; ".join(changes)
            )
    elif state_file.exists():
        raise ValueError(f"{run} holds a run already: resume it, or choose another folder")
    else:
        recipe_file.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))


def _forget_after(run: Path, step: int) -> None:
    """Drop what the log says of steps that will be done again."""
    file = run / "log.jsonl"
    if file.is_file():
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        file.write_text("".join(kept))


def _note_origin(run: Path, task: Task, recipe: Recipe, step: int, fabric: Fabric) -> None:
    """Add a line to `origin.jsonl`: what a run starts or goes on with."""
    entry = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "commit": source_commit(),
        "seed": recipe.seed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": fabric.world_size,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "data": task.facts,
    }
    with (run / "origin.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Trunks learn slower; biases and norms do not decay; frozen parameters are left out."""
    for name, parameter in network.named_parameters():
        if name.startswith(recipe.frozen):
            parameter.requires_grad_(False)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = recipe.trunk_lr_scale if name.startswith("trunk") else 1.0
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    entries = [
        {"params": parameters, "lr": recipe.lr * scale, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(entries, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(entries)


def _averaging(decay: float) -> Any:
    """An exponential average that forgets its random start: its decay rises with the steps."""

    def update(averages: list[Tensor], values: list[Tensor], step: Tensor) -> None:
        now = min(decay, (1 + int(step)) / (10 + int(step)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - now)
            else:  # counters
                average.copy_(value)

    return torch.no_grad()(update)


def _set_lr(optimiser: Any, recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero; a function of the step alone."""
    if step < recipe.warmup_steps:
        factor = (step + 1) / recipe.warmup_steps
    else:
        span = max(recipe.steps - recipe.warmup_steps, 1)
        factor = 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup_steps) / span))
    for group in optimiser.param_groups:
        group["lr"] = recipe.lr * factor * group["scale"]
    return recipe.lr * factor


def _train_mode(network: nn.Module, frozen: tuple[str, ...]) -> None:
    """Training mode, but frozen modules keep their statistics."""
    network.train()
    if frozen:
        for name, module in network.named_modules():
            # Fabric's wrappers put their own prefixes before the name.
            if re.sub(r"^_forward_module\.(module\.)?", "", name).startswith(frozen):
                module.eval()


def _record(run: Path, writer: Any, step: int, metrics: dict[str, float], timing: Timing) -> None:
    entry = {"step": step, **metrics, **timing.report()}
    log.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in entry.items()))
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    for name, value in metrics.items():
        writer.add_scalar(f"val/{name}", value, step)


@contextmanager
def _signals() -> Iterator[Any]:
    """Turn the first SIGINT or SIGTERM into a flag that is read between steps."""
    caught: list[int] = []

    def note(number: int, _frame: object) -> None:
        if caught:  # a second signal does not wait
            raise KeyboardInterrupt
        caught.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress(total: int, start: int, visible: bool) -> Iterator[Any]:
    """A bar with loss, images/s and time left; a plain line every 50 steps where no one watches."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    smooth: float | None = None
    with Progress(*columns, disable=not (visible and os.isatty(1))) as bar:
        job = bar.add_task("training", total=total, completed=start, loss="")

        def show(step: int, loss: float, timing: Timing) -> None:
            nonlocal smooth
            smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
            speed = timing.images / max(timing.total_s, 1e-9)
            bar.update(job, completed=step, loss=f"loss {smooth:.4f}  {speed:.1f} images/s")
            if visible and bar.disable and step % 50 == 0:
                left = (total - step) * timing.total_s / max(timing.steps, 1) / 60
                log.info(
                    "step %d/%d loss %.4f %.1f images/s, %.0f min left",
                    step, total, smooth, speed, left,
                )  # fmt: skip

        yield show
