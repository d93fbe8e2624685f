"""Supervised fine-tuning of a Granulon: TRL's trainer with Granulon's loss terms, stages and safe checkpoints."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import trl
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

import transformers
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints
from transformers.utils.hub import PushInProgress

from granulon.hub_cards import plan_push, push_directory, push_in_background, write_card
from granulon.hub_cards.checkpoint import write_log

from .adapters import base_fingerprint
from .callbacks import ProgressReport
from .checkpoints import STAGING, explain_full_disk, find_fault, find_last_checkpoint, publish, write_manifest
from .checks import check_adapters, check_data, check_stage
from .collator import GranulonDataCollator
from .config import GranulonSFTConfig
from .loss_terms import LossTerms
from .run_lock import RunLock
from .stages import base_of, component_of, count_parameters, format_counts, set_stage


logger = logging.getLogger(__name__)

QUEUE_FILE = "contribution_queue.safetensors"


class GranulonSFTTrainer(SFTTrainer):
    """
    `trl.SFTTrainer` for Granulon: L_task + lambda_d L_pixel + lambda_t L_semantic + lambda_c L_controller (paper
    Eq. 2-3), each logged as `loss_task`, `loss_pixel`, ... beside the shares of the chosen levels, `level/<name>`.

    Rows are prompt/completion or messages with `images`; see `GranulonDataCollator` for the optional columns. A term's
    mean runs over the whole optimizer step, all micro-batches and ranks together, so that accumulation and the number
    of processes change nothing. Checkpoints are complete or absent, and resuming is exact. SIGTERM finishes the step,
    writes a checkpoint and ends the process with status 143.

    Attributes:
        provenance: entries of `granulon_training.json`, which every saved directory carries, that only the caller
            knows: `recipe` and `results`, dicts; `data`, a list, where it should differ from the data sets given.
        was_complete: the checkpoint that `train` was to resume from is the run's last step; nothing was trained.
        run_lock: keeps other runs out of `output_dir` while `train` runs.

    Raises:
        ValueError: a stage that contradicts the adapters, the data or the loss terms; labels that are all masked; a
            loss that is not finite, with its batch saved in `nan_batch-STEP`; another run in the same `output_dir`.
        OSError: a full disk. The partial checkpoint is removed; older ones stay.
    """

    _tag_names = ["granulon", "trl", "sft"]
    args: GranulonSFTConfig
    model: Any
    _signature_columns: Any

    def __init__(
        self,
        model: Any,
        args: GranulonSFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        **kwargs: Any,
    ):
        args = GranulonSFTConfig("granulon-sft") if args is None else args
        if not isinstance(args, GranulonSFTConfig):
            raise TypeError(f"`args` is a {type(args).__name__}, expected a GranulonSFTConfig.")
        peft_config = check_adapters(model, args, peft_config)
        if train_dataset is not None:
            check_data(args, train_dataset, processing_class)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        if type(self.data_collator) is DataCollatorForVisionLanguageModeling:
            fields = {
                field.name: getattr(self.data_collator, field.name) for field in dataclasses.fields(self.data_collator)
            }
            self.data_collator = GranulonDataCollator(**fields)
        self.provenance: dict[str, Any] = {}
        self._base_fingerprint = base_fingerprint(self.model) if isinstance(self.model, peft.PeftModel) else None
        self._set_stage()
        self._callback = _StepCallback(self)
        self.add_callback(self._callback)
        ProgressReport.install(self)
        self.run_lock = RunLock(str(args.output_dir))
        self.was_complete = False
        self._staging: Path | None = None
        self._step_batches: list[tuple[dict[str, Any], list[str] | None]] = []  # for `_stop_at_nan`

    # ------------------------------------------------------------------ what trains

    def _set_stage(self) -> None:
        args, core = self.args, base_of(self.model)
        set_stage(self.model, args.stage)
        self.loss_terms = LossTerms(args, core, self.accelerator)
        check_stage(args, self.model, self.loss_terms.active)
        if self.accelerator.is_main_process:
            print(format_counts(count_parameters(self.model), args.stage), file=sys.stderr, flush=True)
        if (args.bf16 or args.fp16) and not self.is_deepspeed_enabled:
            # steps of a small learning rate vanish in 16 bits; autocast still computes in them
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As the parent's; components in `module_learning_rates` get parameter groups of their own."""
        optimizer = super().create_optimizer(model)
        for name, rate in (self.args.module_learning_rates or {}).items():
            members = {id(parameter) for parameter in component_of(self.model, name).parameters()}
            for group in list(optimizer.param_groups):
                moved = [parameter for parameter in group["params"] if id(parameter) in members]
                if moved:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in members]
                    optimizer.add_param_group({**group, "params": moved, "lr": float(rate)})
        return optimizer

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for name in ("granularity", "granularity_labels", "id"):
            if name not in self._signature_columns:
                self._signature_columns.append(name)

    # ------------------------------------------------------------------ the loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """As the parent's; also counts what the loss terms of this optimizer step will be averaged over."""
        self._step_batches = []
        samples, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.loss_terms.begin_step(samples)
        return samples, num_items_in_batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See `trl.SFTTrainer.compute_loss`; the value is the weighted sum of all terms."""
        inputs = dict(inputs)
        labels, row_ids = inputs.pop("granularity_labels", None), inputs.pop("row_ids", None)
        core, is_training = base_of(self.accelerator.unwrap_model(model)).base_model, self.model.training
        # what makes TRL build full logits wants all positions
        is_whole = return_outputs or self.compute_loss_func is not None or self.label_smoother is not None
        scoring = contextlib.nullcontext(inputs) if is_whole else _scoring_labels_only(core, inputs)
        with self.loss_terms.observe(core, inputs, labels) as batch, scoring as scored:
            result = super().compute_loss(model, scored, return_outputs, num_items_in_batch)
        task = result[0] if return_outputs else result
        if not is_training:
            loss, _ = self.loss_terms.add_to(task, batch)
            num_tokens = inputs["labels"][:, 1:].ne(-100).sum()
            self.loss_terms.record(batch, task * num_tokens, num_tokens, is_training=False)
            return (loss, result[1]) if return_outputs else loss

        # where the step's tokens were counted, `task` is the micro-batch's share of the step's mean, else its own mean
        accumulation, is_share = self.current_gradient_accumulation_steps, num_items_in_batch is not None
        num_parts = self.accelerator.num_processes * (1 if is_share else accumulation)
        loss, terms = self.loss_terms.add_to(task, batch, num_parts)
        self._step_batches.append((inputs, row_ids))
        if not bool(loss.detach().isfinite()):
            values = {name: value.item() for name, value in terms.items()}
            self._stop_at_nan("loss", values, self._step_batches[-1:])
        self.loss_terms.record(batch, task * (accumulation if is_share else 1), 1, is_training=True)
        return (loss, result[1]) if return_outputs else loss

    # ------------------------------------------------------------------ logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the parent's, with the mean of each term over the steps since the last log that had it, and levels."""
        if self.model.training:
            logs |= self.loss_terms.pop_logs()
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As the parent's; adds each term's mean over the tokens, images or labelled rows of the whole data set."""
        with self.loss_terms.evaluating() as metrics:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # fp16's loss scaler skips such a step by itself
        if grad_norm is not None and self.accelerator.scaler is None and not math.isfinite(grad_norm):
            self._stop_at_nan("gradient", {}, self._step_batches)
        return grad_norm

    def _stop_at_nan(
        self, what: str, terms: dict[str, float], batches: list[tuple[dict[str, Any], list[str] | None]]
    ) -> None:
        """Save the micro-batches for inspection and stop, before they have updated anything."""
        step, rank = self.state.global_step, self.accelerator.process_index
        directory = Path(str(self.args.output_dir)) / (f"nan_batch-{step}" + (f"-rank{rank}" if rank else ""))
        directory.mkdir(parents=True, exist_ok=True)
        slots = torch.tensor(self.processing_class.image_token_ids)
        names: list[str | None] = []
        texts: list[str] = []
        for place, (inputs, row_ids) in enumerate(batches):
            tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(tensors, directory / f"batch-{place}.safetensors")
            names += row_ids or [None] * len(tensors["input_ids"])
            texts += [self._tokenizer.decode(row[~torch.isin(row, slots)]) for row in tensors["input_ids"]]
        parameters = dict(self.model.named_parameters())
        broken = [name for name, value in parameters.items() if not bool(value.isfinite().all())]
        sources = [
            name
            for name, value in parameters.items()
            if value.grad is not None and not bool(value.grad.isfinite().all())
        ]
        report = {
            "step": step,
            "rank": rank,
            "row_ids": names,
            "texts": texts,
            "terms": {f"loss_{name}": str(value) for name, value in terms.items()},
            "non_finite_parameters": broken,
            "non_finite_gradients": sources,
        }
        (directory / "batch.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
        culprits = [f"loss_{name}" for name, value in terms.items() if not math.isfinite(value)] or sources[:3]
        known = f"; rows {names[:16]}" if any(names) else ""
        raise ValueError(
            f"The {what} is not finite at step {step} ({', '.join(culprits)}{known}). The batch is saved in "
            f"{directory}: batch-*.safetensors hold the inputs, batch.json the texts. "
            + (
                f"{len(broken)} parameters were already not finite, {broken[0]} first: look for what broke them. "
                if broken
                else "All parameters are finite: look at this batch. "
            )
            + "Lower the learning rate or `max_grad_norm`, or use bf16 in place of fp16, and resume from the last "
            "checkpoint with `resume_from_checkpoint=True`."
        )

    # ------------------------------------------------------------------ checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        As the parent's. A run that had reached its last step is restored and not trained: see `was_complete`.

        Args:
            resume_from_checkpoint: True takes the newest complete checkpoint of `output_dir`; a path takes that one.

        Raises:
            ValueError: no complete checkpoint, or an incomplete one at the path; another run in `output_dir`.
            SystemExit: with status 143, after SIGTERM and a clean checkpoint.
        """
        with self.run_lock:
            checkpoint = self._find_checkpoint(resume_from_checkpoint)
            self.was_complete = checkpoint is not None and self._is_complete(checkpoint)
            if checkpoint is not None:
                self._restore_queue(checkpoint)
                if self.was_complete:
                    return self._restore(checkpoint)
                logger.warning("Resuming from %s.", checkpoint)
            with self._callback.catching_sigterm():
                start = None if checkpoint is None else str(checkpoint)
                result = super().train(resume_from_checkpoint=start, **kwargs)
        if self._callback.is_terminated:
            if self.accelerator.is_main_process:
                print(
                    f"Stopped by SIGTERM after step {self.state.global_step}; its checkpoint is in "
                    f"{self.args.output_dir}. To go on, call `train(resume_from_checkpoint=True)` with the same "
                    "arguments and data (`granulon train RECIPE --resume`).",
                    file=sys.stderr,
                    flush=True,
                )
            raise SystemExit(143)
        return result

    def _find_checkpoint(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if resume_from_checkpoint is True:
            return find_last_checkpoint(Path(str(self.args.output_dir)))
        if not resume_from_checkpoint:
            return None
        checkpoint = Path(resume_from_checkpoint)
        fault = find_fault(checkpoint)
        if fault is not None:
            raise ValueError(f"Cannot resume from {checkpoint}: {fault}. Pass a complete checkpoint.")
        return checkpoint

    def _is_complete(self, checkpoint: Path) -> bool:
        """Whether the run had reached its last step; the parent's loop would train one more."""
        max_steps = self.args.max_steps
        if max_steps <= 0:
            max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]
        return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step >= max_steps

    def _restore_queue(self, checkpoint: Path) -> None:
        if (checkpoint / QUEUE_FILE).is_file():
            self.loss_terms.queue.load_state_dict(load_file(checkpoint / QUEUE_FILE))

    def _restore(self, checkpoint: Path) -> TrainOutput:
        """Weights and log of a complete run, as training would have left them."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()
        if self.accelerator.is_main_process:
            print(
                f"{checkpoint} is the last step of its run: there is nothing left to train. To train longer, raise "
                "`max_steps` or `num_train_epochs`.",
                file=sys.stderr,
                flush=True,
            )
        return TrainOutput(self.state.global_step, math.nan, {})

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    @contextlib.contextmanager
    def _written_aside(self, final: Path) -> Iterator[Path]:
        """A folder to write into, on all ranks, that takes the name `final` once all of them have ended well."""
        staged, is_writer = final.parent / STAGING / final.name, self.args.should_save
        try:
            if is_writer:
                shutil.rmtree(staged, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self._staging = staged.parent
            with explain_full_disk(final, "What there was of it was removed, checkpoints are untouched."):
                yield staged
                self.accelerator.wait_for_everyone()
                if is_writer:
                    publish(staged, final)
                self.accelerator.wait_for_everyone()
        except BaseException:
            if is_writer:
                shutil.rmtree(staged, ignore_errors=True)
            raise
        finally:
            self._staging = None

    def save_final(self, directory: str | Path) -> None:
        """As `save_model`, with a directory that is whole or, after an error, what it was."""
        with self._written_aside(Path(directory)) as staged:
            self.save_model(str(staged))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        final, is_writer = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", self.args.should_save
        with self._written_aside(final) as staged:
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step:
                best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
                if best == final or best.exists():
                    self.state.best_model_checkpoint = str(best)
            if is_writer:
                save_file(self.loss_terms.queue.state_dict(), staged / QUEUE_FILE)
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if is_writer:
                write_manifest(staged)
        if is_writer:  # only now that the new one is there
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As `push_to_hub`; the strategies that also send what resuming needs go by the library's own upload."""
        if self._staging is not None:  # a checkpoint is pushed under its final name
            return
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            super()._push_from_checkpoint(checkpoint_folder)
            return
        running: Any = self.push_in_progress
        is_busy = running is not None and not running.is_done()
        if not self.is_world_process_zero() or (is_busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        job = push_in_background(
            checkpoint_folder,
            str(self.hub_model_id),
            commit_message=f"Training in progress, step {self.state.global_step}",
            token=self.args.hub_token,
            private=self.args.hub_private_repo,
            revision=self.args.hub_revision,
        )
        self.push_in_progress = PushInProgress([*(running.jobs if is_busy else []), job])  # type: ignore[arg-type, assignment]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        directory = Path(str(self.args.output_dir) if output_dir is None else output_dir)
        with contextlib.ExitStack() as stack:
            if self._staging is None:  # else the one who writes aside explains
                stack.enter_context(explain_full_disk(directory, "The directory is incomplete."))
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                write_log(directory, self.describe_run())
                write_card(directory, self.hub_model_id, title=Path(str(self.args.output_dir)).name)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: every save writes the card, rendered from the checkpoint and its training log."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Save into `output_dir` and publish model or adapter, processor, code and card from there, in one commit;
        optimizer state, pickles and logs stay. What `granulon push` would refuse is sent with a warning.
        """
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        plan = plan_push(str(self.args.output_dir), str(self.hub_model_id), api=HfApi(token=token))
        for fault in plan.faults:
            logger.warning(fault)
        return push_directory(
            plan.directory,
            plan.repo_id,
            plan=plan,
            strict=False,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            run_as_future=not blocking,
            token=token,
        )

    def describe_run(self) -> dict[str, Any]:
        """What `granulon_training.json` holds: recipe, stage, data, seed, log, results and versions."""
        sets = {"train": self.train_dataset, "eval": self.eval_dataset}
        if isinstance(self.eval_dataset, dict):
            sets = {"train": self.train_dataset, **self.eval_dataset}
        data = [_describe_data(name, data) for name, data in sets.items() if data is not None]
        run = {
            "recipe": {},
            **({"base_fingerprint": self._base_fingerprint} if self._base_fingerprint else {}),
            "stage": self.args.stage,
            "data": data,
            "seed": self.args.seed,
            "step": self.state.global_step,
            "log_history": self.state.log_history,
            "versions": {
                "python": platform.python_version(),
                **{module.__name__: module.__version__ for module in (torch, transformers, trl, peft, datasets)},
            },
        }
        return {**run, **self.provenance}


@contextlib.contextmanager
def _scoring_labels_only(model: Any, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Let the head see only the positions that predict a label, in one row: the others have no loss, and the head costs
    as much as the vocabulary is large. (TRL leaves them out by itself where Triton runs, but not on a CPU.)

    Args:
        model: the `GranulonModel`.

    Yields:
        `inputs` with `shift_labels` `(1, num_labels)` in place of `labels`.
    """
    following = inputs["labels"][:, 1:]
    is_label = following != -100  # (batch_size, num_tokens - 1)

    def keep(module: Any, args: tuple, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, :-1][is_label][None]
        return output

    handle = model.register_forward_hook(keep)
    try:
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        yield {**rest, "shift_labels": following[is_label][None]}
    finally:
        handle.remove()


class _StepCallback(TrainerCallback):
    """Ends each optimizer step, and turns SIGTERM into a checkpoint and a clean stop."""

    def __init__(self, trainer: GranulonSFTTrainer):
        self.trainer = trainer
        self.is_signalled = False  # this process got SIGTERM
        self.is_terminated = False  # some process did, and all know: they stop after the same step

    @contextlib.contextmanager
    def catching_sigterm(self) -> Iterator[None]:
        self.is_signalled = self.is_terminated = False
        if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
            yield
            return
        previous = signal.getsignal(signal.SIGTERM)

        def handle(signum: int, frame: Any) -> None:
            self.is_signalled = True
            signal.signal(signal.SIGTERM, previous)  # a second one ends a process that hangs

        signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.is_signalled and not self.is_terminated:  # it came after the last step: the training is complete
            os.kill(os.getpid(), signal.SIGTERM)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, accelerator = self.trainer, self.trainer.accelerator
        trainer.loss_terms.finish_step()
        flag = torch.tensor(float(self.is_signalled), device=accelerator.device)
        self.is_terminated = bool(accelerator.reduce(flag, "sum") > 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_terminated:
            control.should_save = control.should_training_stop = True


def _describe_data(name: str, data: Any) -> dict[str, Any]:
    info = getattr(data, "info", None)
    return {
        "name": getattr(info, "dataset_name", None) or name,
        "num_rows": len(data) if hasattr(data, "__len__") else None,
        "fingerprint": getattr(data, "_fingerprint", None),
    }
