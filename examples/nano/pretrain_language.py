"""
Step 2 of the nano model: a small language model (Llama architecture) learns to read the frozen encoder's patches.

    python examples/nano/pretrain_language.py --encoder runs/nano/encoder/model --output runs/nano/backbones

Every picture is encoded once and asked about nine times. The nine questions share one sequence, in which a mask
keeps each from seeing the others and positions start anew, so that each is answered as if it stood alone; what
costs most, the visual tokens, is paid once. Beside the answers' loss, an alignment loss asks every projected patch
to lie near the word embeddings of the noun and the colour that it shows: without it, the language model needs many
times as long to find out that patches and words speak of the same things. A run that stops is resumed by the same
command.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from easy_vqa_data import granularity_of, read_split
from pretrain_encoder import (
    ALL_COLOURS,
    CLASSES,
    UNKNOWN,
    easy_vqa_batches,
    make_optimizers,
    normalise,
    scene_targets,
    set_learning_rate,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from transformers import DINOv3ViTModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from granulon import GranulonForConditionalGeneration
from granulon.evaluation.scenes import COUNT_WORDS, GRANULARITIES, NOUNS, make_scene, paint, plural, scene_questions
from granulon.training.granularity_corpus import load_corpus


# At a grid of 14 x 14, pixel tokens pooled: a coarse question costs 21 visual tokens, a medium one 59, a fine one 65.
LEVELS = [
    {"name": "coarse", "pool": 4, "clusters": 5, "tokens": 5, "pixel_pool": 4},
    {"name": "medium", "pool": 2, "clusters": 10, "tokens": 10, "pixel_pool": 2},
    {"name": "fine", "pool": 1, "clusters": 20, "tokens": 16, "pixel_pool": 2},
]
CORPUS = Path(__file__).parents[2] / "training" / "corpora" / "questions_train.jsonl"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE of 2,048 tokens: the tasks' words are one token each, others are in pieces."""
    texts = [
        text for i in range(3000) for row in scene_questions("train", i) for text in (row["question"], row["answer"])
    ]
    texts += [text for row in read_split("train")[:20000] for text in (row["question"], row["answer"])]
    texts += [
        f"{word}\n a {word}"
        for word in (*CLASSES[1:], *ALL_COLOURS[1:], *map(plural, CLASSES[1:]))
        for _ in range(300)
    ]
    texts += [example.question for example in load_corpus(CORPUS)]
    texts += [f"{y} {x}" for y in ("upper", "lower") for x in ("left", "right") for _ in range(300)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<semantic>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<semantic>"],
    )


def make_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """2.2M parameters, embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.07,  # about 1 / sqrt(width)
        )
    )


class Pictures(torch.utils.data.Dataset):
    """Pictures with the token ids of their questions and answers; one in four is easy-vqa's in the training split."""

    def __init__(self, tokenizer, split: str, start: int, count: int, seed: int, easy_share: int = 4):
        self.tokenizer, self.split, self.start, self.count, self.seed = tokenizer, split, start, count, seed
        self.easy_share, self.word_ids = easy_share, {}
        if easy_share:
            self.easy_pixels, self.easy_targets = easy_vqa_batches()
            asked = defaultdict(list)
            for row in read_split("train"):
                asked[row["image"]].append({**row, "granularity": granularity_of(row["question"]), "kind": "easy-vqa"})
            self.easy_questions = list(asked.values())

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        index += self.start
        if self.easy_share and index % self.easy_share == 0:
            rng = random.Random(f"{self.seed}/easy/{index}")
            place = rng.randrange(len(self.easy_questions))
            rows = self.easy_questions[place]
            rows = rng.sample(rows, min(9, len(rows)))
            pixels = self.easy_pixels[place]
            target = {name: self.easy_targets[name][place] for name in ("class", "colour")}
            hints: dict[int, int] = {}
        else:
            scene = make_scene(self.split, index, self.seed)
            picture, coverage = paint(scene)
            rows = scene_questions(self.split, index, 4, self.seed)
            if self.split == "train" and self.easy_share:  # coarse questions are learnt soonest: one of four is asked
                rows = [row for place, row in enumerate(rows) if row["granularity"] != "coarse" or place == index % 4]
            pixels = torch.from_numpy(np.array(picture))
            dense = scene_targets(scene, coverage)
            target = {name: torch.from_numpy(dense[name]) for name in ("class", "colour")}
            hints = self.hints_of(scene)
        branches = [(*self.tokenise(row["question"], row["answer"]), row) for row in rows]
        return {"pixels": pixels, "branches": branches, "hints": hints, **target}

    def hints_of(self, scene) -> dict[int, int]:
        """
        What a noun's token in a question should know of the picture, as token ids: the colour of the one thing of that
        noun, `no` where there is none, and how many there are at its plural.
        """
        nouns = [thing.noun for thing in scene.things]
        colours = {thing.noun: thing.colour for thing in scene.things}
        (no,) = self.tokenizer.encode("no", add_special_tokens=False)
        hints = {}
        for noun in NOUNS:
            singular = self.word_id(f" {noun}")
            if (count := nouns.count(noun)) < 2:
                hints[singular] = self.word_id(colours[noun]) if count else no
            if plural(noun) != noun:
                hints[self.word_id(f" {plural(noun)}")] = self.word_id(COUNT_WORDS[count])
        return hints

    def word_id(self, word: str) -> int:
        if word not in self.word_ids:
            self.word_ids[word] = self.tokenizer.encode(word, add_special_tokens=False)[0]
        return self.word_ids[word]

    def tokenise(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """The prompt after the image, in the chat template, up to the answer; and the answer with its end of turn."""
        chat = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False)
        before, _, after = text.partition("<image>")[2].partition("<|im_start|>assistant\n")
        said = after.partition("<|im_end|>")[0]
        encode = self.tokenizer.encode
        return (
            encode(before + "<|im_start|>assistant\n", add_special_tokens=False),
            encode(said + "<|im_end|>", add_special_tokens=False),
        )


