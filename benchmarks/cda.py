"""Cross-diffusion attention in all its implementations, side by side in one run.

`judge` prints what `auto` is held to on a CPU; `table` writes a table and a plot for the
documentation; `choose` writes the table from which `auto` takes its implementation. Variants take
turns, and on a CPU the clock is the CPU time of the process, so that ratios hold on a busy machine.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.machine import processor
from model import attention
from model.attention import Mixed
from model.config import Implementation
from model.kernels.choose import PLAIN_TOKENS, TABLE
from model.kernels.dispatch import cross_diffusion_attention, resolve

ROOT = Path(__file__).parents[1]
TOKENS = (64, 100, 257, 400, 1024, 1600, 4096, 6400, 16384)
LIMITS = {
    "cpu": {"published": 1600, "plain": 4096, "sdpa": 6400},
    "cuda": {"published": 4096, "plain": 6400, "plain, compiled": 6400},
}
"""Most tokens at which a variant is run: N x N matrices fill the memory, or it takes minutes."""
COMPILED = "plain, compiled"
FLOOR = "2.5 x two self-attentions"
LONG_S = 0.5
"""A variant that takes this long is not repeated."""

Inputs = Sequence[Tensor]
app = typer.Typer(add_completion=False)
console = Console()


def published(
    q_rgb: Tensor, k_rgb: Tensor, v_rgb: Tensor, q_aux: Tensor, k_aux: Tensor, v_aux: Tensor
) -> Mixed:
    """The operations of the authors' code, one by one: eight products of N x N matrices."""
    B, heads, N, d = q_rgb.shape

    def normalised(p: Tensor) -> Tensor:
        degree = torch.diag_embed(p.sum(3).float() ** -0.5).to(p.dtype)
        return (p @ degree).mT @ degree

    p_rgb = ((q_rgb @ k_rgb.mT) * d**-0.5).softmax(dim=-1)
    p_aux = ((q_aux @ k_aux.mT) * d**-0.5).softmax(dim=-1)
    s_rgb, s_aux = normalised(p_rgb), normalised(p_aux)
    start = torch.eye(N, device=q_rgb.device, dtype=q_rgb.dtype).repeat(B, heads, 1, 1)
    prior = p_rgb + p_aux
    to_rgb = 0.6 * (s_rgb @ start @ s_aux.mT) + 0.4 * prior
    to_aux = 0.6 * (s_aux @ start @ s_rgb.mT) + 0.4 * prior
    return p_rgb @ v_rgb, p_aux @ v_aux, to_rgb @ v_aux, to_aux @ v_rgb


def floor(
    q_rgb: Tensor, k_rgb: Tensor, v_rgb: Tensor, q_aux: Tensor, k_aux: Tensor, v_aux: Tensor
) -> tuple[Tensor, ...]:
    """Two of PyTorch's fused self-attentions; their time is multiplied by 2.5."""
    return (
        F.scaled_dot_product_attention(q_rgb, k_rgb, v_rgb),
        F.scaled_dot_product_attention(q_aux, k_aux, v_aux),
    )


def variants(device: str) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """By name, every way to compute it that runs on the device."""

    def kernel(name: Any) -> Callable[..., Mixed]:
        return lambda *qkv: cross_diffusion_attention(*qkv, implementation=name)

    cuda = device == "cuda"
    names = ("plain", "blocked", "sdpa", *(("flex", "triton") if cuda else ()))
    return {
        "published": published,
        **{name: kernel(name) for name in names},
        **({COMPILED: torch.compile(attention.cross_diffusion_attention)} if cuda else {}),
        FLOOR: floor,
    }


def inputs(B: int, heads: int, N: int, d: int, dtype: torch.dtype, device: str) -> Inputs:
    """q, k and v of both modalities, laid out as a block's linear layers leave them."""
    torch.manual_seed(0)
    qkv = torch.randn(2, B, N, 3, heads, d).to(device, dtype)
    return [each for pair in qkv for each in pair.permute(2, 0, 3, 1, 4).unbind(0)]


def run_once(function: Callable[..., tuple[Tensor, ...]], qkv: Inputs, backward: bool) -> None:
    """Forward, or forward and backward with a gradient of ones."""
    if not backward:
        with torch.inference_mode():
            function(*qkv)
        return
    leaves = [each.detach().requires_grad_() for each in qkv]
    outputs = function(*leaves)
    torch.autograd.backward(outputs, [torch.ones_like(each) for each in outputs])


