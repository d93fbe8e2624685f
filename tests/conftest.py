"""Settings of every test; being here also puts this folder on the path, so that tests can `import tiny`."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same state of torch's generator, whichever tests ran before it."""
    torch.manual_seed(0)