class PackedReader(nn.Module):
    """
    Granulon's language side on packed sequences: [prompt start][pixel tokens][semantic tokens of each
    level][questions].

        A question of level k sees the start, the pixel tokens that level k uses, the semantic tokens of level k, and
        itself, at the positions that they have in an ordinary prompt: the answers are those of the model itself.
    """

    def __init__(self, model: GranulonForConditionalGeneration, tokenizer):
        super().__init__()
        self.model = model
        config, core = model.config, model.model
        start = tokenizer.apply_chat_template([{"role": "user", "content": "<image>"}], tokenize=False).partition(
            "<image>"
        )[0]
        self.start_ids = tokenizer.encode(start, add_special_tokens=False)
        grid, levels = config.grid_size, range(len(config.levels))
        slots = core.count_slots(torch.arange(len(levels)), grid).tolist()
        pools = [level["pixel_pool"] for level in config.levels]
        first = len(self.start_ids)
        self.blocks: list[tuple[str, int]] = []  # what each run of visual tokens is: (kind, a level that uses it)
        uses: list[torch.Tensor] = [torch.ones(first, len(levels), dtype=torch.bool)]  # which levels see a token
        positions: list[torch.Tensor] = [torch.arange(first)]
        for pool in dict.fromkeys(pools):
            level = pools.index(pool)
            self.blocks.append(("pixel", level))
            uses.append(torch.tensor([value == pool for value in pools]).expand(slots[level][0], -1))
            positions.append(first + torch.arange(slots[level][0]))
        for level in levels:
            self.blocks.append(("semantic", level))
            uses.append(nn.functional.one_hot(torch.tensor(level), len(levels)).bool().expand(slots[level][1], -1))
            positions.append(first + slots[level][0] + torch.arange(slots[level][1]))
        self.uses, self.positions, self.slots = torch.cat(uses), torch.cat(positions), slots
        self.branch_start = [first + pixel + semantic for pixel, semantic in slots]

    def visual_tokens(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected tokens of all blocks, `(num_images, num_visual, hidden_size)`, and of all patches."""
        core = self.model.model
        parts: list[torch.Tensor] = []
        with torch.no_grad():
            patch_tokens, affinity, grid = core.encode_images(pixel_values)
            for kind, level in self.blocks:
                levels = torch.full((len(pixel_values),), level)
                if kind == "pixel":
                    parts.append(core._pool_pixel_tokens(patch_tokens, levels, grid)[:, : self.slots[level][0]])
                else:
                    tokens = core.token_aggregator(patch_tokens, affinity, levels, grid).tokens
                    parts.append(tokens[:, : self.slots[level][1]])
        weights = nn.functional.one_hot(torch.zeros(len(pixel_values), dtype=torch.long), len(self.slots)).float()
        project = core.multi_modal_projector  # its gates are 1 in this step: the levels differ later
        return project(torch.cat(parts, dim=1), weights), project(patch_tokens, weights)

    def forward(self, batch: list[dict]) -> tuple[torch.Tensor, ...]:
        """
        Logits at the positions that predict answers, and those tokens; logits at the nouns of questions, and what they
        should know; the projected patches.
        """
        visual, patches = self.visual_tokens(normalise(torch.stack([item["pixels"] for item in batch])))
        core, num_shared = self.model.model, len(self.positions)
        sequences = []
        for item in batch:
            ids, labels, levels, owners, positions, hints = [], [], [], [], [], []
            for owner, (prompt, answer, row) in enumerate(item["branches"], start=1):
                level, length = GRANULARITIES.index(row["granularity"]), len(prompt) + len(answer)
                ids += prompt + answer
                labels += [-100] * len(prompt) + answer
                hints += [item["hints"].get(token, -100) for token in prompt] + [-100] * len(answer)
                levels += [level] * length
                owners += [owner] * length
                positions += range(self.branch_start[level], self.branch_start[level] + length)
            sequences.append(torch.tensor([ids, labels, levels, owners, positions, hints]))
        longest = max(sequence.shape[1] for sequence in sequences)
        padded = torch.stack(
            [
                torch.cat(
                    [s, torch.tensor([[0], [-100], [0], [-1], [0], [-100]]).expand(-1, longest - s.shape[1])], dim=1
                )
                for s in sequences
            ]
        )
        ids, labels, levels, owners, positions, hints = padded.unbind(1)
        embed = core.get_input_embeddings()
        start = embed(torch.tensor(self.start_ids)).expand(len(batch), -1, -1)
        embeds = torch.cat([start, visual, embed(ids)], dim=1)
        uses = torch.cat(
            [self.uses.expand(len(batch), -1, -1), nn.functional.one_hot(levels, len(self.slots)).bool()], dim=1
        )
        owner = torch.cat([torch.zeros(len(batch), num_shared, dtype=torch.long), owners], dim=1)
        # a token sees what every level that uses it uses, of the shared part and of its own question
        is_seen = ~(uses[:, :, None] & ~uses[:, None]).any(-1)
        is_seen &= (owner[:, None] == 0) | (owner[:, None] == owner[:, :, None])
        is_seen &= torch.ones(embeds.shape[1], embeds.shape[1], dtype=torch.bool).tril()
        outputs = core.language_model(
            inputs_embeds=embeds,
            attention_mask=is_seen[:, None],
            position_ids=torch.cat([self.positions.expand(len(batch), -1), positions], dim=1),
            use_cache=False,
            output_hidden_states=True,
        )
        is_answer, is_hint, head = labels != -100, hints != -100, self.model.lm_head
        said = outputs.last_hidden_state[:, num_shared - 1 : -1][is_answer]
        # after half of the blocks, so that the others can read it at the noun and carry it to the answer
        middle = outputs.hidden_states[len(core.language_model.layers) // 2]
        known = core.language_model.norm(middle[:, num_shared:][is_hint])
        return head(said), labels[is_answer], head(known), hints[is_hint], patches


def word_tokens(tokenizer) -> dict[str, list[torch.Tensor]]:
    """Token ids of the classes' and colours' words, as a question and as an answer writes them."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, words in (("class", CLASSES[1:]), ("colour", ALL_COLOURS[1:])):
        for space in (" ", ""):
            ids = [tokenizer.encode(space + word, add_special_tokens=False) for word in words]
            assert all(len(token) == 1 for token in ids), [
                w for w, token in zip(words, ids, strict=True) if len(token) > 1
            ]
            found.setdefault(name, []).append(torch.tensor(ids).flatten())
    return found


def alignment_loss(patches: torch.Tensor, batch: list[dict], words, embeddings: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each patch's noun and colour, by the inner products of its projection with word embeddings."""
    losses = []
    for name, spellings in words.items():
        target = torch.stack([item[name] for item in batch]).flatten().long()
        target = torch.where(target > 0, target - 1, UNKNOWN)
        for ids in spellings:
            losses.append(cross_entropy(patches.flatten(0, 1) @ embeddings[ids].T, target, ignore_index=UNKNOWN))
    return torch.stack(losses).mean()


@torch.no_grad()
def evaluate(reader: PackedReader, data: Pictures) -> dict[str, float]:
    """Share of answers of which every token is the likeliest, given those before, by granularity and kind."""
    hits = defaultdict(list)
    for start in range(0, len(data), 50):
        batch = [data[index] for index in range(start, min(start + 50, len(data)))]
        logits, labels, *_ = reader(batch)
        is_right = (logits.argmax(-1) == labels).tolist()
        for item in batch:
            for _, answer, row in item["branches"]:
                hit = all(is_right[: len(answer)])
                del is_right[: len(answer)]
                for name in ("all", row["granularity"], f"{row['granularity']}/{row['kind']}"):
                    hits[name].append(hit)
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(hits.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, default=Path("runs/nano/encoder/model"))
    parser.add_argument("--output", type=Path, default=Path("runs/nano/backbones"))
    parser.add_argument(
        "--steps", type=int, default=3400, help="of 16 pictures with 9 questions (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--alignment", type=float, default=0.5, help="weight of the alignment loss (default: %(default)s)"
    )
    parser.add_argument(
        "--grounding", type=float, default=0.5, help="weight of the grounding loss (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not (arguments.output / "tokenizer").exists():
        make_tokenizer().save_pretrained(arguments.output / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.output / "tokenizer")
    model, processor = GranulonForConditionalGeneration.from_backbones(
        DINOv3ViTModel.from_pretrained(arguments.encoder),
        make_language_model(tokenizer),
        tokenizer=tokenizer,
        levels=LEVELS,
        controller_hidden_size=128,
        contribution_hidden_size=64,
        initializer_range=0.07,
    )
    model.requires_grad_(False)
    core = model.model
    core.multi_modal_projector.gate.data.fill_(1.0)
    for part in (core.language_model, core.multi_modal_projector.linear_1, core.multi_modal_projector.linear_2):
        part.requires_grad_(True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = make_optimizers(core.language_model.layers, parameters, arguments.learning_rate)
    reader, words = PackedReader(model, processor.tokenizer), word_tokens(processor.tokenizer)
    checkpoint, log_path = arguments.output / "checkpoint.pt", arguments.output / "log.jsonl"
    first, batch_size = 0, 16
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"], strict=False)  # the encoder comes from its own directory
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
        print(f"resumed after step {first}")
    # other scenes than those that the encoder was trained on
    data = Pictures(
        processor.tokenizer,
        "train",
        20_000_000 + first * batch_size,
        (arguments.steps - first) * batch_size,
        arguments.seed,
    )
    loader = iter(
        torch.utils.data.DataLoader(data, batch_size, num_workers=1, prefetch_factor=4, collate_fn=lambda items: items)
    )
    heldout = {
        split: Pictures(processor.tokenizer, split, 30_000_000, 200, arguments.seed, easy_share=0)
        for split in ("train", "compositions", "pictograms")
    }
    progress = tqdm(
        range(first, arguments.steps), initial=first, total=arguments.steps, desc="language", mininterval=5
    )
    begin, sums = time.monotonic(), defaultdict(list)
    for step in progress:
        set_learning_rate(optimizers, arguments.learning_rate, step, arguments.steps)
        batch = next(loader)
        logits, labels, noun_logits, hints, patches = reader(batch)
        answer, grounding = cross_entropy(logits, labels), cross_entropy(noun_logits, hints)
        alignment = alignment_loss(patches, batch, words, core.get_input_embeddings().weight)
        (answer + arguments.grounding * grounding + arguments.alignment * alignment).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        sums["answer"].append(answer.item())
        sums["grounding"].append(grounding.item())
        sums["alignment"].append(alignment.item())
        is_last = step + 1 == arguments.steps
        if (step + 1) % 50 == 0 or is_last:
            row = {"step": step + 1, "seconds": round(time.monotonic() - begin)}
            row |= {name: round(sum(values) / len(values), 4) for name, values in sums.items()}
            if (step + 1) % 400 == 0 or is_last:
                row["accuracy"] = {split: evaluate(reader, pictures) for split, pictures in heldout.items()}
                progress.write(json.dumps({split: values["all"] for split, values in row["accuracy"].items()}))
            with log_path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            progress.set_postfix(answer=row["answer"], grounding=row["grounding"])
            sums.clear()
        if (step + 1) % 100 == 0 or is_last:
            state = {
                "model": {name: value for name, value in model.state_dict().items() if "vision_tower" not in name},
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    model.save_pretrained(arguments.output / "model")
    processor.save_pretrained(arguments.output / "model")


if __name__ == "__main__":
    main()
