"""What the service holds: throughput, load, memory, start-up; `python -m benchmarks.serving`.

All on loopback, server and client as two processes of one machine. Pairs are 640 x 480, a JPEG and
a 16-bit PNG, made from the real ones of a folder with `rgb/` and `depth/`.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.wire import Reply, Server, Wire, form, serving

MAX_BATCH = 8
SIZE = (640, 480)
PATH = "/v1/saliency"
PATIENT = {"max_batch": MAX_BATCH, "request_timeout_ms": 600_000, "max_run_s": 600}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Bundle = Annotated[Path, typer.Argument(help="Folder of one saliency bundle.")]
Data = Annotated[Path, typer.Option(help="Folder of real pairs: `rgb/` and `depth/`.")]
Threads = Annotated[int, typer.Option(help="Of the network, and of the bare session.")]
Seconds = Annotated[float, typer.Option(help="Of each measurement.")]
DATA = Path("../shared/data/rgbd_pairs")


def read_pairs(data: Path) -> list[dict[str, bytes]]:
    """Every pair of a folder, at one size."""
    pairs = []
    for rgb in sorted((data / "rgb").iterdir()):
        (depth,) = (data / "depth").glob(f"{rgb.stem}.*")
        with Image.open(rgb) as colour, Image.open(depth) as grey:
            levels = np.asarray(grey if grey.mode != "P" else grey.convert("L"))
            levels = levels if levels.ndim == 2 else levels[..., 0]
            wide = Image.fromarray(levels.astype(np.float32)).resize(SIZE)
            files = io.BytesIO(), io.BytesIO()
            colour.convert("RGB").resize(SIZE).save(files[0], "JPEG", quality=90)
            Image.fromarray(np.asarray(wide).astype(np.uint16)).save(files[1], "PNG")
        pairs.append({"rgb": files[0].getvalue(), "depth": files[1].getvalue()})
    return pairs


async def closed_loop(server: Server, requests: Sequence[bytes], seconds: float) -> list[Reply]:
    """As many clients as fill two batches, each sending its next request once it is answered."""
    end = time.perf_counter() + seconds
    turns = itertools.cycle(requests)

    async def client() -> list[Reply]:
        wire = await Wire.open(server.port)
        replies = []
        while time.perf_counter() < end:
            replies.append(await wire.send(next(turns)))
        await wire.close()
        return replies

    clients = await asyncio.gather(*(client() for _ in range(2 * MAX_BATCH)))
    return [reply for replies in clients for reply in replies]


async def open_loop(
    server: Server, requests: Sequence[bytes], rate: float, seconds: float
) -> list[Reply]:
    """Requests at a constant rate, whatever becomes of the earlier ones."""
    idle: list[Wire] = []
    turns = itertools.cycle(requests)

    async def one() -> Reply:
        wire = idle.pop() if idle else await Wire.open(server.port)
        reply = await wire.send(next(turns))
        idle.append(wire)
        return reply

    start, sent = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        sent.append(asyncio.create_task(one()))
    replies = await asyncio.gather(*sent)
    for wire in idle:
        await wire.close()
    return replies


def quantiles_ms(replies: Sequence[Reply]) -> tuple[float, float, float]:
    """p50, p95, p99 of those that were answered."""
    times = [1000 * reply.seconds for reply in replies if reply.status == 200]
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return float(p50), float(p95), float(p99)


@app.command()
def bare(bundle: Bundle, seconds: Seconds = 10, threads: Threads = 1) -> None:
    """Print pairs in a second and processor time of a pair of the session alone, at full batch."""
    # Imported here: the other commands are the client, which needs none of this.
    from model.bundle import load_canary, open_bundle
    from model.runtimes.onnx_runtime import OnnxRuntime

    opened = open_bundle(bundle)
    rgb, aux, _ = load_canary(opened)
    turns = np.arange(MAX_BATCH) % len(rgb)
    runtime = OnnxRuntime(opened.model_path, threads=threads)
    for _ in range(2):
        runtime.run(rgb[turns], aux[turns])
    runs, start, cpu_s = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < start + seconds:
        runtime.run(rgb[turns], aux[turns])
        runs += 1
    pairs = runs * MAX_BATCH
    each_s = (time.process_time() - cpu_s) / pairs
    typer.echo(f"{pairs / (time.perf_counter() - start)} {each_s}")


@app.command()
def throughput(
    bundle: Bundle,
    seconds: Seconds = 20,
    rounds: Annotated[int, typer.Option(help="Of both in turn.")] = 3,
    threads: Threads = 1,
    data: Data = DATA,
) -> None:
    """Compare pairs in a second over HTTP with the bare session, in turn on the same machine.

    On a busy machine neither is what it could be. Two numbers hold even there: the share of the
    time that a batch was in the network, which HTTP cannot exceed times the bare session, and the
    processor time of a pair.
    """
    requests = [form(PATH, files) for files in read_pairs(data)]
    columns = "bare /s", "HTTP /s", "ratio", "in the network", "bare CPU ms", "HTTP CPU ms", "batch"
    table = Table(*columns, "p50 ms", "p99 ms")
    ratios = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.serving", "bare", str(bundle)]
        command += ["--seconds", str(seconds), "--threads", str(threads)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split()
        alone, alone_cpu_s = map(float, printed)
        with serving(bundle, PATIENT | {"threads": threads}) as server:
            asyncio.run(closed_loop(server, requests, 3))
            names = [f"mutualformer_{name}" for name in ("run_seconds_sum", "batch_size_count")]
            before = [server.sample(name) for name in names]
            start, cpu_s = time.perf_counter(), server.cpu_s()
            replies = asyncio.run(closed_loop(server, requests, seconds))
            wall, cpu_s = time.perf_counter() - start, server.cpu_s() - cpu_s
            busy, runs = (server.sample(n) - b for n, b in zip(names, before, strict=True))
        if {reply.status for reply in replies} != {200}:
            raise typer.Exit(1)
        served = len(replies) / wall
        ratios.append(served / alone)
        p50, _, p99 = quantiles_ms(replies)
        each_ms = 1000 * alone_cpu_s, 1000 * cpu_s / len(replies)
        table.add_row(
            *(f"{alone:.2f}", f"{served:.2f}", f"{served / alone:.3f}", f"{busy / wall:.3f}"),
            *(f"{number:.1f}" for number in (*each_ms, len(replies) / runs)),
            *(f"{p50:.0f}", f"{p99:.0f}"),
        )
    Console().print(table, f"median ratio {statistics.median(ratios):.3f}")


@app.command()
def load(
    bundle: Bundle,
    seconds: Seconds = 15,
    deadline_ms: Annotated[int, typer.Option(help="Of every request.")] = 3000,
    threads: Threads = 1,
    data: Data = DATA,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and a plot.")] = None,
) -> None:
    """Offer 0.5, 0.9, 1.2 and 2 times what the service can do, and see what is of use."""
    headers = {"X-Request-Timeout-Ms": str(deadline_ms)}
    requests = [form(PATH, files, headers) for files in read_pairs(data)]
    rows: list[dict[str, object]] = []
    goodput: list[float] = []
    table = Table("load", "offered /s", "good /s", "p50 ms", "p95 ms", "p99 ms", "statuses")
    with serving(bundle, {"threads": threads, "max_batch": MAX_BATCH}) as server:
        asyncio.run(closed_loop(server, requests, 3))
        capacity = len(asyncio.run(closed_loop(server, requests, seconds))) / seconds
        for share in (0.5, 0.9, 1.2, 2.0):
            start = time.perf_counter()
            replies = asyncio.run(open_loop(server, requests, share * capacity, seconds))
            wall = time.perf_counter() - start
            good = [r for r in replies if r.status == 200 and 1000 * r.seconds <= deadline_ms]
            p50, p95, p99 = quantiles_ms(replies)
            statuses = Counter(reply.status for reply in replies)
            told = all(b"retry-after" in r.headers for r in replies if r.status == 429)
            row = {
                "load": share,
                "offered_per_s": share * capacity,
                "good_per_s": len(good) / wall,
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
                "statuses": dict(statuses),
                "every_429_says_when": told,
            }
            rows.append(row)
            goodput.append(len(good) / wall)
            numbers = [f"{row[name]:.1f}" for name in list(row)[1:6]]
            table.add_row(str(share), *numbers, f"{dict(statuses)}{'' if told else ', silent 429'}")
    kept = goodput[-1] / max(goodput)
    Console().print(table, f"capacity {capacity:.2f} /s; at twice that {kept:.3f} of the peak")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "load.json").write_text(json.dumps({"capacity": capacity, "rows": rows}, indent=2))
        _plot(rows, deadline_ms, out / "load.png")


@app.command()
def soak(
    bundle: Bundle,
    minutes: Annotated[float, typer.Option(help="After a tenth of that as warm-up.")] = 10,
    threads: Threads = 1,
    data: Data = DATA,
) -> None:
    """Send good, bad and aborted requests in turn; fail if memory, files or threads grow."""
    good = [form(PATH, files) for files in read_pairs(data)]
    bad = [
        form(PATH, {**files, "depth": files["depth"][: len(files["depth"]) // 2]})
        for files in read_pairs(data)
    ]
    seen: list[tuple[int, int, int]] = []
    sent: Counter[str] = Counter()

    async def client(server: Server, number: int, end: float) -> None:
        rng = np.random.default_rng(number)
        while time.perf_counter() < end:
            wire = await Wire.open(server.port)
            for _ in range(4):
                request = good[rng.integers(len(good))]
                if rng.random() < 0.3:
                    request = bad[rng.integers(len(bad))]
                sent[str((await wire.send(request)).status)] += 1
            whole = rng.random() < 0.5
            await wire.leave(request if whole else request[: len(request) // 2])
            sent["aborted"] += 1

    async def watch(server: Server, end: float) -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(1)
            seen.append((server.memory_bytes(), server.open_files(), server.threads()))

    async def run(server: Server) -> None:
        end = time.perf_counter() + 66 * minutes
        await asyncio.gather(watch(server, end), *(client(server, n, end) for n in range(12)))

    with serving(bundle, {"threads": threads, "max_batch": MAX_BATCH}) as server:
        asyncio.run(run(server))
    tenth = len(seen) // 11
    first, last = np.median(seen[tenth : 2 * tenth], axis=0), np.median(seen[-tenth:], axis=0)
    for name, before, after in zip(("memory", "files", "threads"), first, last, strict=True):
        typer.echo(f"{name}: {before:,.0f} -> {after:,.0f} ({after / before - 1:+.2%})")
    typer.echo(dict(sent))
    if last[0] > 1.02 * first[0] or last[1] > first[1] + 8 or last[2] > first[2]:
        raise typer.Exit(1)


@app.command()
def cold_start(
    bundle: Bundle, times: Annotated[int, typer.Option(help="Starts.")] = 5, threads: Threads = 2
) -> None:
    """Time from the start of the process to readiness."""
    seconds = []
    for _ in range(times):
        with serving(bundle, {"threads": threads, "max_batch": MAX_BATCH}) as server:
            seconds.append(server.start_s)
    typer.echo(
        f"median {statistics.median(seconds):.2f} s, from {min(seconds):.2f} to {max(seconds):.2f}"
    )


def _plot(rows: Sequence[dict[str, object]], deadline_ms: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    loads = [row["load"] for row in rows]
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        left.plot(loads, [row[name] for row in rows], "o-", label=name.removesuffix("_ms"))
    left.axhline(deadline_ms, color="grey", linestyle=":", label="deadline")
    left.set(xlabel="offered load / capacity", ylabel="latency of answers, ms", ylim=(0, None))
    left.legend()
    for name in ("offered", "good"):
        right.plot(loads, [row[f"{name}_per_s"] for row in rows], "o-", label=name)
    right.set(xlabel="offered load / capacity", ylabel="requests / s", ylim=(0, None))
    right.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    app()
