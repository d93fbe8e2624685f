"""
What answers are worth: metrics as `evaluate` modules, read from this folder with no network.

`load("pope")` is `evaluate.load` with the path of `pope.py` beside this file. `evaluate` copies that one script into
its cache, so a script imports what it shares with others from the installed package.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import evaluate


NAMES = (
    "acc_iou",
    "anls",
    "aokvqa_direct",
    "bertscore",
    "bleu",
    "cider",
    "mmvp",
    "multiple_choice",
    "pope",
    "relaxed_accuracy",
    "rouge_l",
    "token_recall",
    "vqa_accuracy",
)


def path(name: str) -> str:
    """Where the script of a metric lies: what `evaluate.load` takes."""
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r}. The metrics are {', '.join(NAMES)}.")
    return str(Path(__file__).with_name(f"{name}.py"))


def load(name: str, **options: Any) -> "evaluate.Metric":
    """
    The metric of that name, one of `NAMES`.

    Args:
        options: of `evaluate.load`, such as `num_process`. Rows are kept in memory unless several processes share
        them.

    Raises:
        ValueError: an unknown name.
        ImportError: the extra `eval` is not installed, or not all of it.
    """
    script = path(name)
    try:
        import evaluate
    except ImportError as error:
        raise ImportError("Metrics need the `evaluate` library: pip install 'granulon[eval]'.") from error
    options.setdefault("keep_in_memory", options.get("num_process", 1) == 1)
    return evaluate.load(script, **options)
