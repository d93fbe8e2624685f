"""The commonest chat as tensors: a question, usually about one image, that waits for its answer."""

from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature


# for a base model, which has no chat template: the question on a line of its own, below the image
_PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def question_chat(question: str, image: Any = None) -> list[dict[str, Any]]:
    """The messages of a chat that asks `question` about `image`, as pipelines and `apply_chat_template` take them."""
    content = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def chat_inputs(
    processor: Any, question: str | Sequence[str], image: Any = None, *, granularity: Any = None
) -> BatchFeature:
    """
    What `generate`, `forward` and `get_granularity` take, on the CPU: `input_ids`, `attention_mask`, `pixel_values`
    where there are images, and `granularity` where a level is fixed.

    ```python
    inputs = chat_inputs(processor, "What is it?", "dog.jpg").to(model.device)
    output = model.generate(**inputs, max_new_tokens=20)
    ```

    Args:
        processor: of a Granulon model; without a chat template, question and image become plain text.
        question: one, or a list of them for a padded batch.
        image: whatever the processor takes as an image (a path, a URL, a PIL image, ...), or `None`; for a list of
            questions `None`, or a list with one such entry for each.
        granularity: a level's name or index, or a list with one for each question; by default the controller chooses.

    Raises:
        ValueError: another number of images than questions, and what the processor raises.
    """
    is_batch = not isinstance(question, str)
    questions = [question] if isinstance(question, str) else list(question)
    images = [image] * len(questions) if not is_batch or image is None else list(image)
    if len(images) != len(questions):
        raise ValueError(f"{len(images)} images came with {len(questions)} questions. Pass one for each, or `None`.")
    template = None
    if processor.chat_template is None:
        template = _PLAIN_TEMPLATE
        questions = [text if one is None else f"\n{text}" for text, one in zip(questions, images, strict=True)]
    return processor.apply_chat_template(
        [question_chat(text, one) for text, one in zip(questions, images, strict=True)],
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "granularity": granularity},
    )
