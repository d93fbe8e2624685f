"""Loss terms against derivatives worked by hand and slow loops written from the paper."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import make_granulon, make_image
from torch import nn

from granulon.modeling_granulon.modeling_granulon import ContributionHead
from granulon.training.losses import ContributionQueue, contribution_loss, controller_loss, question_keys


def make_head(size: int = 2) -> ContributionHead:
    """A head with U = W = identity and b = 0, so that the logit is <v, h> / sqrt(d)."""
    config = SimpleNamespace(
        text_config=SimpleNamespace(hidden_size=size), controller_hidden_size=size, contribution_hidden_size=size
    )
    head = ContributionHead(config)
    nn.init.eye_(head.token_projection.weight)
    nn.init.eye_(head.question_projection.weight)
    return head


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_literal_gradient_by_hand():
    # v = (1, 0), h = (2, 0): logit 2 / sqrt 2; the loss is -log sigmoid, its derivative in the logit sigmoid - 1
    head = make_head()
    tokens = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]], requires_grad=True)  # the second token is an empty slot
    question = torch.tensor([[2.0, 0.0]], requires_grad=True)
    used, row = torch.tensor([[True, False]]), torch.tensor([0])
    loss = contribution_loss(head, tokens, used, row, question)
    assert loss.item() == pytest.approx(-math.log(sigmoid(math.sqrt(2))))
    loss.sum().backward()
    slope = sigmoid(math.sqrt(2)) - 1
    root = math.sqrt(2)
    torch.testing.assert_close(tokens.grad, torch.tensor([[[slope * 2 / root, 0.0], [0.0, 0.0]]]))
    torch.testing.assert_close(question.grad, torch.tensor([[slope * 1 / root, 0.0]]))
    assert head.bias.grad.item() == pytest.approx(slope)
    # dL/dU = slope * h v^T / sqrt d, dL/dW = slope * v h^T / sqrt d
    expected = torch.tensor([[slope * 2 / root, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(head.token_projection.weight.grad, expected)
    torch.testing.assert_close(head.question_projection.weight.grad, expected)


def test_contrastive_gradient_by_hand():
    # as above, with the negatives h' = (0, 3) and h'' = (1, 1); a third is the same question and does not count
    head = make_head()
    tokens = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    question = torch.tensor([[2.0, 0.0]])
    negatives = torch.tensor([[0.0, 3.0], [1.0, 1.0], [2.0, 0.0]])
    is_negative = torch.tensor([[True, True, False]])
    used, row = torch.ones(1, 1, dtype=torch.bool), torch.tensor([0])
    loss = contribution_loss(head, tokens, used, row, question, negatives, is_negative)
    root = math.sqrt(2)
    first, second = sigmoid(0.0), sigmoid(1 / root)
    expected = -math.log(sigmoid(root)) - (math.log(1 - first) + math.log(1 - second)) / 2
    assert loss.item() == pytest.approx(expected)
    loss.sum().backward()
    slope = sigmoid(root) - 1
    gradient = [(slope * 2 + (first * 0 + second * 1) / 2) / root, (slope * 0 + (first * 3 + second * 1) / 2) / root]
    torch.testing.assert_close(tokens.grad, torch.tensor([[gradient]]))
    assert head.bias.grad.item() == pytest.approx(slope + (first + second) / 2)


def test_controller_gradient_by_hand():
    # uniform distribution against (1/4, 3/4): the derivative of cross-entropy in the logits is p - y
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = controller_loss(logits, torch.tensor([[0.25, 0.75], [0.0, 0.0]]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), 0.0]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, -0.25], [0.0, 0.0]]))


def test_an_image_without_negatives_is_skipped():
    head = make_head()
    tokens, question = torch.randn(2, 3, 2, requires_grad=True), torch.randn(2, 2)
    used, row = torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1])
    is_negative = torch.tensor([[False], [True]])
    loss = contribution_loss(head, tokens, used, row, question, torch.randn(1, 2), is_negative)
    loss.sum().backward()
    assert loss[0] == 0 and loss[1] > 0
    assert not tokens.grad[0].any() and tokens.grad[1].all()
    empty = contribution_loss(head, tokens, used, row, question, torch.zeros(0, 2), torch.zeros(2, 0, dtype=bool))
    assert not empty.any()


@pytest.mark.parametrize("kind", ["literal", "contrastive"])
def test_a_loop_over_the_equation_agrees(kind: str):
    torch.manual_seed(1)
    head = make_head(4)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    tokens, questions, negatives = torch.randn(3, 5, 4), torch.randn(2, 4), torch.randn(6, 4)
    used, row = torch.rand(3, 5) < 0.6, torch.tensor([0, 0, 1])
    used[:, 0] = True
    is_negative = torch.rand(3, 6) < 0.5
    is_negative[:, 0] = True
    chosen = (negatives, is_negative) if kind == "contrastive" else ()
    found = contribution_loss(head, tokens, used, row, questions, *chosen)

    def p(token: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        u, w = head.token_projection.weight.double(), head.question_projection.weight.double()
        return torch.sigmoid((u @ token.double()) @ (w @ question.double()) / math.sqrt(4) + head.bias.double())

    for image in range(3):
        values = []
        for token in tokens[image][used[image]]:
            value = -p(token, questions[row[image]]).log()
            if chosen:
                others = [-(1 - p(token, other)).log() for other in negatives[is_negative[image]]]
                value = value + torch.stack(others).mean()
            values.append(value)
        torch.testing.assert_close(found[image].double(), torch.stack(values).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["literal", "contrastive"])
def test_literal_collapses_and_contrastive_does_not(kind: str):
    """The literal loss is won by p = 1 for every pair; with negatives p tells a token's question from others."""
    torch.manual_seed(0)
    questions = torch.randn(12, 16) + 1  # descriptors of questions have much in common
    tokens = torch.einsum("qd,ed->qe", questions, torch.randn(16, 16) / 4)[:, None] + 0.1 * torch.randn(12, 4, 16)
    head, used, row = make_head(16), torch.ones(12, 4, dtype=torch.bool), torch.arange(12)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    chosen = (questions, ~torch.eye(12, dtype=torch.bool)) if kind == "contrastive" else ()
    for _ in range(150):
        loss = contribution_loss(head, tokens, used, row, questions, *chosen).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    p = head(tokens, questions).sigmoid().mean(1)
    own, other = p.diagonal().mean().item(), p[~torch.eye(12, dtype=torch.bool)].mean().item()
    assert own > 0.9
    if kind == "literal":
        assert other > 0.9  # every question explains every token: nothing was learned
    else:
        assert other < 0.1


