"""Adaptive Token Aggregation (AdaTA): pool, cluster and select an encoder's patches (paper section 3.2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_granulon import GranulonConfig, check_levels_fit
from .slots_granulon import pooled_size


@dataclass
class AggregationOutput:
    """
    What AdaTA made of a batch of images. `max_*` is the largest value of any level, `num_patches` is rows x columns.

    Attributes:
        tokens: `(num_images, max_tokens, hidden_size)`, the semantic tokens, best score first, zeros where unused.
        token_mask: `(num_images, max_tokens)` bool, True for the first `tokens` entries of each image's level.
        selected: `(num_images, max_tokens)`, the cluster each token came from, -1 where unused.
        assignments: `(num_images, num_patches)`, the cluster of each patch's pooled patch, row-major.
        scores: `(num_images, max_clusters)` fp32, s_j of Eq. 10, minus infinity beyond the level's clusters.
    """

    tokens: torch.Tensor
    token_mask: torch.Tensor
    selected: torch.Tensor
    assignments: torch.Tensor
    scores: torch.Tensor


def average_runs(values: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Average runs of `length` along an axis; the last run averages what there is."""
    num_runs, rest = divmod(values.shape[axis], length)
    runs, tail = values.split([num_runs * length, rest], axis)
    averages = runs.unflatten(axis, (num_runs, length)).mean(axis + 1)
    return torch.cat([averages, tail.mean(axis, keepdim=True)], axis) if rest else averages


def pool_tokens(tokens: torch.Tensor, grid: tuple[int, int], pool: int) -> torch.Tensor:
    """
    Average row-major tokens `(batch_size, rows * columns, size)` over windows of edge `pool` (Eq. 8, F pooled by K).
    Windows at ragged borders average what they hold; `pool` 1 returns `tokens` itself.
    """
    if pool == 1:
        return tokens
    image = tokens.unflatten(1, grid)  # axis by axis: with tokens last, a pooling layer is ten times as slow on a CPU
    return average_runs(average_runs(image, 1, pool), 2, pool).flatten(1, 2)


def pool_affinity(affinity: torch.Tensor, grid: tuple[int, int], pool: int) -> torch.Tensor:
    """
    Pool relations `(batch_size, num_patches, num_patches)` on both sides (Eq. 8, K^T A K): rows are averaged and
    columns summed, so that a row-stochastic A stays row-stochastic.
    """
    if pool == 1:
        return affinity
    rows = pool_tokens(affinity, grid, pool).unflatten(2, grid)
    return F.avg_pool2d(rows, pool, ceil_mode=True, divisor_override=1).flatten(2)  # divided by 1: a sum


def window_of_patch(grid: tuple[int, int], pool: int, device: torch.device) -> torch.Tensor:
    """`(num_patches,)`: the index of the pooled patch that each patch falls into, row-major on both sides."""
    if pool == 1:
        return torch.arange(grid[0] * grid[1], device=device)
    rows = torch.arange(grid[0], device=device) // pool
    columns = torch.arange(grid[1], device=device) // pool
    return (rows[:, None] * pooled_size(grid, pool)[1] + columns).flatten()


# ---------------------------------------------------------------------- clustering
#
# A center is a mean of points, so inner products with it are means of inner products of points: `gram`, a_i . a_j of
# all pairs, is made once, and no step after it touches a point again. Clusters are rows here and points are columns.


def inner_products(points: torch.Tensor) -> torch.Tensor:
    """`(batch_size, num_points, num_points)`: a_i . a_j."""
    return points @ points.transpose(1, 2)


