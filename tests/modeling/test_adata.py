"""
Adaptive token aggregation: each step of Eq. 8-11 against slow loops in double precision, and the laws it obeys.

The loops (`slow_*`) work on plain lists for one image and know nothing of batches, masks or padding.
"""

import math
import random
from typing import Any

import pytest
import tiny
import torch

from transformers import DINOv3ViTConfig

from granulon import GranulonConfig
from granulon.modeling_granulon import adata_granulon
from granulon.modeling_granulon.adata_granulon import (
    AdaptiveTokenAggregation,
    AggregationOutput,
    cluster_points,
    cluster_scores,
    farthest_first_seeds,
    fill_empty_clusters,
    group_images,
    join_groups,
    pool_affinity,
    pool_tokens,
    split_into_groups,
    window_of_patch,
)


Matrix = list[list[float]]

HIDDEN_SIZE = 12
GRID = (5, 7)
NUM_PATCHES = math.prod(GRID)
LEVELS = [
    {"name": "coarse", "pool": 3, "clusters": 4, "tokens": 3},
    {"name": "medium", "pool": 2, "clusters": 6, "tokens": 6},
    {"name": "fine", "pool": 1, "clusters": 13, "tokens": 9},
]
FIELDS = ("tokens", "token_mask", "selected", "assignments", "scores")


def make_aggregator(**config: Any) -> AdaptiveTokenAggregation:
    """With the refinement at its initial value, the identity."""
    config.setdefault("levels", LEVELS)
    vision = DINOv3ViTConfig(hidden_size=HIDDEN_SIZE, num_attention_heads=4, image_size=56, patch_size=8)
    aggregator = AdaptiveTokenAggregation(GranulonConfig(vision_config=vision, **config))
    torch.nn.init.eye_(aggregator.refinement.weight)
    torch.nn.init.zeros_(aggregator.refinement.bias)
    return aggregator


