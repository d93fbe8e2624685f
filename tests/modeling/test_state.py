"""What a call leaves on a model: nothing. Threads, copies and adapters therefore never meet."""

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model
from splice import Case, labels_of, load, trainable


def tensors_of(root: torch.nn.Module) -> list[torch.Tensor]:
    """Every tensor that can be reached from a module's attributes, through containers and objects."""
    seen, found, stack = {id(root)}, [], [root]
    while stack:
        for item in gc.get_referents(stack.pop()):
            if id(item) in seen or isinstance(item, type) or item.__class__.__name__ == "module":
                continue
            seen.add(id(item))
            if isinstance(item, torch.Tensor):
                found.append(item)  # what it refers to is its own matter
                continue
            is_container = isinstance(item, torch.nn.Module | dict | list | tuple | set)
            if is_container or (hasattr(item, "__dict__") and not callable(item)):
                stack.append(item)
    return found


def assert_idle(model: torch.nn.Module) -> None:
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    own |= {id(parameter.grad) for parameter in model.parameters() if parameter.grad is not None}
    assert [tuple(tensor.shape) for tensor in tensors_of(model) if id(tensor) not in own] == []


def test_the_walk_finds_a_tensor_that_was_left():
    model = copy.deepcopy(load().model)
    assert_idle(model)
    model.model.vision_tower.norm.left = {"deep": [torch.ones(2)]}
    with pytest.raises(AssertionError):
        assert_idle(model)


@pytest.mark.parametrize("is_reentrant", [None, False, True])
def test_no_tensor_stays_after_a_step_or_an_answer(is_reentrant: bool | None):
    case = trainable()
    case.model.requires_grad_(True)
    inputs = case.encode(case.samples())
    if is_reentrant is not None:
        case.model.activation_checkpointing_enable({"use_reentrant": is_reentrant})
        case.model.enable_input_require_grads()
    case.model(**inputs, labels=labels_of(case, inputs)).loss.backward()
    case.model.generate(**inputs, max_new_tokens=2)
    case.model.get_granularity(inputs["input_ids"], inputs["attention_mask"])
    case.model.disable_input_require_grads() if is_reentrant is not None else None
    assert_idle(case.model)
    copy.deepcopy(case.model)


def answers(case: Case, seed: int) -> list[int]:
    sample = case.samples()[seed % 6]
    return case.model.generate(**case.encode([sample]), max_new_tokens=4, do_sample=False)[0].tolist()


def test_threads_that_share_a_model_get_their_own_answers():
    case = load("qwen2", True)
    expected = [answers(case, seed) for seed in range(6)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: answers(case, seed), range(48)))
    assert found == expected * 8


def test_a_disabled_adapter_gives_the_base_model():
    """Also with the whole encoder in `modules_to_save`, which then stands twice in the model."""
    case = copy.deepcopy(load())
    inputs = case.encode(case.samples()[:2])
    with torch.no_grad():
        expected = case.model(**inputs).logits
    options = {"target_modules": r".*language_model\.layers\.1\..*q_proj", "modules_to_save": ["vision_tower"], "r": 2}
    adapted = get_peft_model(case.model, LoraConfig(**options)).eval()
    copied = adapted.get_submodule("base_model.model.model.vision_tower.modules_to_save.default")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.1)
        assert not torch.allclose(adapted(**inputs).logits, expected, atol=1e-3)
        with adapted.disable_adapter():
            assert torch.equal(adapted(**inputs).logits, expected)