def members_of(assignments: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """`(batch_size, num_clusters, num_points)` fp32: 1 where the point is in the cluster, else 0."""
    batch_size, num_points = assignments.shape
    members = torch.zeros(batch_size, num_clusters, num_points, device=assignments.device)
    return members.scatter(1, assignments[:, None], 1.0)


def farthest_first_seeds(
    points: torch.Tensor, features: torch.Tensor, num_clusters: int, gram: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Seeds of the clustering: first the point with the largest mean cosine to all, then, each time, the point farthest
    from the seeds so far. Every point is taken once; ties go to the lowest index.

    Args:
        points: `(batch_size, num_points, size)`, a_i.
        features: `(batch_size, num_points, hidden_size)`, unit-norm, whose cosines choose the first seed.
        gram: `inner_products(points)`, where they are at hand.

    Returns:
        `(batch_size, num_clusters)` indices of points.
    """
    gram = inner_products(points) if gram is None else gram
    squared = gram.diagonal(dim1=1, dim2=2)
    distances = squared[:, :, None] + squared[:, None] - 2 * gram
    distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)  # a seed is not taken again
    # the mean of the cosines is the cosine with the mean
    seeds = [(features @ features.mean(1).unsqueeze(-1)).argmax(1, keepdim=True)]  # (batch_size, 1, 1)
    nearest = torch.full_like(distances[:, :1], torch.inf)
    while len(seeds) < num_clusters:
        nearest = torch.minimum(nearest, distances.gather(1, seeds[-1].expand_as(nearest)))
        seeds.append(nearest.argmax(2, keepdim=True))
    return torch.cat(seeds, dim=1).squeeze(2)


def fill_empty_clusters(assignments: torch.Tensor, costs: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """
    Give each empty cluster, lowest index first, the worst-fitting point of all those that are not the last of their
    cluster, so that no cluster stays empty. Ties go to the lowest index.

    Args:
        assignments: `(batch_size, num_points)` clusters.
        costs: `(batch_size, num_points)`, how badly each point fits its cluster.
    """
    order = costs.argsort(dim=1, descending=True, stable=True)  # points, worst first
    clusters = assignments.gather(1, order)
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    last = order.new_full((len(order), num_clusters), -1).scatter_reduce(1, clusters, place, "amax")  # -1 where empty
    is_free, is_empty = place != last.gather(1, clusters), last < 0
    # the n-th free point moves to the n-th empty cluster
    empty = is_empty.int().argsort(dim=1, descending=True, stable=True)
    turn = is_free.cumsum(1) - 1
    moves = is_free & (turn < is_empty.sum(1, keepdim=True))
    clusters = torch.where(moves, empty.gather(1, turn.clamp(0, num_clusters - 1)), clusters)
    return torch.empty_like(assignments).scatter(1, order, clusters)


def may_look(values: torch.Tensor) -> bool:
    """Whether values may steer Python: a GPU would have to be waited for, and a compiled graph would break."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def join_cheapest(costs: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
    """
    The cluster of the least cost for each point, none left empty; ties go to the lowest index.

    Args:
        costs: `(batch_size, num_clusters, num_points)`, all of a point's less the same ||a_i||^2.
        squared: `(batch_size, num_points)`, ||a_i||^2, for points to be compared with each other.
    """
    num_clusters = costs.shape[1]
    costs, assignments = costs.min(1)
    is_used = torch.zeros(len(costs), num_clusters, dtype=torch.bool, device=costs.device)
    if may_look(costs) and bool(is_used.scatter_(1, assignments, True).all()):
        return assignments
    return fill_empty_clusters(assignments, costs + squared, num_clusters)


def cluster_points(
    points: torch.Tensor,
    affinity: torch.Tensor,
    seeds: torch.Tensor,
    relation_weight: float,
    iterations: int,
    gram: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Relation-aware k-means (Eq. 9): each point joins argmin_j ||a_i - c_j||^2 + lambda_f delta_ij, where c_j is the
    mean of cluster j and delta_ij is 1 minus the mean, over the members m of j, of A_im / max_m A_im. (The paper
    leaves the form of delta open.) The first step knows no members yet, hence no delta. Ties go to the lowest index.

    Args:
        points: `(batch_size, num_points, size)` fp32, a_i.
        affinity: `(batch_size, num_points, num_points)` fp32, the pooled A.
        seeds: `(batch_size, num_clusters)`, the points that are the first centers.
        gram: `inner_products(points)`, where they are at hand.

    Returns:
        `(batch_size, num_points)`, the cluster of each point; no cluster is empty.
    """
    gram = inner_products(points) if gram is None else gram
    squared = gram.diagonal(dim1=1, dim2=2)
    relation = affinity / affinity.amax(-1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    # ||a_i||^2 and lambda_f are the same for all clusters. Without them the cost is ||c_j||^2 minus the mean, over the
    # members m of j, of 2 a_i . a_m + lambda_f A_im / max_m A_im. The first centers are points.
    attraction = 2 * gram + relation_weight * relation.transpose(1, 2)
    products = gram.gather(1, seeds[:, :, None].expand(-1, -1, gram.shape[2]))
    assignments = join_cheapest(squared.gather(1, seeds)[:, :, None] - 2 * products, squared)
    for _ in range(iterations - 1):
        members = members_of(assignments, seeds.shape[1])
        sizes = members.sum(-1, keepdim=True)
        lengths = (members * (members @ gram)).sum(-1, keepdim=True) / sizes.square()  # ||c_j||^2
        previous, assignments = assignments, join_cheapest(lengths - members @ attraction / sizes, squared)
        if may_look(points) and torch.equal(previous, assignments):
            break  # all further steps would repeat this one
    return assignments


def cluster_scores(
    points: torch.Tensor,
    assignments: torch.Tensor,
    num_clusters: int,
    grid: tuple[int, int],
    weights: tuple[float, float, float],
    gram: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Quality of each cluster (Eq. 10): eta_1 S_size + eta_2 S_coh - eta_3 S_disp, `(batch_size, num_clusters)`.

    S_size is the cluster's share of the points; S_coh the mean cosine of its members to their centroid; S_disp the
    mean squared distance of its members to their mean place, in cells of the grid, over the grid's squared diagonal.

    Args:
        points: `(batch_size, rows * columns, size)`, a_i.
        assignments: `(batch_size, rows * columns)`; no cluster is empty.
        grid: rows and columns of the pooled grid.
        weights: eta_1, eta_2, eta_3.
        gram: `inner_products(points)`, where they are at hand.
    """
    gram = inner_products(points) if gram is None else gram
    members = members_of(assignments, num_clusters)
    sizes = members.sum(-1)
    products = members @ gram / sizes[:, :, None]  # c_j . a_i
    lengths = (members * products).sum(-1) / sizes  # ||c_j||^2
    lengths = lengths.clamp_min(torch.finfo(gram.dtype).eps)  # less is rounding, where members cancel out
    norms = gram.diagonal(dim1=1, dim2=2).sqrt().clamp_min(torch.finfo(gram.dtype).tiny)
    # a_i . c_j / ||a_i||, for c_j the center of its own cluster
    projections = products.gather(1, assignments[:, None]).squeeze(1) / norms
    rows, columns = (torch.arange(edge, device=points.device, dtype=points.dtype) for edge in grid)
    places = torch.cartesian_prod(rows, columns)
    places = torch.cat([places, places.square().sum(-1, keepdim=True)], -1).expand(len(points), -1, -1)
    # what each point brings, averaged over the members of each cluster: (batch_size, num_clusters, 4)
    averages = members @ torch.cat([projections[:, :, None], places], -1) / sizes[:, :, None]
    projection, row, column, square = averages.unbind(-1)
    # exactly 1 for a single member, or rounding would order the clusters of one patch
    cohesion = torch.where(sizes == 1, 1, projection / lengths.sqrt())
    # mean ||x - mean x||^2 = mean ||x||^2 - ||mean x||^2
    dispersion = (square - row.square() - column.square()) / (grid[0] ** 2 + grid[1] ** 2)
    return weights[0] * sizes / points.shape[1] + weights[1] * cohesion - weights[2] * dispersion


# ---------------------------------------------------------------------- the module


def group_images(levels: list[int], device: torch.device) -> list[list[int]]:
    """
    The images that are aggregated together: those of one level on a GPU, each by itself on a CPU. There a batch would
    leave the cache, and its products, having another shape, be rounded otherwise than those of its images.
    """
    if device.type == "cpu":
        return [[image] for image in range(len(levels))]
    return [[i for i, other in enumerate(levels) if other == level] for level in sorted(set(levels))]


def split_into_groups(values: torch.Tensor | None, groups: list[list[int]]) -> Sequence[torch.Tensor | None]:
    """`values`, whose first axis is images, as one tensor for each group."""
    if values is None:
        return [None] * len(groups)
    order = sum(groups, [])
    values = values if order == sorted(order) else values[order]
    return values.split([len(images) for images in groups])


def join_groups(parts: list[torch.Tensor], groups: list[list[int]]) -> torch.Tensor:
    """One tensor of all images again, in their first order."""
    values, order = torch.cat(parts), sum(groups, [])
    return values if order == sorted(order) else values[sorted(range(len(order)), key=order.__getitem__)]


class IdentityLinear(nn.Linear):
    """
    A linear layer that the model initialises to the identity. A class of its own because the library initialises only
    modules that hold parameters themselves: the aggregation, which holds none, is never asked.
    """


class AdaptiveTokenAggregation(nn.Module):
    """
    Turns an image's patches into a few semantic tokens at one of the configured levels (paper section 3.2.2).

    Images of a batch may have different levels, and get the tokens that they get alone. The result is deterministic;
    gradients reach the patches through the means and the refinement, the choice of clusters has none.
    """

    def __init__(self, config: GranulonConfig):
        super().__init__()
        self.config = config
        hidden_size = config.vision_config.hidden_size
        self.refinement = IdentityLinear(hidden_size, hidden_size)

    def forward(
        self,
        patch_tokens: torch.Tensor,
        affinity: torch.Tensor,
        granularity: torch.Tensor,
        grid: tuple[int, int],
        seeds: torch.Tensor | None = None,
        iterations: int | None = None,
    ) -> AggregationOutput:
        """
        Args:
            patch_tokens: `(num_images, rows * columns, hidden_size)`, F: after the encoder's final LayerNorm, prefix
                tokens removed, row-major.
            affinity: `(num_images, rows * columns, rows * columns)`, A.
            granularity: `(num_images,)`, the level of each image, 0 is the coarsest.
            grid: rows and columns of the patches.
            seeds: `(num_images, clusters)` indices of pooled patches, in place of farthest-first seeding.
            iterations: in place of `config.kmeans_iterations`.

        Raises:
            ValueError: the grid has fewer pooled patches than a level forms clusters.
        """
        if torch.compiler.is_compiling():  # static shapes: every level for every image, then a choice
            levels = list(range(len(self.config.levels)))
            check_levels_fit(self.config.levels, grid)
            per_level = [self._aggregate(level, patch_tokens, affinity, grid, seeds, iterations) for level in levels]
            images = torch.arange(len(patch_tokens), device=patch_tokens.device)
            chosen = [torch.stack(parts)[granularity, images] for parts in zip(*per_level, strict=True)]
        else:
            levels = granularity.tolist()
            groups = group_images(levels, patch_tokens.device)
            inputs = (split_into_groups(values, groups) for values in (patch_tokens, affinity, seeds))
            parts = []
            for images, patches, relation, given in zip(groups, *inputs, strict=True):
                level = levels[images[0]]
                check_levels_fit(self.config.levels[level : level + 1], grid)
                parts.append(self._aggregate(level, patches, relation, grid, given, iterations))
            chosen = [join_groups(list(part), groups) for part in zip(*parts, strict=True)]
        tokens, token_mask, selected, assignments, scores = chosen
        tokens = self.refinement(tokens) * token_mask.unsqueeze(-1)
        return AggregationOutput(tokens, token_mask, selected, assignments, scores)

    def _aggregate(
        self,
        index: int,
        patch_tokens: torch.Tensor,
        affinity: torch.Tensor,
        grid: tuple[int, int],
        seeds: torch.Tensor | None,
        iterations: int | None,
    ) -> tuple[torch.Tensor, ...]:
        """One level for all given images: the fields of `AggregationOutput`, its tokens not yet refined."""
        config, level = self.config, self.config.levels[index]
        pool, num_clusters, num_tokens = level["pool"], level["clusters"], level["tokens"]
        pooled_grid = pooled_size(grid, pool)
        region_tokens = pool_tokens(patch_tokens, grid, pool)
        with torch.no_grad(), torch.autocast(patch_tokens.device.type, enabled=False):
            features = F.normalize(region_tokens.float(), dim=-1)
            relation = pool_affinity(affinity.float(), grid, pool)
            # a copy, as products of a batch's slice may be rounded otherwise than those of aligned memory
            points = features if config.cluster_features == "features" else relation.clone()
            gram = inner_products(points)
            if seeds is None:
                seeds = farthest_first_seeds(points, features, num_clusters, gram)
            iterations = config.kmeans_iterations if iterations is None else iterations
            seeds = seeds[:, :num_clusters]
            clusters = cluster_points(points, relation, seeds, config.relation_weight, iterations, gram)
            weights = (config.size_weight, config.cohesion_weight, config.dispersion_weight)
            scores = cluster_scores(points, clusters, num_clusters, pooled_grid, weights, gram)
            selected = scores.argsort(dim=1, descending=True, stable=True)[:, :num_tokens]
            members = (clusters[:, None] == selected[:, :, None]).to(region_tokens.dtype)
            average = members / members.sum(-1, keepdim=True)
        tokens = average @ region_tokens
        unused = config.max_semantic_tokens - num_tokens
        max_clusters = max(other["clusters"] for other in config.levels)
        return (
            F.pad(tokens, (0, 0, 0, unused)),
            F.pad(torch.ones_like(selected, dtype=torch.bool), (0, unused)),
            F.pad(selected, (0, unused), value=-1),
            clusters[:, window_of_patch(grid, pool, clusters.device)],
            F.pad(scores, (0, max_clusters - num_clusters), value=-torch.inf),
        )
