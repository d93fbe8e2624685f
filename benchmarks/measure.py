"""What the benchmarks share: interleaved rounds, a stopwatch inside running code, peak memory, rows and tables."""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

import transformers


Result = TypeVar("Result")


def parse_run_arguments(parser: argparse.ArgumentParser, repeats: int) -> argparse.Namespace:
    """Parse the command line, with what every benchmark lets one choose about its runs."""
    parser.add_argument(
        "--device",
        type=torch.device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda where there is one)",
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads; 1 is steadier on a busy machine (default: all cores)"
    )
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"rounds that count, after one that does not (default: {repeats})"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="append the JSON lines to this file as well")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


# ---------------------------------------------------------------------- time


class Span(NamedTuple):
    """One call of a watched function, in seconds of `time.perf_counter`."""

    label: str
    start: float
    end: float


def now(device: torch.device) -> float:
    """Seconds, after everything queued on the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Stopwatch:
    """Times chosen methods of living objects, so that the parts of a run come from the very run that is reported."""

    def __init__(self, device: torch.device):
        self.device = device
        self.spans: list[Span] = []

    def watch(self, owner: Any, method: str, label: str) -> None:
        """From now on, each call of `owner.method` leaves a span."""
        function = getattr(owner, method)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now(self.device)
            result = function(*args, **kwargs)
            self.spans.append(Span(label, start, now(self.device)))
            return result

        setattr(owner, method, timed)


def interleave(
    runs: dict[str, Callable[[], Result]], repeats: int, warmup: int = 1, seed: int = 0
) -> dict[str, list[Result]]:
    """
    Run everything once per round, in a new random order each round, so that a machine that slows down slows all of
    them down. The n-th results of any two runs come from the same round and may be compared as a pair.
    """
    order, shuffler = list(runs), random.Random(seed)
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for round_number in range(-warmup, repeats):
        kind = "round" if round_number >= 0 else "warm-up"
        log(
            f"{kind} {round_number % (repeats if round_number >= 0 else warmup) + 1} of "
            f"{repeats if round_number >= 0 else warmup}"
        )
        shuffler.shuffle(order)
        for name in order:
            result = runs[name]()
            if round_number >= 0:
                results[name].append(result)
    return results


# ---------------------------------------------------------------------- numbers


def summary(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median and quartiles of `values`, times `scale`."""
    if len(values) == 1:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: float(f"{value * scale:.5g}") for name, value in (("median", middle), ("q1", low), ("q3", high))}


def paired_ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median, over rounds, of the ratio within a round."""
    return statistics.median(above / below for above, below in zip(numerator, denominator, strict=True))


def target(value: float, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """A measured ratio beside its limit. Without a limit it is reported and not judged."""
    judged: dict[str, Any] = {"value": float(f"{value:.4g}")}
    if at_most is not None:
        judged |= {"at_most": at_most, "met": value <= at_most}
    if at_least is not None:
        judged |= {"at_least": at_least, "met": value >= at_least}
    return judged


# ---------------------------------------------------------------------- memory


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """
    Call a module-level function in a new interpreter, whose memory nothing else has touched. Its large blocks go back
    to the system as soon as they are freed, so that resident memory is what is in use.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, args)
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def peak_memory(run: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """
    Peak of this process while `run` works, in MB (1e6 bytes): `peak` in all, `above_weights` on top of what was there
    before. On a GPU allocated device memory; otherwise resident memory, libraries included. Call it once per process.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        before = _process_memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark forgets how the weights were made
        run()
        peak = _process_memory("VmHWM")
    return {"peak": round(peak / 1e6, 1), "above_weights": round((peak - before) / 1e6, 1)}


def _process_memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# ---------------------------------------------------------------------- where a number comes from


def origin(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Commit, hardware and versions: what a row needs to be compared with another one."""
    return {
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _commit() -> str:
    git = functools.partial(
        subprocess.run, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() or "unknown"
    changed = git(["git", "status", "--porcelain", "--", "*.py"]).stdout.strip()
    return commit + ("+changes" if changed else "")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name or platform.machine()}, {os.cpu_count()} cores"


# ---------------------------------------------------------------------- telling


def log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def write_rows(rows: list[dict[str, Any]], output: Path | None) -> None:
    """One JSON line per row, on stdout and appended to `output`."""
    for row in rows:
        line = json.dumps(row)
        print(line, flush=True)
        if output is not None:
            with output.open("a") as file:
                file.write(line + "\n")


def print_table(rows: list[dict[str, str]]) -> None:
    """A Markdown table on stderr; the keys of the first row are its head."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    lines = [{name: name for name in names}, {name: "-" * widths[name] for name in names}, *rows]
    log("\n" + "\n".join("| " + " | ".join(line[name].ljust(widths[name]) for name in names) + " |" for line in lines))


def cell(judged: dict[str, Any] | None) -> str:
    """A `target` in a table: its value, and whether the limit is met."""
    if judged is None:
        return ""
    verdict = {True: " ok", False: " MISSED", None: ""}[judged.get("met")]
    return f"{judged['value']:.3f}{verdict}" if judged["value"] < 10 else f"{judged['value']:.1f}{verdict}"
