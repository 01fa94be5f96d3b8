"""Throughput of one saliency bundle behind each server; `python -m benchmarks.others --help`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.others.work import BATCH, BUNDLE, PATH, PORT, THREADS, WORKERS
from benchmarks.serving import DATA, PATIENT, Data, closed_loop, quantiles_ms, read_pairs
from benchmarks.wire import HOST, Reply, Server, Wire, form, free_port, serving

MODULE = "benchmarks.others.on_"
COMMANDS = {
    "litserve": ["python", "-m", f"{MODULE}litserve"],
    "ray": ["python", "-m", f"{MODULE}ray"],
    "bentoml": ["bentoml", "serve", f"{MODULE}bentoml:Saliency"],
}
START_S = 240


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of one saliency bundle.")],
    environments: Annotated[
        Path, typer.Option(help="Folder of the virtual environments `litserve`, `ray`, `bentoml`.")
    ],
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 15,
    rounds: Annotated[int, typer.Option(help="Of all in turn.")] = 3,
    threads: Annotated[int, typer.Option(help="Of each network.")] = 1,
    workers: Annotated[
        int, typer.Option(help="Processes of the others; batches that ours runs at once.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="Most pairs of a batch.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help="Names of those to measure.")] = None,
    data: Data = DATA,
) -> None:
    """Send the same pairs by the same client to each server in turn, and tabulate.

    On a busy machine the rates are less than they could be; the processor time of an answer, over
    all processes of a server, still holds.
    """
    requests = [form(PATH, files) for files in read_pairs(data)]
    ours = PATIENT | {"threads": threads, "parallel_runs": workers, "max_batch": batch}
    sizes = {BUNDLE: bundle.absolute(), THREADS: threads, WORKERS: workers, BATCH: batch}
    servers: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "ours": lambda: serving(bundle, ours)
    }
    for name in COMMANDS:
        servers[name] = lambda name=name: _other(  # type: ignore[misc]  # a default of a lambda
            name, environments / name / "bin", sizes, requests[0]
        )
    servers = {name: serve for name, serve in servers.items() if not only or name in only}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    each_ms: dict[str, list[float]] = {name: [] for name in servers}
    replies: dict[str, list[Reply]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, serve in servers.items():
            with serve() as server:
                asyncio.run(closed_loop(server, requests, 3))
                start, before = time.perf_counter(), sum(_family(server.pid).values())
                found = asyncio.run(closed_loop(server, requests, seconds))
                each_ms[name].append(
                    1000 * (sum(_family(server.pid).values()) - before) / len(found)
                )
                good = sum(reply.status == 200 for reply in found)
                rates[name].append(good / (time.perf_counter() - start))
                replies[name] += found
            Console(stderr=True).print(name, rates[name][-1])
    columns = "answers /s, median", "from", "to", "CPU ms, median", "p50 ms", "p99 ms", "statuses"
    table = Table("server", *columns)
    for name, found in replies.items():
        p50, _, p99 = quantiles_ms(found)
        each = statistics.median(rates[name]), min(rates[name]), max(rates[name])
        numbers = [*(f"{rate:.2f}" for rate in each)]
        numbers += [f"{statistics.median(each_ms[name]):.0f}", f"{p50:.0f}", f"{p99:.0f}"]
        table.add_row(name, *numbers, str(dict(Counter(reply.status for reply in found))))
    Console().print(table)


@contextlib.contextmanager
def _other(
    name: str, folder: Path, sizes: Mapping[str, object], request: bytes
) -> Iterator[Server]:
    """Start it and wait until it answers a pair."""
    port = free_port()
    program, *arguments = COMMANDS[name]
    if name == "bentoml":
        arguments += ["--port", str(port), "--host", HOST]
    variables = {key: str(value) for key, value in {**sizes, PORT: port}.items()}
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 by default, which a busy machine would punish
        "BENTOML_DO_NOT_TRACK": "1",
        "PYTHONPATH": ".",
    }
    start = time.perf_counter()
    process = subprocess.Popen(
        [folder / program, *arguments],
        env={**os.environ, **variables, **quiet},
        stdout=subprocess.DEVNULL,
    )
    try:
        while asyncio.run(_status(port, request)) != 200:
            if process.poll() is not None or time.perf_counter() > start + START_S:
                raise RuntimeError(f"{name} does not answer")
            time.sleep(0.2)
        yield Server(process.pid, port, time.perf_counter() - start)
    finally:
        family = _family(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for pid, start_ticks in family:  # Ray's workers outlive it
            if _started(pid) == start_ticks:
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _family(root: int) -> dict[tuple[int, int], float]:
    """A process and all below it that still run: id and time of start, processor time so far."""
    parents: dict[int, int] = {}
    found: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid] = int(fields[1])
            ticks = int(fields[11]) + int(fields[12])
            found[pid] = int(fields[19]), ticks / os.sysconf("SC_CLK_TCK")
    family, size = {root}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return {(pid, found[pid][0]): found[pid][1] for pid in family if pid in found}


def _started(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return None


async def _status(port: int, request: bytes) -> int:
    try:
        wire = await Wire.open(port)
        async with asyncio.timeout(60):
            status = (await wire.send(request)).status
        await wire.close()
    except (OSError, EOFError, TimeoutError):
        return 0
    return status


if __name__ == "__main__":
    app()
