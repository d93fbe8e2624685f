"""The former name of `granulon.training.controller.feedback`."""

from granulon.training.controller.feedback import (
    LevelScores,
    evaluate_choices,
    fit_ranking,
    learn_from_feedback,
    ranking_loss,
    score_levels,
)


__all__ = ["LevelScores", "evaluate_choices", "fit_ranking", "learn_from_feedback", "ranking_loss", "score_levels"]