def make_patches(num_images: int = 1, seed: int = 0, num_patches: int = NUM_PATCHES) -> torch.Tensor:
    """Patches scattered around a few centers, as the patches of a picture are."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_images, 5, HIDDEN_SIZE, generator=generator)
    chosen = torch.randint(5, (num_images, num_patches), generator=generator)
    noise = torch.randn(num_images, num_patches, HIDDEN_SIZE, generator=generator)
    return centers[torch.arange(num_images)[:, None], chosen] + 1.5 * noise


def make_attention(num_images: int = 1, seed: int = 0, num_patches: int = NUM_PATCHES) -> torch.Tensor:
    """A row-stochastic relation, far from symmetric."""
    generator = torch.Generator().manual_seed(100 + seed)
    return (1.5 * torch.randn(num_images, num_patches, num_patches, generator=generator)).softmax(-1)


def make_similarity(patches: torch.Tensor) -> torch.Tensor:
    features = torch.nn.functional.normalize(patches, dim=-1)
    return features @ features.transpose(1, 2)


def run(
    aggregator: AdaptiveTokenAggregation,
    patches: torch.Tensor,
    affinity: torch.Tensor,
    levels: list[int],
    **given: Any,
) -> AggregationOutput:
    return aggregator(patches, affinity, torch.tensor(levels), GRID, **given)


def assert_same(found: AggregationOutput, expected: AggregationOutput) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5, msg=name)


# ---------------------------------------------------------------------- the equations, slowly


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def mean_of(vectors: Matrix) -> list[float]:
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def cosine(left: list[float], right: list[float]) -> float:
    return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))


def squared_distance(left: list[float], right: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def slow_windows(grid: tuple[int, int], pool: int) -> list[list[int]]:
    """The patches of each pooled patch, row-major."""
    windows = []
    for top in range(0, grid[0], pool):
        for left in range(0, grid[1], pool):
            rows = range(top, min(top + pool, grid[0]))
            columns = range(left, min(left + pool, grid[1]))
            windows.append([row * grid[1] + column for row in rows for column in columns])
    return windows


def slow_pooled_affinity(affinity: Matrix, windows: list[list[int]]) -> Matrix:
    """K^T A K: rows averaged, columns summed."""
    return [
        [sum(affinity[i][j] for i in rows for j in columns) / len(rows) for columns in windows] for rows in windows
    ]


def slow_seeds(points: Matrix, features: Matrix, num_clusters: int) -> list[int]:
    means = [sum(cosine(feature, other) for other in features) for feature in features]
    seeds = [means.index(max(means))]
    while len(seeds) < num_clusters:
        gaps = [
            -1.0 if i in seeds else min(squared_distance(point, points[s]) for s in seeds)
            for i, point in enumerate(points)
        ]
        seeds.append(gaps.index(max(gaps)))
    return seeds


def slow_fill(assignments: list[int], costs: list[float], num_clusters: int) -> list[int]:
    """An empty cluster takes the worst-fitting token that leaves no other cluster empty."""
    filled, moved = list(assignments), set()
    for cluster in range(num_clusters):
        if cluster in filled:
            continue
        free = [i for i in range(len(filled)) if filled.count(filled[i]) > 1 and i not in moved]
        worst = max(free, key=lambda i: (costs[i], -i))
        filled[worst] = cluster
        moved.add(worst)
    return filled


def slow_clusters(points: Matrix, affinity: Matrix, seeds: list[int], weight: float, iterations: int) -> list[int]:
    num_clusters, num_points = len(seeds), len(points)
    centers = [points[seed] for seed in seeds]
    assignments: list[int] = []
    for iteration in range(iterations):
        costs, chosen = [], []
        for i in range(num_points):
            row = []
            for j in range(num_clusters):
                delta = 0.0
                if iteration > 0:
                    members = [m for m in range(num_points) if assignments[m] == j]
                    delta = 1 - sum(affinity[i][m] / max(affinity[i]) for m in members) / len(members)
                row.append(squared_distance(points[i], centers[j]) + weight * delta)
            costs.append(min(row))
            chosen.append(row.index(min(row)))
        assignments = slow_fill(chosen, costs, num_clusters)
        centers = [mean_of([points[i] for i in range(num_points) if assignments[i] == j]) for j in range(num_clusters)]
    return assignments


def slow_scores(
    points: Matrix, assignments: list[int], num_clusters: int, grid: tuple[int, int], weights: tuple[float, ...]
) -> list[float]:
    scores = []
    for cluster in range(num_clusters):
        members = [i for i, assigned in enumerate(assignments) if assigned == cluster]
        centroid = mean_of([points[i] for i in members])
        cohesion = sum(cosine(points[i], centroid) for i in members) / len(members)
        places = [[float(i // grid[1]), float(i % grid[1])] for i in members]
        spread = sum(squared_distance(place, mean_of(places)) for place in places) / len(members)
        dispersion = spread / (grid[0] ** 2 + grid[1] ** 2)
        scores.append(weights[0] * len(members) / len(points) + weights[1] * cohesion - weights[2] * dispersion)
    return scores


def slow_aggregation(
    patches: torch.Tensor, affinity: torch.Tensor, level: dict[str, Any], config: GranulonConfig
) -> tuple[list[int], list[float], list[int], Matrix]:
    """Assignments of patches, scores, selected clusters and tokens of one image."""
    windows = slow_windows(GRID, level["pool"])
    values = patches.double().tolist()
    regions = [mean_of([values[i] for i in window]) for window in windows]
    features = [[x / math.sqrt(dot(region, region)) for x in region] for region in regions]
    relation = slow_pooled_affinity(affinity.double().tolist(), windows)
    points = features if config.cluster_features == "features" else relation
    seeds = slow_seeds(points, features, level["clusters"])
    clusters = slow_clusters(points, relation, seeds, config.relation_weight, config.kmeans_iterations)
    pooled_grid = (math.ceil(GRID[0] / level["pool"]), math.ceil(GRID[1] / level["pool"]))
    weights = (config.size_weight, config.cohesion_weight, config.dispersion_weight)
    scores = slow_scores(points, clusters, level["clusters"], pooled_grid, weights)
    selected = sorted(range(level["clusters"]), key=lambda j: (-scores[j], j))[: level["tokens"]]
    tokens = [mean_of([regions[i] for i, assigned in enumerate(clusters) if assigned == j]) for j in selected]
    assignments = [next(clusters[w] for w, window in enumerate(windows) if i in window) for i in range(NUM_PATCHES)]
    return assignments, scores, selected, tokens


# ---------------------------------------------------------------------- (a) pooling, Eq. 8


@pytest.mark.parametrize("grid", [(5, 7), (6, 6), (1, 4), (3, 2)])
@pytest.mark.parametrize("pool", [1, 2, 3, 4])
def test_pooling_equals_the_loops(grid: tuple[int, int], pool: int):
    num_patches = math.prod(grid)
    patches, affinity = make_patches(2, num_patches=num_patches), make_attention(2, num_patches=num_patches)
    windows = slow_windows(grid, pool)
    pooled, relation = pool_tokens(patches, grid, pool), pool_affinity(affinity, grid, pool)
    for image in range(2):
        values = patches[image].double().tolist()
        expected = torch.tensor([mean_of([values[i] for i in window]) for window in windows])
        torch.testing.assert_close(pooled[image], expected)
        expected = torch.tensor(slow_pooled_affinity(affinity[image].double().tolist(), windows))
        torch.testing.assert_close(relation[image], expected)
    of_patch = window_of_patch(grid, pool, patches.device).tolist()
    assert all(i in windows[of_patch[i]] for i in range(num_patches))


@pytest.mark.parametrize("pool", [2, 3, 4])
def test_pooled_attention_stays_row_stochastic(pool: int):
    relation = pool_affinity(make_attention(2), GRID, pool)
    assert bool((relation > 0).all())
    torch.testing.assert_close(relation.sum(-1), torch.ones(relation.shape[:2]))


def test_pooling_with_edge_one_is_exactly_the_identity():
    patches, affinity = make_patches(), make_attention()
    assert torch.equal(pool_tokens(patches, GRID, 1), patches)
    assert torch.equal(pool_affinity(affinity, GRID, 1), affinity)


# ---------------------------------------------------------------------- (b) clustering, Eq. 9


def test_seeding_equals_the_loops():
    patches = make_patches(3)
    features = torch.nn.functional.normalize(patches, dim=-1)
    found = farthest_first_seeds(features, features, 9)
    for image in range(3):
        rows = features[image].double().tolist()
        assert found[image].tolist() == slow_seeds(rows, rows, 9)


def test_seeds_are_distinct_and_ties_go_to_the_lowest_index():
    points = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    assert farthest_first_seeds(points, points, 5).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("iterations", [1, 2, 8])
def test_clustering_equals_the_loops(weight: float, iterations: int):
    points, affinity = torch.nn.functional.normalize(make_patches(2), dim=-1), make_attention(2)
    seeds = torch.tensor([[3, 11, 20, 5, 30, 8], [0, 1, 2, 3, 4, 5]])
    found = cluster_points(points, affinity, seeds, weight, iterations)
    for image in range(2):
        rows = (points[image].double().tolist(), affinity[image].double().tolist(), seeds[image].tolist())
        assert found[image].tolist() == slow_clusters(*rows, weight, iterations)


def test_the_relation_changes_clusters_only_from_the_second_step_on():
    points, affinity = torch.nn.functional.normalize(make_patches(), dim=-1), make_attention()
    seeds = torch.tensor([[3, 11, 20, 5]])
    plain = [cluster_points(points, affinity, seeds, 0.0, steps) for steps in (1, 2)]
    related = [cluster_points(points, affinity, seeds, 5.0, steps) for steps in (1, 2)]
    assert torch.equal(plain[0], related[0])
    assert not torch.equal(plain[1], related[1])


def test_an_empty_cluster_takes_the_worst_fitting_token():
    assignments = torch.tensor([[0, 0, 0, 2, 2, 2], [0, 2, 2, 2, 2, 3]])
    costs = torch.tensor([[0.1, 0.9, 0.3, 0.2, 0.4, 0.8], [9.0, 0.2, 0.6, 0.6, 0.1, 8.0]])
    assert fill_empty_clusters(assignments, costs, 4).tolist() == [[0, 1, 0, 2, 2, 3], [0, 2, 1, 2, 2, 3]]


def test_filling_equals_the_loops():
    generator = torch.Generator().manual_seed(0)
    assignments = torch.randint(4, (40, 12), generator=generator) * 2
    costs = torch.randint(5, (40, 12), generator=generator).float()  # many ties
    found = fill_empty_clusters(assignments, costs, 9)
    for row in range(40):
        assert found[row].tolist() == slow_fill(assignments[row].tolist(), costs[row].tolist(), 9)
        assert set(found[row].tolist()) == set(range(9))


def test_equal_seeds_leave_no_cluster_empty():
    patches, affinity = make_patches(), make_attention()
    seeds = torch.tensor([[4, 4, 4, 9]])
    found = cluster_points(patches, affinity, seeds, 0.5, 3)
    assert found.unique().tolist() == [0, 1, 2, 3]
    rows = (patches[0].double().tolist(), affinity[0].double().tolist(), [4, 4, 4, 9])
    assert found[0].tolist() == slow_clusters(*rows, 0.5, 3)


def test_a_fixed_point_ends_the_iterations_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    points, affinity = torch.nn.functional.normalize(make_patches(6), dim=-1), make_attention(6)
    seeds = torch.tensor([[3, 11, 20, 5, 30, 8], [0, 1, 2, 3, 4, 5], [4, 4, 4, 9, 9, 9]] * 2)
    found = {steps: cluster_points(points, affinity, seeds, 0.5, steps) for steps in (1, 2, 3, 8, 10**9)}
    monkeypatch.setattr(adata_granulon, "may_look", lambda values: False)  # as on a GPU: all steps, always filling
    for steps, expected in found.items():
        assert torch.equal(cluster_points(points, affinity, seeds, 0.5, min(steps, 50)), expected), steps


# ---------------------------------------------------------------------- (c) selection, Eq. 10-11


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.7, 1.3, 2.0)])
def test_scores_equal_the_loops(weights: tuple[float, float, float]):
    patches = make_patches(2)
    assignments = cluster_points(patches, make_attention(2), torch.tensor([[3, 11, 20, 5]] * 2), 0.5, 4)
    found = cluster_scores(patches, assignments, 4, GRID, weights)
    for image in range(2):
        expected = slow_scores(patches[image].double().tolist(), assignments[image].tolist(), 4, GRID, weights)
        torch.testing.assert_close(found[image], torch.tensor(expected))


def test_members_that_cancel_out_have_a_cohesion_that_is_a_cosine():
    ray = make_patches()[:, :1]
    points = torch.nn.functional.normalize(torch.cat([ray, -ray, ray, -ray * (1 + 1e-6), ray, ray], 1), dim=-1)
    scores = cluster_scores(points, torch.tensor([[0, 0, 1, 1, 2, 2]]), 3, (2, 3), (0.0, 1.0, 0.0))
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("relation", ["attention", "similarity"])
@pytest.mark.parametrize("cluster_features", ["features", "affinity"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_aggregation_equals_the_loops(level: int, cluster_features: str, relation: str):
    aggregator = make_aggregator(cluster_features=cluster_features, affinity=relation, dispersion_weight=2.0)
    patches = make_patches(seed=level)
    affinity = make_attention(seed=level) if relation == "attention" else make_similarity(patches)
    output = run(aggregator, patches, affinity, [level])
    assignments, scores, selected, tokens = slow_aggregation(patches[0], affinity[0], LEVELS[level], aggregator.config)
    clusters, kept = LEVELS[level]["clusters"], LEVELS[level]["tokens"]
    assert output.assignments[0].tolist() == assignments
    assert output.selected[0, :kept].tolist() == selected
    torch.testing.assert_close(output.scores[0, :clusters], torch.tensor(scores))
    torch.testing.assert_close(output.tokens[0, :kept], torch.tensor(tokens))


def test_the_configured_number_of_iterations_is_what_runs():
    patches, affinity = make_patches(seed=5), make_attention(seed=5)
    outputs = {steps: run(make_aggregator(kmeans_iterations=steps), patches, affinity, [2]) for steps in (1, 8)}
    assert not torch.equal(outputs[1].assignments, outputs[8].assignments)
    for steps, expected in outputs.items():
        assert_same(run(make_aggregator(kmeans_iterations=3), patches, affinity, [2], iterations=steps), expected)


def test_given_seeds_replace_the_seeding():
    aggregator, patches, affinity = make_aggregator(), make_patches(), make_attention()
    features = torch.nn.functional.normalize(pool_tokens(patches, GRID, 2), dim=-1)
    own = farthest_first_seeds(features, features, 6)
    assert_same(run(aggregator, patches, affinity, [1], seeds=own), run(aggregator, patches, affinity, [1]))
    other = run(aggregator, patches, affinity, [1], seeds=torch.arange(6)[None])
    assert not torch.equal(other.assignments, run(aggregator, patches, affinity, [1]).assignments)


def test_the_refinement_starts_as_the_identity_and_acts_on_used_tokens_only():
    model, _ = tiny.make_granulon()
    refinement = model.model.token_aggregator.refinement
    assert torch.equal(refinement.weight, torch.eye(len(refinement.weight)))
    assert not bool(refinement.bias.any())
    aggregator, patches, affinity = make_aggregator(), make_patches(2), make_attention(2)
    plain = run(aggregator, patches, affinity, [0, 2])
    torch.nn.init.normal_(aggregator.refinement.weight)
    torch.nn.init.normal_(aggregator.refinement.bias)
    refined = run(aggregator, patches, affinity, [0, 2])
    expected = aggregator.refinement(plain.tokens[plain.token_mask])
    torch.testing.assert_close(refined.tokens[refined.token_mask], expected)
    assert not bool(refined.tokens[~refined.token_mask].any())


# ---------------------------------------------------------------------- laws


def test_every_level_emits_exactly_its_tokens():
    aggregator = make_aggregator()
    output = run(aggregator, make_patches(3), make_attention(3), [2, 0, 1])
    assert output.tokens.shape == (3, 9, HIDDEN_SIZE)
    assert output.scores.shape == (3, 13)
    for image, level in enumerate((2, 0, 1)):
        clusters, kept = LEVELS[level]["clusters"], LEVELS[level]["tokens"]
        assert output.token_mask[image].tolist() == [True] * kept + [False] * (9 - kept)
        assert len(set(output.selected[image, :kept].tolist())) == kept
        assert output.selected[image, kept:].tolist() == [-1] * (9 - kept)
        assert output.assignments[image].unique().tolist() == list(range(clusters))
        assert bool(output.scores[image, :clusters].isfinite().all())
        assert bool((output.scores[image, clusters:] == -math.inf).all())
        chosen = output.scores[image, output.selected[image, :kept]]
        assert bool((chosen[:-1] >= chosen[1:]).all())
        assert not bool(output.tokens[image, kept:].any())
        assert bool(output.tokens[image, :kept].any(-1).all())


@pytest.mark.parametrize("cluster_features", ["features", "affinity"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_constant_patches_come_back_constant(level: int, cluster_features: str):
    patches = make_patches()[:, :1].expand(-1, NUM_PATCHES, -1)
    affinity = torch.full((1, NUM_PATCHES, NUM_PATCHES), 1 / NUM_PATCHES)
    output = run(make_aggregator(cluster_features=cluster_features), patches, affinity, [level])
    kept, clusters = LEVELS[level]["tokens"], LEVELS[level]["clusters"]
    torch.testing.assert_close(output.tokens[:, :kept], patches[:, :kept])
    assert output.assignments.unique().tolist() == list(range(clusters))


def test_black_patches_and_one_hot_attention_stay_finite():
    output = run(
        make_aggregator(), torch.zeros(2, NUM_PATCHES, HIDDEN_SIZE), torch.eye(NUM_PATCHES).repeat(2, 1, 1), [0, 2]
    )
    assert not bool(output.tokens.any())
    for image, level in enumerate((0, 2)):
        assert bool(output.scores[image, : LEVELS[level]["clusters"]].isfinite().all())


def test_permuting_patches_permutes_assignments_and_nothing_else():
    aggregator = make_aggregator(dispersion_weight=0)
    patches, affinity, seeds = make_patches(), make_attention(), torch.randperm(NUM_PATCHES)[None, :13]
    order = torch.randperm(NUM_PATCHES)
    place = order.argsort()  # where each patch went
    for given, permuted in ({}, {}), ({"seeds": seeds}, {"seeds": place[seeds]}):
        plain = run(aggregator, patches, affinity, [2], **given)
        other = run(aggregator, patches[:, order], affinity[:, order][:, :, order], [2], **permuted)
        assert torch.equal(other.assignments, plain.assignments[:, order])
        assert torch.equal(other.selected, plain.selected)
        torch.testing.assert_close(other.tokens, plain.tokens)
        torch.testing.assert_close(other.scores, plain.scores)


@pytest.mark.parametrize("levels", [[1, 1, 1], [2, 0, 2], [1, 2, 0]])
def test_a_batch_equals_its_images_one_by_one(levels: list[int]):
    aggregator, patches, affinity = make_aggregator(), make_patches(3), make_attention(3)
    batch = run(aggregator, patches, affinity, levels)
    for image, level in enumerate(levels):
        alone = run(aggregator, patches[image : image + 1], affinity[image : image + 1], [level])
        assert_same(AggregationOutput(*(getattr(batch, name)[image : image + 1] for name in FIELDS)), alone)


@pytest.mark.parametrize("cluster_features", ["features", "affinity"])
@pytest.mark.parametrize("levels", [[2] * 9, [1, 2, 0, 2, 2, 1, 0, 2, 1]])
def test_a_batch_has_the_very_clusters_of_its_images(levels: list[int], cluster_features: str):
    """To the last bit, though images of 35 patches begin anywhere between a batch's aligned addresses."""
    aggregator = make_aggregator(cluster_features=cluster_features)
    patches, affinity = make_patches(9, seed=7), make_attention(9, seed=7)
    batch = run(aggregator, patches, affinity, levels)
    for image, level in enumerate(levels):
        alone = run(aggregator, patches[image : image + 1].clone(), affinity[image : image + 1].clone(), [level])
        for name in ("assignments", "selected", "scores"):
            assert torch.equal(getattr(batch, name)[image], getattr(alone, name)[0]), name


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # only named: how a GPU's images would be grouped
@pytest.mark.parametrize("levels", [[0], [1, 1, 1], [2, 0, 2, 1, 0], [0, 1, 1, 2]])
def test_groups_hold_each_image_once_and_join_in_order(levels: list[int], device: str):
    groups = group_images(levels, torch.device(device))
    assert sorted(sum(groups, [])) == list(range(len(levels)))
    assert all(len({levels[image] for image in images}) == 1 for images in groups)
    assert len(groups) == (len(levels) if device == "cpu" else len(set(levels)))
    values = torch.randn(len(levels), 3)
    parts = split_into_groups(values, groups)
    assert all(torch.equal(part, values[images]) for part, images in zip(parts, groups, strict=True))
    assert torch.equal(join_groups(parts, groups), values)
    assert split_into_groups(None, groups) == [None] * len(groups)


