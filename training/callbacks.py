"""What a person sees while a model trains: one line per log with everything in it, and answers to fixed questions."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import has_length

from granulon.chats import chat_inputs
from granulon.modeling_granulon.slots_granulon import level_index
from granulon.processing.images_granulon import open_image, pil_to_array


logger = logging.getLogger(__name__)


class ProgressReport(TrainerCallback):
    """
    Progress with the time that is left, loss terms, shares of the levels, samples/s and tokens/s, on rank 0: a line at
    every log and, on a terminal (unless `disable_tqdm`), a bar below.

    The time left is what the steps so far took on the clock, evaluations and checkpoints included, for each that is to
    come. Adds `samples_per_second` and `tokens_per_second` to the logs, over all ranks and since the last log;
    evaluating, saving and generating samples do not count. `GranulonSFTTrainer` installs one.
    """

    def __init__(self, stream: Any = None):
        self.stream = stream or sys.stderr
        self.bar: tqdm | None = None
        self.begin = self.mark = time.perf_counter()
        self.first_step = 0  # of this process
        self.seconds = 0.0  # in training steps since the last log
        self.steps = 0  # since the last log
        self.epoch = 0.0  # at the last log
        self.num_tokens: float | None = None

    @classmethod
    def install(cls, trainer: Any, stream: Any = None) -> "ProgressReport":
        """Put one in the place of the trainer's progress display, in front of all other callbacks (and loggers)."""
        for shown in (ProgressCallback, PrinterCallback, cls):
            trainer.remove_callback(shown)
        report = cls(stream)
        trainer.callback_handler.callbacks.insert(0, report)
        return report

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin = self.mark = time.perf_counter()
        self.first_step, self.epoch = state.global_step, state.epoch or 0.0
        if state.is_world_process_zero and self.stream.isatty() and not args.disable_tqdm:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                file=self.stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}",
            )

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seconds, self.steps, self.mark = self.seconds + now - self.mark, self.steps + 1, now
        if self.bar is not None:
            self.bar.set_postfix_str(self.time_left(state.global_step, state.max_steps), refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def time_left(self, step: int, max_steps: int) -> str:
        """Such as "3 min left"; empty before the first step."""
        if step <= self.first_step:
            return ""
        seconds = (time.perf_counter() - self.begin) / (step - self.first_step) * (max_steps - step)
        return f"{_duration(seconds)} left"

    def on_step_begin(self, args, state, control, **kwargs):
        """Nothing: the time to fetch a batch belongs to the step."""

    def on_evaluate(self, args, state, control, **kwargs):
        self.mark = time.perf_counter()

    on_save = on_evaluate

    def on_log(self, args, state, control, logs=None, train_dataloader=None, **kwargs):
        if logs is None:
            return
        if "loss" in logs and self.steps and self.seconds > 0:
            batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            samples: float = self.steps * batch
            data = getattr(train_dataloader, "dataset", None)
            if has_length(data) and state.epoch is not None:  # the last batches of an epoch are smaller
                samples = min(samples, (state.epoch - self.epoch) * len(data))
                self.epoch = state.epoch
            added = {"samples_per_second": round(samples / self.seconds, 3)}
            tokens = logs.get("num_tokens")
            if tokens is not None:
                if self.num_tokens is not None:
                    added["tokens_per_second"] = round((tokens - self.num_tokens) / self.seconds, 1)
                self.num_tokens = tokens
            logs.update(added)
            if state.log_history:
                state.log_history[-1].update(added)
            self.steps, self.seconds = 0, 0.0
        if state.is_world_process_zero:
            self._write(self.line(logs, state.global_step, state.max_steps))

    def line(self, logs: Mapping[str, Any], step: int, max_steps: int) -> str:
        """The logs in a readable order; what is not there is left out."""
        prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        if "train_runtime" in logs:
            took, loss = _duration(logs["train_runtime"]), _number(logs.get("train_loss"))
            return f"step {step}/{max_steps} | the end after {took} | loss {loss} on average"
        if f"{prefix}loss" not in logs:
            rest = {name: value for name, value in logs.items() if name not in ("epoch", "total_flos", "step")}
            return f"step {step}/{max_steps} | " + ", ".join(f"{name} {_number(v)}" for name, v in rest.items())
        parts = [f"step {step}/{max_steps}"]
        if prefix:
            parts.append("evaluation")
        elif left := self.time_left(step, max_steps):
            parts.append(left)
        loss = f"loss {_number(logs[f'{prefix}loss'])}"
        key = f"{prefix}loss_"
        shown = ", ".join(f"{name[len(key) :]} {_number(v)}" for name, v in logs.items() if name.startswith(key))
        parts.append(f"{loss} ({shown})" if shown else loss)
        key = f"{prefix}level/"
        levels = [(name[len(key) :], value) for name, value in logs.items() if name.startswith(key)]
        if levels:
            parts.append("levels " + ", ".join(f"{name} {value:.0%}" for name, value in levels))
        if "learning_rate" in logs:
            parts.append(f"lr {_number(logs['learning_rate'])}")
        for name, unit in (("samples_per_second", "samples/s"), ("tokens_per_second", "tokens/s")):
            if f"{prefix}{name}" in logs:
                parts.append(f"{_number(logs[f'{prefix}{name}'])} {unit}")
        return " | ".join(parts)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _write(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)


class SampleGeneration(TrainerCallback):
    """
    Answers fixed questions before training, every `every` optimizer steps and at the end: printed, appended to
    `samples.jsonl` in the output directory, and kept in the trainer's `log_history` as `samples`.

    Greedy, and without random numbers, so that it changes nothing in training. Runs on rank 0 from whole weights;
    where these are sharded (FSDP, ZeRO-3) it is off and says so.

    Args:
        questions: dicts of `question`, `image` (path, URL or PIL image; may be left out) and, if
            wanted, `granularity`.

    Raises:
        ValueError: no questions, or one without text; an image that cannot be read; a level that the model lacks.
    """

    def __init__(
        self, processor: Any, questions: Sequence[Mapping[str, Any]], every: int = 100, max_new_tokens: int = 32
    ):
        if every < 1 or max_new_tokens < 1:
            raise ValueError(f"`every` is {every} and `max_new_tokens` {max_new_tokens}; both must be at least 1.")
        if not questions:
            raise ValueError("`questions` is empty: give at least one, with `question` and `image`.")
        self.processor, self.every, self.max_new_tokens = processor, every, max_new_tokens
        self.questions = []
        for index, entry in enumerate(questions):
            if not isinstance(entry, Mapping) or not str(entry.get("question") or "").strip():
                raise ValueError(f"Sample {index} is {entry!r}, expected `question` and `image`.")
            image = entry.get("image")
            try:
                loaded = None if image is None else open_image(image)
                if isinstance(loaded, Image.Image):
                    pil_to_array(loaded)  # decodes it
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"Sample {index} has the image {image!r}, which cannot be read: {error}") from error
            granularity = entry.get("granularity")
            if granularity is not None:
                level_index(granularity, processor.level_names)
            self.questions.append((str(entry["question"]), loaded, granularity))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self._run(args, state, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._run(args, state, model)

    def _run(self, args: Any, state: Any, model: Any) -> None:
        if not state.is_world_process_zero:
            return
        is_zero3 = getattr(args, "hf_deepspeed_config", None) is not None and args.hf_deepspeed_config.is_zero3()
        if getattr(args, "fsdp", None) or is_zero3 or any("DTensor" in type(p).__name__ for p in model.parameters()):
            if state.global_step == 0:
                logger.warning("Samples are off: the weights are sharded over the processes.")
            return
        answers = self.generate(model, is_bf16=args.bf16)
        state.log_history.append({"step": state.global_step, "samples": answers})
        for answer in answers:
            print(
                f"  [step {state.global_step}] {answer['question']} ({answer['granularity']}) -> {answer['answer']!r}",
                file=sys.stderr,
            )
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "samples.jsonl", "a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps({"step": state.global_step, **answer}, ensure_ascii=False) + "\n")

    @torch.no_grad()
    def generate(self, model: Any, is_bf16: bool = False) -> list[dict[str, str]]:
        """`question`, `answer` and the level's name as `granularity` ("none" without an image), for each question."""
        model = getattr(model, "module", model)
        was_training = model.training
        model.eval()
        try:
            return [self._answer(model, *entry, is_bf16=is_bf16) for entry in self.questions]
        finally:
            model.train(was_training)

    def _answer(self, model: Any, question: str, image: Any, granularity: Any, is_bf16: bool) -> dict[str, str]:
        inputs = chat_inputs(self.processor, question, image, granularity=granularity).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            output = model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, return_dict_in_generate=True
            )
        level = int(output.granularity.reshape(-1)[0])
        text = self.processor.tokenizer.decode(
            output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        name = self.processor.level_names[level] if level >= 0 else "none"
        return {"question": question, "answer": text.strip(), "granularity": name}


def _number(value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
