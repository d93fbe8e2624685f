"""Fixtures that several tests of training share."""

import datasets
import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """What is remembered of images and of tables stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