def test_the_queue_is_first_in_first_out():
    queue = ContributionQueue(3, 2)
    queue.push(torch.arange(4.0).view(2, 2), torch.tensor([5, -1]))  # the second row has no image
    assert queue.keys.tolist() == [5]
    queue.push(torch.ones(3, 2, requires_grad=True), torch.tensor([6, -7, 8]))
    assert queue.keys.tolist() == [6, -7, 8] and not queue.descriptors.requires_grad
    assert queue.differs(torch.tensor([6, 9])).tolist() == [[False, True, True], [True, True, True]]
    copy = ContributionQueue(3, 2)
    copy.load_state_dict(queue.state_dict())
    assert torch.equal(copy.descriptors, queue.descriptors) and torch.equal(copy.keys, queue.keys)
    with pytest.raises(ValueError, match="another model"):
        ContributionQueue(3, 4).load_state_dict(queue.state_dict())


def test_keys_know_questions_whatever_surrounds_them():
    model, processor = make_granulon()

    def key(question: str, answer: str = "", side: str = "left", granularity=None, has_image: bool = True) -> int:
        content = [{"type": "image", "image": make_image()}] * has_image + [{"type": "text", "text": question}]
        chats = [[{"role": "user", "content": content}]]
        chats.append([{"role": "user", "content": question * 9}])  # longer: the first row is padded
        text = [processor.apply_chat_template(chat, add_generation_prompt=True) + answer for chat in chats]
        images = [[make_image()] * has_image, []]
        inputs = processor(
            text=text,
            images=images if has_image else None,
            padding=True,
            padding_side=side,
            granularity=granularity,
            return_tensors="pt",
        )
        return int(question_keys(model.config, inputs["input_ids"], inputs["attention_mask"])[0])

    same = {
        key("Is it red?"),
        key("Is it red?", "yes"),
        key("Is it red?", side="right"),
        key("Is it red?", "", "left", 0),
    }
    assert len(same) == 1
    assert len({key("Is it red?"), key("Is it rde?"), key("Is it red? "), key("It is red?")}) == 4
    assert key("Is it red?", has_image=False) == -1
