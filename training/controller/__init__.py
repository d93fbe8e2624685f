"""
The controller learns from a corpus of questions with granularity weights (paper section 3.2.1), without any image.

It sees a question through the language model's embeddings and first block (Eq. 5), so no more than these is read from
the checkpoint. The block is frozen: each question becomes one vector, its pooled hidden state, once; the controller is
trained on these vectors alone. That takes minutes on a CPU, for a language model of 1.5B parameters too.

```python
from granulon.training.controller import train_controller

report = train_controller("Qwen/Qwen2.5-1.5B-Instruct", "my-controller")
model, processor = GranulonForConditionalGeneration.from_backbones(vision, text, controller="my-controller")
```

`granulon.training.controller.feedback` trains it on what the language model finds likely, with images and answers; it
needs the extra `train`.
"""

from .directory import render_controller_card, write_controller
from .first_block import load_first_block
from .fitting import fit_controller, optimise_controller, predict
from .reading import QuestionReader, open_reader, pool_questions
from .stage import CORPORA, train_controller


__all__ = [
    "CORPORA",
    "QuestionReader",
    "fit_controller",
    "load_first_block",
    "open_reader",
    "optimise_controller",
    "pool_questions",
    "predict",
    "render_controller_card",
    "train_controller",
    "write_controller",
]
