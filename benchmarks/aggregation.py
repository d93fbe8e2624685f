"""
AdaTA alone, on batches of images, against a loop over images written from its authors' published words.

Both go from patch features to the features with semantic tokens appended. The loop, per image: the cosine similarity
matrix of the patches; k-means on its rows, random initialisation, at most 100 Lloyd iterations, stopping when no patch
changes its cluster; the mean feature of each cluster appended. It is timed twice: `loop` updates one cluster after
the other, as a description is usually written down; `loop-scatter` all clusters of an image at once, the most that
can be had without batching images. AdaTA does more than either: relations between patches, deterministic seeding,
scores, selection, and a refinement layer. It is timed twice as well: `adata` as the model runs it by default, given
the encoder's attention, which costs nothing here; `adata-similarity` with the cosines of the patches in its place,
their making included.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measure import (
    cell,
    in_fresh_process,
    interleave,
    log,
    now,
    origin,
    paired_ratio,
    parse_run_arguments,
    peak_memory,
    print_table,
    summary,
    target,
    write_rows,
)

from transformers import DINOv3ViTConfig, LlamaConfig

from granulon import GranulonConfig
from granulon.modeling_granulon.adata_granulon import AdaptiveTokenAggregation


GPU_TARGET_SHAPE = (32, 1024, 50)  # batch, patches, clusters; on a CPU every shape is judged
MAX_LLOYD_ITERATIONS = 100
EPILOG = """
Targets: on a CPU AdaTA is at least as fast as `loop` and has at least 0.9 of the speed of `loop-scatter`, at every
shape; on a GPU it is at least 20 times as fast as `loop` at batch 32, 1,024 patches, 50 clusters. Ratios are medians
over rounds, in each of which everything runs once. JSON lines go to stdout; progress and the table to stderr.

On a machine that does other work at the same time:
  python benchmarks/aggregation.py --threads 1 --cpu-time --no-memory
"""


def make_patches(batch_size: int, num_patches: int, hidden_size: int, device: torch.device) -> torch.Tensor:
    """`(batch_size, num_patches, hidden_size)`: smooth random fields plus noise, as neighbouring patches are alike."""
    generator = torch.Generator().manual_seed(0)
    edge = math.isqrt(num_patches)
    coarse = torch.randn(batch_size, hidden_size, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(edge, edge), mode="bilinear").flatten(2).transpose(1, 2)
    return (smooth + 0.5 * torch.randn(smooth.shape, generator=generator)).to(device)


def loop(patch_tokens: torch.Tensor, num_clusters: int, scatter: bool) -> tuple[torch.Tensor, float]:
    """`(batch_size, num_patches + num_clusters, hidden_size)`, and the mean number of Lloyd iterations."""
    outputs, iterations = [], 0
    for features in patch_tokens:
        unit = F.normalize(features, dim=-1)
        rows = unit @ unit.T
        centers = rows[torch.randperm(len(rows), device=rows.device)[:num_clusters]]
        clusters = torch.full((len(rows),), -1, device=rows.device)
        for _ in range(MAX_LLOYD_ITERATIONS):
            iterations += 1
            previous, clusters = clusters, torch.cdist(rows, centers).argmin(1)
            if torch.equal(previous, clusters):
                break
            centers = _means(rows, clusters, centers, scatter)
        empty = torch.zeros(num_clusters, features.shape[1], device=features.device)
        outputs.append(torch.cat([features, _means(features, clusters, empty, scatter)]))
    return torch.stack(outputs), iterations / len(patch_tokens)


def _means(values: torch.Tensor, clusters: torch.Tensor, empty: torch.Tensor, scatter: bool) -> torch.Tensor:
    """The mean of each cluster's members; a cluster without members keeps its row of `empty`."""
    if scatter:
        sizes = torch.bincount(clusters, minlength=len(empty))[:, None]
        sums = torch.zeros_like(empty).index_add_(0, clusters, values)
        return torch.where(sizes > 0, sums / sizes.clamp_min(1), empty)
    means = empty.clone()
    for index in range(len(empty)):
        members = values[clusters == index]
        if len(members):
            means[index] = members.mean(0)
    return means


def make_aggregator(shape: tuple[int, int, int], hidden_size: int) -> AdaptiveTokenAggregation:
    """AdaTA with one level that pools nothing and keeps every cluster, so that both sides emit as many tokens."""
    _, num_patches, num_clusters = shape
    level = {"name": "only", "pool": 1, "clusters": num_clusters, "tokens": num_clusters}
    encoder = DINOv3ViTConfig(hidden_size=hidden_size, image_size=16 * math.isqrt(num_patches), patch_size=16)
    config = GranulonConfig(vision_config=encoder, text_config=LlamaConfig(), levels=[level])
    return AdaptiveTokenAggregation(config).eval()


