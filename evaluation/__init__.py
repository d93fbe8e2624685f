"""Measuring answers: accuracies with intervals that respect what was sampled together."""
