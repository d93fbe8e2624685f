"""Numbers that nothing can be trained with are refused by name, before anything is read or loaded."""

import math
from pathlib import Path

import pytest
from training_tools import make_arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", -4),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("data_seed", -1),
        ("num_train_epochs", 0),
        ("num_train_epochs", math.nan),
        ("max_steps", 0),
        ("max_steps", -3),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("max_grad_norm", math.nan),
        ("adam_beta1", 1.0),
        ("adam_epsilon", math.nan),
        ("logging_steps", 0),
        ("logging_steps", -5),
        ("max_length", 0),
        ("dataloader_num_workers", -1),
        ("save_total_limit", -1),
        ("pixel_loss_weight", math.nan),
        ("controller_loss_weight", -1.0),
        ("contribution_queue_size", 0),
    ],
)
def test_impossible_numbers(tmp_path: Path, name: str, value: float):
    with pytest.raises(ValueError, match=f"`{name}` is {value}, expected"):
        make_arguments(tmp_path, **{name: value})


def test_periods_count_only_where_something_happens_by_steps(tmp_path: Path):
    assert make_arguments(tmp_path, save_strategy="no", save_steps=0).save_steps == 0
    with pytest.raises(ValueError, match="`save_steps` is 0, expected a finite number above 0"):
        make_arguments(tmp_path, save_strategy="steps", save_steps=0)
    with pytest.raises(ValueError, match="`eval_steps` is -2"):
        make_arguments(tmp_path, eval_strategy="steps", eval_steps=-2)


@pytest.mark.parametrize("value", ["fast", None, True, [1e-4]])
def test_what_is_no_number(tmp_path: Path, value: object):
    with pytest.raises(TypeError, match="`learning_rate` is .* expected a number"):
        make_arguments(tmp_path, learning_rate=value)


def test_rates_of_components(tmp_path: Path):
    with pytest.raises(ValueError, match=r"`module_learning_rates\['lm_head'\]` is nan"):
        make_arguments(tmp_path, module_learning_rates={"lm_head": math.nan})
    with pytest.raises(ValueError, match="Did you mean 'lm_head'"):
        make_arguments(tmp_path, module_learning_rates={"lm_hed": 1e-3})


def test_bounds_are_allowed(tmp_path: Path):
    arguments = make_arguments(tmp_path, learning_rate=0.0, max_steps=-1, num_train_epochs=0.5, save_total_limit=0)
    assert (arguments.learning_rate, arguments.num_train_epochs) == (0.0, 0.5)
