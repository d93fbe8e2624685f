"""What the licences of a model's parts and data ask of whoever publishes it. A reading aid, not legal advice."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from granulon.modeling_granulon.configuration_granulon import GranulonConfig
from granulon.modeling_granulon.encoders_granulon import ENCODERS

from .foreign import one_line


HUB_ID = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
SCRATCH = "scratch"  # origin of a part whose weights were trained here, from nothing


@dataclass(frozen=True)
class PartLicence:
    """
    Attributes:
        part: `Vision encoder` or `Language model`.
        origin: Hub id of the weights, `scratch`, or "" where it is not known.
        licence: identifier as the Hub's card metadata knows it, `other`, or "" where it is not known.
        name, link: what `other` stands for.
        terms: one sentence for the card.
        text: what the agreement's own text contains, where a copy of it must travel with the weights; else "".
        notice: a sentence that the NOTICE file must hold, or "".
        name_prefix: what the model's name must begin with, or "".
        is_noncommercial: no commercial use.
    """

    part: str
    model_type: str
    origin: str
    licence: str = ""
    name: str = ""
    link: str = ""
    terms: str = "the terms of its checkpoint, whose origin is not recorded."
    text: str = ""
    notice: str = ""
    name_prefix: str = ""
    is_noncommercial: bool = False

    @property
    def label(self) -> str:
        return f"{self.part} (`{self.model_type}`)"


def is_hub_id(name: Any) -> bool:
    """Whether `name` can be an `owner/name` of the Hub, rather than a path."""
    return isinstance(name, str) and HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def licences_of_parts(
    config: GranulonConfig, base_models: Iterable[str] = (), parts: dict[str, str] | None = None
) -> list[PartLicence]:
    """
    The terms of vision encoder and language model.

    Args:
        base_models: Hub ids that the weights may come from, where the config does not say.
        parts: origins by `vision_encoder` and `language_model`, a Hub id or `scratch`, in place of what the config
            says.
    """
    parts = parts or {}
    unknown = set(parts) - {"vision_encoder", "language_model"}
    if unknown:
        names = one_line(", ".join(sorted(unknown)))
        raise ValueError(f"`parts` names {names!r}, expected `vision_encoder` and `language_model`.")
    for part, origin in parts.items():
        if origin and origin != SCRATCH and not (isinstance(origin, str) and HUB_ID.fullmatch(origin)):
            raise ValueError(
                f"`parts`: the origin of `{part}` is {one_line(origin)!r}, expected an owner/name or {SCRATCH!r}."
            )
    found = []
    for key, part, part_config in (
        ("vision_encoder", "Vision encoder", config.vision_config),
        ("language_model", "Language model", config.text_config),
    ):
        recorded = getattr(part_config, "_name_or_path", "") or ""
        origin = parts.get(key) or (recorded if is_hub_id(recorded) else "")
        model_type = part_config.model_type
        guesses = [origin] if origin else [*base_models]
        terms = [_licence(part, model_type, guess) for guess in guesses]
        known = [term for term in terms if term.licence] or (terms if origin else [])
        found.append(known[0] if known else _licence(part, model_type, ""))
    return found


def _licence(part: str, model_type: str, origin: str) -> PartLicence:
    """The terms of a part that came from `origin`; nothing is claimed of origins that are not listed here."""
    blank = PartLicence(part, model_type, origin)
    if origin == SCRATCH:
        return replace(blank, licence="apache-2.0", terms="trained from scratch; Apache-2.0, as the code.")
    name = origin.lower()
    link = f"https://huggingface.co/{origin}" if origin else ""
    if part == "Vision encoder":
        return _encoder_licence(blank, link)
    if match := re.match(r"(?:meta-llama|unsloth)/(?:meta-)?llama-(\d(?:\.\d)?)", name):
        version = match[1]
        return replace(
            blank,
            licence=f"llama{version}",
            link=f"https://huggingface.co/{origin}/blob/main/LICENSE.txt",
            terms=f"Llama {version} Community License ([{origin}]({link})): a copy of the agreement travels with the "
            'weights, and the model\'s name begins with "Llama". Built with Llama.',
            text=f"LLAMA {version} COMMUNITY LICENSE",
            notice=f"Llama {version} is licensed under the Llama {version} Community License, Copyright © Meta "
            "Platforms, Inc. All Rights Reserved.",
            name_prefix="Llama",
        )
    if match := re.match(r"qwen/qwen(2\.5|2|3)-(?:vl-)?(\d+(?:\.\d+)?)b", name):
        if match[1] == "2.5" and match[2] in ("3", "72"):
            kind = "Research" if match[2] == "3" else "Community"
            terms = f"Qwen {kind} licence ([{origin}]({link})){': no commercial use' if match[2] == '3' else ''}."
            return replace(
                blank,
                licence="other",
                name="qwen-research" if match[2] == "3" else "qwen",
                link=f"https://huggingface.co/{origin}/blob/main/LICENSE",
                terms=f"{terms} Built with Qwen.",
                text="Qwen",
                notice="Built with Qwen.",
                is_noncommercial=match[2] == "3",
            )
        return replace(blank, licence="apache-2.0", terms=f"Apache-2.0 ([{origin}]({link})).")
    if re.match(r"huggingfacetb/smollm", name):
        return replace(blank, licence="apache-2.0", terms=f"Apache-2.0 ([{origin}]({link})).")
    if not origin and model_type == "llama":
        terms = (
            "the terms of its checkpoint, whose origin is not recorded; for Llama 3.2 the community licence, under "
            'which the model\'s name begins with "Llama". Built with Llama, where its weights are Meta’s.'
        )
        return replace(blank, terms=terms)
    return _of_origin(blank, link)


def _encoder_licence(blank: PartLicence, link: str) -> PartLicence:
    """As the encoder's row says of its publisher's weights, which a fine-tuned encoder contains, too."""
    rows = [row for row in ENCODERS.values() if re.match(row.hub_ids, blank.origin.lower())]
    licence = rows[0].licence if rows else None
    if licence is None and not blank.origin and blank.model_type in ENCODERS:
        unsaid = ENCODERS[blank.model_type].licence
        licence = unsaid if unsaid.title else None  # an agreement that must travel is named before its origin is known
    if licence is None:
        return _of_origin(blank, link)
    if not licence.link:
        return replace(blank, licence=licence.name, terms=f"{licence.name} ([{blank.origin}]({link})).")
    whose = "" if blank.origin else ", where its weights are its publisher’s"
    terms = (
        f"[{licence.title or licence.name}]({licence.link}){whose}: it covers every checkpoint that contains them, "
        "frozen or not; a copy of the agreement travels with them. "
    )
    return replace(
        blank,
        licence="other",
        name=licence.name,
        link=licence.link,
        terms=(terms + licence.notice).strip(),
        text=licence.title,
        notice=licence.notice,
    )


def _of_origin(blank: PartLicence, link: str) -> PartLicence:
    return replace(blank, terms=f"the terms of [{blank.origin}]({link}).") if blank.origin else blank


_DATA = (
    (r"seed[-_]?bench", "SEED-Bench", "CC-BY-NC-4.0", True),
    (r"surgsigma", "SurgSigma-DB", "CC-BY-NC-SA-4.0", True),
    (r"flux-reason", "FLUX-Reason-6M", "Apache-2.0", False),
    (r"easy[-_ ]?vqa", "easy-VQA", "MIT", False),
    (r"openmoji", "OpenMoji pictograms (openmoji.org)", "CC-BY-SA-4.0", False),
)


def licences_of_data(names: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Data sets among `names` whose terms are known: name, licence, and whether it forbids commercial use."""
    text = " ".join(names).lower()
    return [(name, licence, is_nc) for pattern, name, licence, is_nc in _DATA if re.search(pattern, text)]


