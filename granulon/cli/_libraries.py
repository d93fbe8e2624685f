"""What verbs ask of the libraries that they import when they run."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """
    Around imports that need an optional group of dependencies.

    Raises:
        click.ClickException: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("granulon"):
            raise
        raise click.ClickException(f"this needs {error.name}. Run `pip install 'granulon[{name}]'`.") from error


def quieten() -> None:
    """Libraries tell errors only, not each attempt to reach the Hub, and draw no bar for the weights of a model."""
    from huggingface_hub.utils import logging as hub_logging

    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
