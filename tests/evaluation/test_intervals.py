"""Bootstrap intervals: what they cover, and that whole groups are resampled."""

import pytest
import torch

from granulon.evaluation.intervals import Interval, bootstrap_interval


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for trial in range(200):
        scores = (torch.rand(150, generator=generator) < 0.7).double().tolist()
        interval = bootstrap_interval(scores, range(150), resamples=400, seed=trial)
        covered += interval.low <= 0.7 <= interval.high
    assert 180 <= covered <= 200


def test_questions_about_one_image_count_as_one_piece_of_evidence():
    scores = [float(image % 2) for image in range(40) for _ in range(25)]
    together = bootstrap_interval(scores, [image for image in range(40) for _ in range(25)])
    apart = bootstrap_interval(scores, range(1000))
    assert together.mean == apart.mean == 0.5
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_groups_of_other_sizes_weigh_as_they_count():
    interval = bootstrap_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert interval.mean == 0.75 and interval.low == 0.0 and interval.high == 1.0


def test_certainty_has_no_width_and_repeats():
    assert bootstrap_interval([1.0, 1.0], ["a", "b"]) == (1.0, 1.0, 1.0)
    scores = torch.rand(50, generator=torch.Generator().manual_seed(1)).tolist()
    assert bootstrap_interval(scores, range(50)) == bootstrap_interval(scores, range(50))


def test_how_it_prints():
    assert f"{Interval(0.8123, 0.801, 0.823)}" == "81.2 [80.1, 82.3]"
    assert f"{Interval(0.05, -0.01, 0.11):+}" == "+5.0 [-1.0, +11.0]"


@pytest.mark.parametrize(("scores", "groups"), [([], []), ([1.0], ["a", "b"])])
def test_nothing_to_average_is_refused(scores: list[float], groups: list[str]):
    with pytest.raises(ValueError, match="as many groups as scores"):
        bootstrap_interval(scores, groups)