def cosines(patch_tokens: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_patches, num_patches)`, as the model makes them with `affinity="similarity"`."""
    unit = F.normalize(patch_tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def aggregate(
    patch_tokens: torch.Tensor, aggregator: AdaptiveTokenAggregation, affinity: torch.Tensor | None = None
) -> torch.Tensor:
    """`(batch_size, num_patches + num_clusters, hidden_size)`."""
    affinity = cosines(patch_tokens) if affinity is None else affinity
    granularity = torch.zeros(len(patch_tokens), dtype=torch.long, device=patch_tokens.device)
    grid = (math.isqrt(patch_tokens.shape[1]),) * 2
    return torch.cat([patch_tokens, aggregator(patch_tokens, affinity, granularity, grid).tokens], dim=1)


# ---------------------------------------------------------------------- runs


def make_runs(shape: tuple[int, int, int], hidden_size: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    batch_size, num_patches, num_clusters = shape
    patches = make_patches(batch_size, num_patches, hidden_size, device)
    attention = (10 * cosines(patches)).softmax(-1)  # stands for the encoder's: row-stochastic, alike patches attend
    aggregator = make_aggregator(shape, hidden_size).to(device)
    return {
        "adata": partial(aggregate, patches, aggregator, attention),
        "adata-similarity": partial(aggregate, patches, aggregator),
        "loop": partial(loop, patches, num_clusters, scatter=False),
        "loop-scatter": partial(loop, patches, num_clusters, scatter=True),
    }


@torch.no_grad()
def memory_of(name: str, shape: tuple[int, int, int], hidden_size: int, device: torch.device) -> dict[str, float]:
    """Peak memory of one run in a process of its own."""
    run = make_runs(shape, hidden_size, device)[name]
    run()  # libraries load on first use
    return peak_memory(run, device)


def time_run(run: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds, and Lloyd iterations per image of a loop."""
    start = clock()
    result = run()
    return clock() - start, result[1] if isinstance(result, tuple) else math.nan


def targets(
    name: str, shape: tuple[int, int, int], seconds: dict[str, list[float]], device: torch.device
) -> dict[str, Any]:
    """AdaTA's speed over those of the loops."""
    limits: dict[str, float | None] = {"loop": None, "loop-scatter": None}
    if name == "adata" and device.type == "cpu":
        limits = {"loop": 1.0, "loop-scatter": 0.9}
    elif name == "adata" and shape == GPU_TARGET_SHAPE:
        limits["loop"] = 20.0
    return {
        f"speed_over_{other.replace('-', '_')}": target(paired_ratio(seconds[other], seconds[name]), at_least=limit)
        for other, limit in limits.items()
    }


@torch.no_grad()
def measure(shape: tuple[int, int, int], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A row for each method."""
    device = options.device
    torch.manual_seed(0)
    runs = make_runs(shape, options.hidden_size, device)
    clock = time.process_time if options.cpu_time else partial(now, device)
    timed = interleave({name: partial(time_run, run, clock) for name, run in runs.items()}, options.repeats)
    seconds = {name: [time for time, _ in results] for name, results in timed.items()}
    rows = {}
    for name, results in timed.items():
        row: dict[str, Any] = {
            "benchmark": "aggregation",
            "method": name,
            "batch_size": shape[0],
            "num_patches": shape[1],
            "num_clusters": shape[2],
            "hidden_size": options.hidden_size,
            "milliseconds": summary(seconds[name], 1e3),
        }
        if not options.no_memory:
            row["memory_mb"] = in_fresh_process(memory_of, name, shape, options.hidden_size, device)
        if name.startswith("loop"):
            row["lloyd_iterations"] = round(statistics.mean(iterations for _, iterations in results), 1)
        else:
            row["targets"] = targets(name, shape, seconds, device)
        row["clock"] = "process CPU time" if options.cpu_time else "wall"
        rows[name] = {**row, "warmup": 1, "repeats": options.repeats, "seed": 0, **origin(device, torch.float32)}
    return rows


# ---------------------------------------------------------------------- telling


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="images per batch (default: 1 8 32)")
    parser.add_argument(
        "--patches", type=int, nargs="+", default=[196, 1024], help="square numbers of patches (default: 196 1024)"
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=[5, 50], help="clusters per image (default: 5 50)")
    parser.add_argument("--hidden-size", type=int, default=1024, help="width of a patch (default: 1024, ViT-L's)")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count this process's CPU time: what other work on the machine takes is left out (CPU only)",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave peak memory out, for which each run gets a process of its own"
    )
    options = parse_run_arguments(parser, repeats=5)
    if options.cpu_time and options.device.type != "cpu":
        parser.error(f"--cpu-time counts what a CPU does, but --device is {options.device}. Leave it out.")
    if any(math.isqrt(number) ** 2 != number for number in options.patches):
        parser.error(f"--patches {options.patches}: each must be a square number, such as 196 or 1024.")
    return options


def table_row(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    adata, loop_row = rows["adata"], rows["loop"]
    cells = {
        "batch": str(adata["batch_size"]),
        "patches": str(adata["num_patches"]),
        "clusters": str(adata["num_clusters"]),
    }
    cells |= {f"{name} ms": f"{row['milliseconds']['median']:.1f}" for name, row in rows.items()}
    cells["loop / adata"] = cell(adata["targets"]["speed_over_loop"])
    cells["loop-scatter / adata"] = cell(adata["targets"]["speed_over_loop_scatter"])
    cells["Lloyd iterations"] = f"{loop_row['lloyd_iterations']:.0f}"
    if "memory_mb" in adata:
        cells |= {f"{name} MB": f"{rows[name]['memory_mb']['above_weights']:.0f}" for name in ("adata", "loop")}
    return cells


def main() -> None:
    options = parse_arguments()
    table = []
    for shape in itertools.product(options.batch, options.patches, options.clusters):
        log("batch {}, {} patches, {} clusters".format(*shape))
        rows = measure(shape, options)
        write_rows(list(rows.values()), options.output)
        table.append(table_row(rows))
    print_table(table)


if __name__ == "__main__":
    main()