def test_chance_plays_no_part_and_is_left_alone():
    aggregator, patches, affinity = make_aggregator(), make_patches(2), make_attention(2)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        states = torch.get_rng_state(), random.getstate()
        outputs.append(run(aggregator, patches, affinity, [0, 2]))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
    assert all(torch.equal(getattr(outputs[0], name), getattr(outputs[1], name)) for name in FIELDS)


def test_inputs_are_left_as_they_were():
    patches, affinity = make_patches(2), make_attention(2)
    before = patches.clone(), affinity.clone()
    run(make_aggregator(), patches, affinity, [0, 2])
    assert torch.equal(patches, before[0])
    assert torch.equal(affinity, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tokens_follow_the_dtype_of_the_patches(dtype: torch.dtype):
    aggregator = make_aggregator().to(dtype)
    patches, affinity = make_patches(2).to(dtype), make_attention(2)
    output = run(aggregator, patches, affinity, [0, 2])
    assert output.tokens.dtype == dtype
    assert output.scores.dtype == torch.float32
    reference = run(make_aggregator(), patches.float(), affinity, [0, 2])
    if dtype != torch.float64:  # clusters are found in fp32, from the same values up to the pooling's rounding
        assert torch.equal(output.assignments[1], reference.assignments[1])
        assert torch.equal(output.selected[1], reference.selected[1])
    torch.testing.assert_close(output.tokens.float()[1], reference.tokens[1], atol=2e-2, rtol=2e-2)


def test_autocast_changes_no_cluster():
    aggregator, patches, affinity = make_aggregator(), make_patches(2), make_attention(2)
    plain = run(aggregator, patches, affinity, [0, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(aggregator, patches, affinity, [0, 2])
    for name in ("assignments", "selected", "scores"):
        assert torch.equal(getattr(output, name), getattr(plain, name)), name


@pytest.mark.gpu
def test_a_gpu_agrees_and_keeps_its_tensors():
    aggregator, patches, affinity = make_aggregator(), make_patches(2), make_attention(2)
    expected = run(aggregator, patches, affinity, [0, 2])
    output = aggregator.cuda()(patches.cuda(), affinity.cuda(), torch.tensor([0, 2]).cuda(), GRID)
    assert all(getattr(output, name).is_cuda for name in FIELDS)
    assert_same(AggregationOutput(*(getattr(output, name).cpu() for name in FIELDS)), expected)


# ---------------------------------------------------------------------- gradients


def test_each_patch_gets_its_share_of_its_tokens_gradient():
    aggregator, patches, affinity = make_aggregator(), make_patches().requires_grad_(), make_attention()
    output = run(aggregator, patches, affinity, [2])
    output.tokens.sum().backward()
    clusters, kept = output.assignments[0], set(output.selected[0].tolist())
    shares = [1 / int((clusters == c).sum()) if c in kept else 0.0 for c in clusters.tolist()]
    torch.testing.assert_close(patches.grad[0], torch.tensor(shares)[:, None].expand(-1, HIDDEN_SIZE))
    assert 0.0 in shares


def test_the_refinement_gets_a_gradient_from_used_tokens_only():
    aggregator, patches, affinity = make_aggregator(), make_patches(2), make_attention(2)
    output = run(aggregator, patches, affinity, [0, 2])
    output.tokens.sum().backward()
    assert bool(aggregator.refinement.weight.grad.any())
    torch.testing.assert_close(aggregator.refinement.bias.grad, torch.full((HIDDEN_SIZE,), 3.0 + 9.0))


# ---------------------------------------------------------------------- compiled


def test_compiled_equals_eager_for_every_mix_of_levels():
    aggregator = make_aggregator(kmeans_iterations=3)
    compiled = torch.compile(aggregator, fullgraph=True, backend="aot_eager")
    torch.nn.init.normal_(aggregator.refinement.weight)
    patches, affinity = make_patches(3).requires_grad_(), make_attention(3)

    def compare(levels: list[int]) -> None:
        outputs = [run(function, patches, affinity, levels) for function in (compiled, aggregator)]
        assert_same(*outputs)
        wanted = (patches, aggregator.refinement.weight)
        gradients = [torch.autograd.grad(output.tokens.square().sum(), wanted) for output in outputs]
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    compare([2, 0, 1])
    with torch.compiler.set_stance("fail_on_recompile"):
        compare([0, 0, 0])
        compare([1, 2, 2])


# ---------------------------------------------------------------------- grids that do not fit


@pytest.mark.parametrize(("level", "is_refused"), [(0, False), (1, False), (2, True)])
def test_a_smaller_grid_than_a_level_needs_is_refused(level: int, is_refused: bool):
    aggregator, grid = make_aggregator(), (3, 4)
    patches, affinity = make_patches(num_patches=12), make_attention(num_patches=12)
    levels = [
        {"name": "a", "pool": 2, "clusters": 2, "tokens": 2},
        {"name": "b", "pool": 1, "clusters": 12, "tokens": 2},
    ]
    aggregator.config.levels = [{**one, "pixel_pool": 1} for one in levels] + aggregator.config.levels[2:]
    if is_refused:
        with pytest.raises(ValueError, match="`fine` forms 13 clusters.*3 x 4 grid.*only 12 pooled patches"):
            aggregator(patches, affinity, torch.tensor([level]), grid)
    else:
        output = aggregator(patches, affinity, torch.tensor([level]), grid)
        assert int(output.token_mask.sum()) == 2


# ---------------------------------------------------------------------- the authors' released code


def slow_lloyd(points: Matrix, seeds: list[int]) -> list[int]:
    """Plain k-means from given seeds until nothing moves."""
    centers, assignments = [points[seed] for seed in seeds], None
    while True:
        distances = [[squared_distance(point, center) for center in centers] for point in points]
        chosen = [row.index(min(row)) for row in distances]
        if chosen == assignments:
            return chosen
        assignments = chosen
        members = [[point for point, c in zip(points, chosen, strict=True) if c == j] for j in range(len(centers))]
        centers = [mean_of(group) if group else center for group, center in zip(members, centers, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_the_released_code_is_a_special_case(seed: int):
    """Five clusters of the rows of the cosine similarity matrix; a token is the mean of its cluster's features."""
    aggregator = make_aggregator(
        levels=[{"name": "released", "pool": 1, "clusters": 5, "tokens": 5}],
        affinity="similarity",
        cluster_features="affinity",
        relation_weight=0,
    )
    patches = make_patches(seed=seed)
    seeds = torch.randperm(NUM_PATCHES, generator=torch.Generator().manual_seed(seed))[None, :5]
    output = run(aggregator, patches, make_similarity(patches), [0], seeds=seeds, iterations=100)

    rows = patches[0].double().tolist()
    assignments = slow_lloyd([[cosine(row, other) for other in rows] for row in rows], seeds[0].tolist())
    assert len(set(assignments)) == 5
    assert output.assignments[0].tolist() == assignments
    tokens = torch.tensor([mean_of([rows[i] for i, c in enumerate(assignments) if c == j]) for j in range(5)])
    torch.testing.assert_close(output.tokens[0][output.selected[0].argsort()], tokens)