def combined_metadata(parts: Iterable[PartLicence], licence: str | None = None) -> dict[str, str]:
    """
    `license` of the card, with `license_name` and `license_link` where it is `other`. Several terms at once are
    listed in LICENSE.md (see `licence_summary`); an origin that is not known claims no licence.
    """
    if licence is not None:
        return {"license": licence}
    parts = list(parts)
    special = [part for part in parts if part.licence not in ("", "apache-2.0", "mit")]
    if len(special) > 1:
        names = "-and-".join(part.name or part.licence for part in special)
        return {"license": "other", "license_name": names, "license_link": "LICENSE.md"}
    if special:
        part = special[0]
        named = {"license_name": part.name, "license_link": part.link} if part.licence == "other" else {}
        return {"license": part.licence, **named}
    return {"license": "apache-2.0"} if all(part.licence for part in parts) else {}


def licence_summary(parts: Iterable[PartLicence]) -> str:
    """LICENSE.md: which terms hold for which part. It replaces no agreement's own text."""
    lines = ["# Licences of the parts", "", "- Code (`*_granulon.py`): Apache-2.0."]
    lines += [f"- {part.label}: {part.terms}" for part in parts]
    lines += ["", "The weights as a whole may be used only as all of these allow.", ""]
    return "\n".join(lines)


def notice_text(parts: Iterable[PartLicence]) -> str:
    """The sentences of NOTICE, or "" where no licence asks for one."""
    return "".join(f"{part.notice}\n" for part in parts if part.notice)


def find_agreement(directory: Path, part: PartLicence) -> Path | None:
    """The file of `directory` that holds the text of a part's agreement."""
    for path in sorted(directory.glob("[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*")):
        if path.name != "LICENSE.md" or not path.read_text(errors="replace").startswith("# Licences of the parts"):
            text = re.sub(r"\s+", " ", path.read_text(errors="replace"))
            if part.text.lower() in text.lower() and len(text) > 1000:
                return path
    return None
