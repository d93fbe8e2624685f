"""Several sources as one, and one source as two that share no image."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
from datasets import Dataset, Features, Image, List

from .faults import BadRows
from .loading import TrainingData


def split_by_image(data: TrainingData, share: float, seed: int = 0) -> tuple[TrainingData, TrainingData]:
    """
    Hold out about a `share` of the images, with all their rows, by a seeded hash of the image's content or path: rows
    about one image never fall on both sides, and the split does not depend on the order of the rows.

    Raises:
        ValueError: a stream, a share outside (0, 1), or a side that would be empty.
    """
    if data.num_rows is None:
        raise ValueError("A stream cannot be split: name a held-out data set in `eval_data`.")
    if not 0 < share < 1:
        raise ValueError(f"The held-out `share` is {share}, but must lie between 0 and 1.")
    rows = data.dataset.select_columns(["images"]).cast_column("images", List(Image(decode=False)))
    held: list[int] = []
    kept: list[int] = []
    for index, row in enumerate(rows):
        first = row["images"][0] if row["images"] else None
        content = str(index) if first is None else first["bytes"] or Path(first["path"]).name
        (held if seeded_fraction(seed, content) < share else kept).append(index)
    if not held or not kept:
        raise ValueError(
            f"Holding out {share:.1%} of {data.num_rows} rows by image leaves {len(kept)} to train on and {len(held)} "
            "to evaluate on. Choose another `share`, or name a data set in `eval_data`."
        )
    parts = []
    for indices, side in ((kept, "train"), (held, "held out")):
        fingerprint = hashlib.sha256(f"{data.fingerprint}/{share}/{seed}/{side}".encode()).hexdigest()
        parts.append(
            replace(
                data,
                dataset=data.dataset.select(indices),
                name=f"{data.name} ({side})",
                num_rows=len(indices),
                fingerprint=fingerprint,
            )
        )
    return parts[0], parts[1]


def combine(parts: Sequence[TrainingData]) -> TrainingData:
    """Several sources one after the other (streams too); training shuffles them. All must have one layout."""
    if len(parts) == 1:
        return parts[0]
    layouts = {part.layout for part in parts}
    if len(layouts) > 1:
        raise ValueError(f"The sources have the layouts {sorted(layouts)}: load all with `layout='messages'`.")
    if len({part.num_rows is None for part in parts}) > 1:
        raise ValueError("Some sources stream and some do not. Set `streaming` alike for all of them.")
    is_stream = parts[0].num_rows is None
    features = parts[0].dataset.features
    for part in parts[1:]:
        features = Features({**features, **part.dataset.features})
    same = [part.dataset if is_stream else _with_features(part.dataset, features) for part in parts]
    bad = BadRows("all sources", [row for part in parts for row in part.bad_rows.rows])
    bad.num_seen = sum(part.bad_rows.num_seen for part in parts)
    return TrainingData(
        datasets.concatenate_datasets(same),
        " + ".join(part.name for part in parts),
        None if is_stream else sum(part.num_rows or 0 for part in parts),
        hashlib.sha256("/".join(part.fingerprint for part in parts).encode()).hexdigest(),
        bad,
        parts[0].layout,
    )


def _with_features(dataset: Dataset, features: Features) -> Dataset:
    for name, feature in features.items():
        if name not in dataset.column_names:
            empty = -1 if name == "granularity" else None
            dataset = dataset.add_column(name, [empty] * len(dataset), feature=feature)
    return dataset.select_columns(list(features)).cast(features)


def seeded_fraction(seed: int, content: bytes | str) -> float:
    """A number in [0, 1) that depends on nothing but `seed` and `content`: the same on every machine."""
    data = content if isinstance(content, bytes) else content.encode()
    digest = hashlib.blake2b(data, key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
