"""Adaptive Token Aggregation (AdaTA): pool, cluster and select an encoder's patches (paper section 3.2.2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_granulon import GranulonConfig, check_levels_fit, pooled_size


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


def pool_tokens(tokens: torch.Tensor, grid: tuple[int, int], pool: int) -> torch.Tensor:
    """
    Average row-major tokens `(batch_size, rows * columns, size)` over windows of edge `pool` (Eq. 8, F pooled by K).
    Windows at ragged borders average what they hold; `pool` 1 returns `tokens` itself.
    """
    if pool == 1:
        return tokens
    image = tokens.transpose(1, 2).unflatten(2, grid)
    return F.avg_pool2d(image, pool, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)


def pool_affinity(affinity: torch.Tensor, grid: tuple[int, int], pool: int) -> torch.Tensor:
    """
    Pool relations `(batch_size, num_patches, num_patches)` on both sides (Eq. 8, K^T A K): rows are averaged and
    columns summed, so that a row-stochastic A stays row-stochastic.
    """
    if pool == 1:
        return affinity
    rows = pool_tokens(affinity, grid, pool)
    window_sizes = torch.bincount(window_of_patch(grid, pool, affinity.device), minlength=rows.shape[1])
    return pool_tokens(rows.transpose(1, 2), grid, pool).transpose(1, 2) * window_sizes.to(affinity.dtype)


def window_of_patch(grid: tuple[int, int], pool: int, device: torch.device) -> torch.Tensor:
    """`(num_patches,)`: the index of the pooled patch that each patch falls into, row-major on both sides."""
    rows = torch.arange(grid[0], device=device) // pool
    columns = torch.arange(grid[1], device=device) // pool
    return (rows[:, None] * pooled_size(grid, pool)[1] + columns).flatten()


def farthest_first_seeds(points: torch.Tensor, features: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """
    Seeds of the clustering: first the point with the largest mean cosine to all, then, each time, the point farthest
    from the seeds so far. Every point is taken once; ties go to the lowest index.

    Args:
        points: `(batch_size, num_points, size)`, a_i.
        features: `(batch_size, num_points, hidden_size)`, unit-norm, whose cosines choose the first seed.

    Returns:
        `(batch_size, num_clusters)` indices of points.
    """
    # the mean of the cosines is the cosine with the mean: no matrix of all pairs is needed, here or below
    seed = (features @ features.mean(1).unsqueeze(-1)).squeeze(-1).argmax(-1, keepdim=True)
    squared = points.square().sum(-1)
    seeds, nearest = [seed], torch.full_like(squared, torch.inf)
    for _ in range(num_clusters - 1):
        latest = points.gather(1, seed[:, :, None].expand(-1, -1, points.shape[-1]))
        distances = squared + squared.gather(1, seed) - 2 * (points @ latest.transpose(1, 2)).squeeze(-1)
        nearest = torch.minimum(nearest, distances).scatter(1, seed, -torch.inf)
        seed = nearest.argmax(-1, keepdim=True)
        seeds.append(seed)
    return torch.cat(seeds, dim=1)


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
    place = torch.arange(order.shape[1], device=order.device)
    is_member = clusters[:, :, None] == torch.arange(num_clusters, device=order.device)
    last = torch.where(is_member, place[:, None], -1).amax(1)  # (batch_size, num_clusters), -1 where empty
    is_free, is_empty = place != last.gather(1, clusters), last < 0
    # the n-th free point moves to the n-th empty cluster
    moves = is_free[:, :, None] & is_empty[:, None] & (is_free.cumsum(1)[:, :, None] == is_empty.cumsum(1)[:, None])
    clusters = torch.where(moves.any(-1), moves.long().argmax(-1), clusters)
    return torch.empty_like(assignments).scatter(1, order, clusters)


def cluster_points(
    points: torch.Tensor, affinity: torch.Tensor, seeds: torch.Tensor, relation_weight: float, iterations: int
) -> torch.Tensor:
    """
    Relation-aware k-means (Eq. 9): each point joins argmin_j ||a_i - c_j||^2 + lambda_f delta_ij, where c_j is the
    mean of cluster j and delta_ij is 1 minus the mean, over the members m of j, of A_im / max_m A_im. (The paper
    leaves the form of delta open.) The first step knows no members yet, hence no delta. Ties go to the lowest index.

    Args:
        points: `(batch_size, num_points, size)` fp32, a_i.
        affinity: `(batch_size, num_points, num_points)` fp32, the pooled A.
        seeds: `(batch_size, num_clusters)`, the points that are the first centers.

    Returns:
        `(batch_size, num_points)`, the cluster of each point; no cluster is empty.
    """
    num_clusters = seeds.shape[1]
    relation = affinity / affinity.amax(-1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    squared = points.square().sum(-1, keepdim=True)
    centers = points.gather(1, seeds[:, :, None].expand(-1, -1, points.shape[-1]))
    penalty: torch.Tensor | float = 0.0
    for _ in range(iterations):
        distances = squared + centers.square().sum(-1)[:, None] - 2 * points @ centers.transpose(1, 2)
        costs, assignments = (distances + penalty).min(-1)
        members = F.one_hot(assignments, num_clusters)
        if torch.compiler.is_compiling() or bool((members.sum(1) == 0).any()):
            assignments = fill_empty_clusters(assignments, costs, num_clusters)
            members = F.one_hot(assignments, num_clusters)
        average = members / members.sum(1, keepdim=True)  # each column averages over one cluster's members
        centers = average.transpose(1, 2) @ points
        penalty = relation_weight * (1 - relation @ average) if relation_weight else 0.0
    return assignments


def cluster_scores(
    points: torch.Tensor,
    assignments: torch.Tensor,
    num_clusters: int,
    grid: tuple[int, int],
    weights: tuple[float, float, float],
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
    """
    members = F.one_hot(assignments, num_clusters).to(points.dtype)
    sizes = members.sum(1)
    average = (members / sizes[:, None]).transpose(1, 2)
    centroids = F.normalize(average @ points, dim=-1)
    cosines = (average * (F.normalize(points, dim=-1) @ centroids.transpose(1, 2)).transpose(1, 2)).sum(-1)
    cosines = torch.where(sizes == 1, 1, cosines)  # exactly, or rounding would order the clusters of one patch
    rows, columns = (torch.arange(edge, device=points.device, dtype=points.dtype) for edge in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    offsets = places - (average @ places)[:, :, None]  # (batch_size, num_clusters, rows * columns, 2)
    dispersion = (average * offsets.square().sum(-1)).sum(-1) / (grid[0] ** 2 + grid[1] ** 2)
    return weights[0] * sizes / points.shape[1] + weights[1] * cosines - weights[2] * dispersion


class IdentityLinear(nn.Linear):
    """
    A linear layer that the model initialises to the identity. A class of its own because the library initialises only
    modules that hold parameters themselves: the aggregation, which holds none, is never asked.
    """


class AdaptiveTokenAggregation(nn.Module):
    """
    Turns an image's patches into a few semantic tokens at one of the configured levels (paper section 3.2.2).

    All images of a batch are aggregated together, whatever their levels. The result is deterministic; gradients reach
    the patches through the means and the refinement, the choice of clusters has none.
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
        levels = range(len(self.config.levels))
        if torch.compiler.is_compiling():  # static shapes: every level for every image, then a choice
            check_levels_fit(self.config.levels, grid)
            per_level = [self._aggregate(level, patch_tokens, affinity, grid, seeds, iterations) for level in levels]
            images = torch.arange(len(patch_tokens), device=patch_tokens.device)
            chosen = [torch.stack(parts)[granularity, images] for parts in zip(*per_level, strict=True)]
        else:
            parts, places = [], []
            for level in granularity.unique().tolist():
                check_levels_fit(self.config.levels[level : level + 1], grid)
                images = (granularity == level).nonzero().squeeze(1)
                subset = (
                    (patch_tokens, affinity, seeds)
                    if len(images) == len(patch_tokens)
                    else (
                        patch_tokens[images],
                        affinity[images],
                        None if seeds is None else seeds[images],
                    )
                )
                parts.append(self._aggregate(level, *subset[:2], grid, subset[2], iterations))
                places.append(images)
            back = torch.cat(places).argsort()
            chosen = [torch.cat(part)[back] for part in zip(*parts, strict=True)]
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
        """One level for a whole batch: the fields of `AggregationOutput`, its tokens not yet refined."""
        config, level = self.config, self.config.levels[index]
        pool, num_clusters, num_tokens = level["pool"], level["clusters"], level["tokens"]
        pooled_grid = pooled_size(grid, pool)
        region_tokens = pool_tokens(patch_tokens, grid, pool)
        with torch.no_grad(), torch.autocast(patch_tokens.device.type, enabled=False):
            features = F.normalize(region_tokens.float(), dim=-1)
            relation = pool_affinity(affinity.float(), grid, pool)
            points = features if config.cluster_features == "features" else relation
            if seeds is None:
                seeds = farthest_first_seeds(points, features, num_clusters)
            clusters = cluster_points(
                points,
                relation,
                seeds[:, :num_clusters],
                config.relation_weight,
                config.kmeans_iterations if iterations is None else iterations,
            )
            weights = (config.size_weight, config.cohesion_weight, config.dispersion_weight)
            scores = cluster_scores(points, clusters, num_clusters, pooled_grid, weights)
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
