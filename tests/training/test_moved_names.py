"""Modules that moved into rooms can be imported by their former names."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("annotate", "prepare.annotate"),
        ("feedback", "controller.feedback"),
        ("flux_reason", "prepare.flux_reason"),
    ],
)
def test_a_former_name_gives_the_same_objects(former: str, present: str):
    old, new = (importlib.import_module(f"granulon.training.{name}") for name in (former, present))
    assert old.__all__ and all(getattr(old, name) is getattr(new, name) for name in old.__all__)
