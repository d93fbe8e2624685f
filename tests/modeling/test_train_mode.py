"""Losses, gradients and modes of modules in training, and what torch.compile makes of a prefill."""

import copy

import pytest
import tiny
import torch
from splice import assert_close, every_case, labels_of, load, splice_sample, text_logits, trainable


@every_case
@torch.no_grad()
def test_the_loss_of_whole_sequences_is_that_of_fixed_prompts(text: str, pooled: bool):
    """The token after an image is predicted from a used slot, because runs are filled from the right."""
    case = load(text, pooled)
    samples = case.samples()
    open_inputs = case.encode(samples, padding_side="right")
    levels = [max(sample.level, 0) for sample in samples]
    fixed_inputs = case.encode(samples, padding_side="right", granularity=levels)
    assert open_inputs["input_ids"].shape != fixed_inputs["input_ids"].shape
    losses = [case.model(**inputs, labels=labels_of(case, inputs)).loss for inputs in (open_inputs, fixed_inputs)]
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=1e-5)

    total, count = 0.0, 0
    for row, sample in enumerate(samples):
        embeds, is_text = splice_sample(case, sample)
        logits = case.bare(inputs_embeds=embeds).logits[0]
        ids = iter(labels_of(case, open_inputs)[row][labels_of(case, open_inputs)[row] >= 0].tolist())
        for place, flag in enumerate(is_text):
            token = next(ids) if flag else None
            if flag and place > 0:
                total -= float(logits[place - 1].log_softmax(-1)[token])
                count += 1
    torch.testing.assert_close(losses[0], torch.tensor(total / count), atol=0, rtol=1e-5)


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(is_reentrant: bool):
    gradients = []
    for is_checkpointing in (False, True):
        case = trainable()
        inputs = case.encode(case.samples())
        if is_checkpointing:
            options = {"use_reentrant": is_reentrant}
            case.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
            case.model.enable_input_require_grads()
        case.model(**inputs, labels=labels_of(case, inputs), use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in case.model.named_parameters()})
    for name, expected in gradients[0].items():
        if expected is None:
            assert gradients[1][name] is None, name
        else:
            torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-5, msg=name)
    moved = [name for name, gradient in gradients[0].items() if gradient is not None and bool(gradient.any())]
    for part in ("granularity_controller", "token_aggregator", "multi_modal_projector", "language_model"):
        assert any(part in name for name in moved), part
    assert not any("vision_tower" in name for name in moved)


def test_train_keeps_a_frozen_tower_in_eval_mode_and_freezes_nothing():
    model, _ = tiny.make_granulon()
    core = model.model
    for module in (model, core):
        model.requires_grad_(True)
        assert all(parameter.requires_grad for parameter in module.train().parameters())
        assert core.vision_tower.training
        core.vision_tower.requires_grad_(False)
        before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        module.train()
        assert not any(part.training for part in core.vision_tower.modules())
        assert core.language_model.training
        assert core.granularity_controller.training
        module.eval()
        assert not core.language_model.training
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_a_frozen_tower_sees_the_same_in_train_mode():
    """DINOv3 jitters its positions in train mode."""
    case = trainable()
    inputs = case.encode(case.samples()[:1])
    expected = text_logits(case, inputs, case.model.eval()(**inputs).logits, 0)
    assert_close(text_logits(case, inputs, case.model.train()(**inputs).logits, 0), expected)


def test_a_trainable_tower_gets_gradients():
    case = trainable()
    case.model.model.vision_tower.requires_grad_(True)
    inputs = case.encode(case.samples())
    case.model(**inputs, labels=labels_of(case, inputs)).loss.backward()
    layers = case.model.model.vision_tower.embeddings
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in layers.parameters())


def test_a_compiled_prefill_equals_eager_at_mixed_levels():
    case = copy.deepcopy(load("qwen2", True, max_clusters=6))  # a short graph
    case.model.config.kmeans_iterations = 2
    compiled = torch.compile(case.model, fullgraph=True, backend="aot_eager")
    samples = case.samples()
    with torch.no_grad():
        inputs = case.encode(samples)
        found, expected = compiled(**inputs), case.model(**inputs)
        assert found.granularity.tolist() == expected.granularity.tolist() == [sample.level for sample in samples]
        torch.testing.assert_close(found.granularity_logits, expected.granularity_logits, atol=1e-5, rtol=1e-5)
        for row in range(len(samples)):
            assert_close(
                text_logits(case, inputs, found.logits, row), text_logits(case, inputs, expected.logits, row), row
            )
        with torch.compiler.set_stance("fail_on_recompile"):
            inputs["input_ids"], inputs["attention_mask"] = (
                inputs[name].flip(0) for name in ("input_ids", "attention_mask")
            )
            found, expected = compiled(**inputs), case.model(**inputs)
        assert (
            found.granularity.tolist() == expected.granularity.tolist() == [sample.level for sample in samples[::-1]]
        )
        assert_close(found.logits[inputs["attention_mask"].bool()], expected.logits[inputs["attention_mask"].bool()])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooled", [False, True])
def test_leaving_empty_slots_out_changes_neither_loss_nor_gradients(pooled: bool, side: str):
    results = []
    for is_watched in (False, True):  # who asks for all layers gets all positions
        case, lengths = trainable(pooled=pooled), []
        samples = [sample for sample in case.samples() if sample.level != 3]  # the finest level leaves no slot empty
        inputs = case.encode(samples, padding_side=side)
        hook = case.model.model.language_model.layers[-1].register_forward_pre_hook(
            lambda module, args, lengths=lengths: lengths.append(args[0].shape[1])
        )
        labels = labels_of(case, inputs)
        labels[torch.arange(len(labels)), inputs["attention_mask"].argmax(1)] = -100  # not to be told from padding
        output = case.model(**inputs, labels=labels, output_hidden_states=is_watched)
        hook.remove()
        output.loss.backward()
        gradients = {n: p.grad for n, p in case.model.named_parameters() if p.grad is not None}
        results.append((output.loss, gradients, lengths[0]))
        assert output.logits.shape[1] == inputs["input_ids"].shape[1]
    (loss, gradients, length), (expected_loss, expected, full) = results
    assert length < full == inputs["input_ids"].shape[1]
    torch.testing.assert_close(loss, expected_loss, atol=0, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name in expected:
        if bool(expected[name].any()):
            assert_close(gradients[name], expected[name], name, tolerance=1e-4)