def measure(
    functions: dict[str, Callable[..., tuple[Tensor, ...]]],
    qkv: Inputs,
    *,
    backward: bool,
    repeats: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Of each variant, the median time in ms and the peak memory in MB; they take turns.

    On a CPU, the clock is the time that the process had it. Memory is without inputs, outputs and
    their gradients.
    """
    device = qkv[0].device.type
    clock = time.perf_counter if device == "cuda" else time.process_time

    def one(name: str) -> float:
        start = clock()
        run_once(functions[name], qkv, backward)
        if device == "cuda":
            torch.cuda.synchronize()
        return (clock() - start) * 1e3 * (2.5 if name == FLOOR else 1)

    # Outputs, and with a backward pass their gradients and those of the inputs.
    kept = (14 if backward else 4) * qkv[0].numel() * qkv[0].element_size()
    taken: dict[str, list[float]] = {}
    peaks = {}
    for name in functions:
        before = resident(device)
        taken[name] = [one(name)]  # also the warm-up
        if name != FLOOR:
            peaks[name] = max(0.0, (peak(device) - before - kept) / 1e6)
    for _ in range(repeats):
        for name, times in taken.items():
            if times[0] < LONG_S * 1e3:
                times.append(one(name))
    return {name: statistics.median(times[1:] or times) for name, times in taken.items()}, peaks


def resident(device: str) -> int:
    """Memory in use, in bytes; from now on `peak` starts from it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
        Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> int:
    """Most memory in use since `resident` was called, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def fitting(device: str, N: int) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """The variants that are run at N tokens."""
    limits = LIMITS[device]
    return {name: f for name, f in variants(device).items() if limits.get(name, N) >= N}


class Bound(NamedTuple):
    """What `auto` is held to, and what it reached."""

    what: str
    value: float
    sense: Literal[">=", "<="]
    bound: float

    @property
    def kept(self) -> bool:
        """Whether it was reached."""
        return self.value >= self.bound if self.sense == ">=" else self.value <= self.bound


def held_to(repeats: int) -> list[Bound]:
    """Measure what `auto` is held to on a CPU, forward, in float32, batch 1, in one run."""
    known = {**variants("cpu"), "auto": cross_diffusion_attention}

    def compare(
        heads: int, N: int, d: int, *names: str
    ) -> tuple[dict[str, float], dict[str, float]]:
        functions = {name: known[name] for name in names}
        qkv = inputs(1, heads, N, d, torch.float32, "cpu")
        return measure(functions, qkv, backward=False, repeats=repeats)

    small, _ = compare(12, 257, 64, "published", "auto")
    middle, _ = compare(8, 1600, 32, "published", "plain", "auto")
    large, peaks = compare(8, 6400, 32, "auto")
    at_6400 = "8 heads, N 6400, d 32"
    return [
        Bound("12 heads, N 257, d 64: published / auto", small["published"] / small["auto"],
              ">=", 4),
        Bound("8 heads, N 1600, d 32: published / auto", middle["published"] / middle["auto"],
              ">=", 20),
        Bound(f"{at_6400}: auto / plain at N 1600", large["auto"] / middle["plain"], "<=", 25),
        Bound(f"{at_6400}: MB beside inputs and outputs", peaks["auto"], "<=", 200),
    ]  # fmt: skip


@app.command()
def judge(repeats: int = 7) -> None:
    """Print what `auto` is held to on one thread of a CPU, in float32; exit 1 where it fails."""
    torch.set_num_threads(1)
    _load_libraries("cpu", torch.float32)
    found = held_to(repeats)
    for each in found:
        console.print(f"{each.what}: {each.value:.3g}, to be {each.sense} {each.bound:g}")
    if not all(each.kept for each in found):
        raise typer.Exit(1)


@app.command()
def table(
    device: str = "cpu",
    dtype: str = "float32",
    heads: int = 8,
    d: int = 32,
    repeats: int = 7,
    threads: Annotated[int, typer.Option(help="on a CPU")] = 1,
    most_tokens: int = TOKENS[-1],
    out: Annotated[Path, typer.Option(help="folder of the table and the plot")] = ROOT / "docs",
) -> None:
    """Time and peak memory over N, forward and forward + backward; writes cda_<device>.md, .png.

    On a CPU, what `judge` prints comes first.
    """
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    shapes = [(1, heads, N, d) for N in TOKENS if most_tokens >= N]
    if device == "cpu":
        shapes.insert(3, (1, 12, 257, 64))
    command = f"python -m benchmarks.cda table --device {device} --dtype {dtype} --heads {heads}"
    command += f" --d {d} --repeats {repeats} --threads {threads}"
    stem = out / f"cda_{device}"
    _load_libraries(device, kind)
    found = held_to(repeats) if device == "cpu" else []
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        functions = fitting(device, shape[2])
        qkv = inputs(*shape, kind, device)
        for backward in (False, True):
            times, peaks = measure(functions, qkv, backward=backward, repeats=repeats)
            taken = resolve("auto", *(each.requires_grad_(backward) for each in qkv))
            rows.append(
                {"shape": shape, "backward": backward, "ms": times, "mb": peaks, "auto": taken}
            )
            console.print(rows[-1])
            page = _page(rows, found, command, _machine(device), dtype, stem.name)
            stem.with_suffix(".md").write_text(page)
            for each in qkv:
                each.requires_grad_(False)
        _plot(rows, (1, heads, d), stem.with_suffix(".png"))


def _load_libraries(device: str, dtype: torch.dtype) -> None:
    """Run everything once, so that later no memory is taken but for the work."""
    for backward in (False, True):
        qkv = inputs(1, 1, 64, 32, dtype, device)
        measure(fitting(device, 64), qkv, backward=backward, repeats=1)


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} thread(s)"


def _page(
    rows: list[dict[str, Any]],
    found: Sequence[Bound],
    command: str,
    machine: str,
    dtype: str,
    stem: str,
) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["ms"]))
    lines = [
        "# Cross-diffusion attention: time and memory",
        "",
        f"`{command}` on {machine}, torch {torch.__version__}, {dtype}, "
        f"{datetime.datetime.now(datetime.UTC).date()}. Variants took turns in one run; on a CPU "
        "beside other work, timed by the CPU time of the process: read ratios, not times. Medians "
        "in ms; memory is the most that a run took beside inputs, outputs and gradients, in MB. "
        "`published` is the authors' "
        f"computation, `{FLOOR}` the floor to aim for.",
        "",
        f"![Time and memory over tokens]({stem}.png)",
        "",
    ]
    if found:
        lines += ["## What `auto` is held to, forward in float32, batch 1", ""]
        lines += ["| what | reached | bound |", "|---|---|---|"]
        lines += [
            f"| {each.what} | {each.value:.3g}{'' if each.kept else ', missed'} "
            f"| {each.sense} {each.bound:g} |"
            for each in found
        ]
        lines.append("")
    for title, key in (("Time, ms", "ms"), ("Memory, MB", "mb")):
        shown = [name for name in names if any(name in row[key] for row in rows)]
        for backward, what in ((False, "forward"), (True, "forward + backward")):
            lines += [f"## {title}: {what}", ""]
            lines += ["| B, heads, N, d | " + " | ".join(shown) + " | `auto` takes |"]
            lines += ["|---" * (len(shown) + 2) + "|"]
            for row in rows:
                if row["backward"] == backward:
                    cells = [_cell(row, key, name) for name in shown]
                    shape = ", ".join(map(str, row["shape"]))
                    lines.append(f"| {shape} | " + " | ".join(cells) + f" | {row['auto']} |")
            lines.append("")
    return "\n".join(lines)


def _cell(row: dict[str, Any], key: str, name: str) -> str:
    if name not in row[key]:
        return ""
    value = float(row[key][name])
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _plot(rows: list[dict[str, Any]], shape: tuple[int, int, int], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for line, (key, unit) in zip(axes, (("ms", "ms"), ("mb", "MB beside results")), strict=True):
        for axis, backward in zip(line, (False, True), strict=True):
            chosen = [
                row
                for row in rows
                if row["backward"] == backward
                and (row["shape"][0], row["shape"][1], row["shape"][3]) == shape
            ]
            for name in dict.fromkeys(name for row in chosen for name in row[key]):
                points = [(r["shape"][2], r[key][name]) for r in chosen if name in r[key]]
                style = "--" if name == FLOOR else "o-"
                axis.loglog(*zip(*points, strict=True), style, label=name, markersize=4)
            axis.set(ylabel=unit, title="forward + backward" if backward else "forward")
            axis.grid(visible=True, which="both", alpha=0.2)
    for axis in axes[1]:
        axis.set_xlabel("tokens N")
        axis.set_yscale("symlog", linthresh=1)
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


@app.command()
def choose(device: str = "cpu", repeats: int = 3, threads: int = 1) -> None:
    """Measure every implementation and write this device's rows of the table of `auto`."""
    torch.set_num_threads(threads)
    names = [name for name in variants(device) if name in get_args(Implementation)]
    content = json.loads(TABLE.read_text())
    kept = [row for row in content["rows"] if row["device"] != device]
    rows = []
    for dtype in ("float32", "bfloat16", "float16"):
        # Without float16 arithmetic in the CPU, the plain form is seven times slower already there.
        most_tokens = 128 if (device, dtype) == ("cpu", "float16") else PLAIN_TOKENS
        for N in (n for n in (64, 128, 257, 512, 1024) if n <= most_tokens):
            for d in (16, 32, 64):
                qkv = inputs(1, 8, N, d, getattr(torch, dtype), device)
                functions = {name: variants(device)[name] for name in names}
                for backward in (False, True):
                    times, _ = measure(functions, qkv, backward=backward, repeats=repeats)
                    rows.append({
                        "device": device, "dtype": dtype, "backward": backward, "tokens": N, "d": d,
                        "times_ms": {name: float(f"{ms:.3g}") for name, ms in times.items()},
                    })  # fmt: skip
                    console.print(rows[-1])
    lines = ",\n    ".join(json.dumps(row) for row in (*kept, *rows))
    origins = {**content.get("measured", {}), device: _origin(device)}
    TABLE.write_text(
        f'{{\n  "measured": {json.dumps(origins)},\n  "rows": [\n    {lines}\n  ]\n}}\n'
    )


def _origin(device: str) -> str:
    date = datetime.datetime.now(datetime.UTC).date()
    command = f"python -m benchmarks.cda choose --device {device}"
    return f"{command}: {_machine(device)}, torch {torch.__version__}, {date}, B 1, 8 heads"


if __name__ == "__main__":
    app()
