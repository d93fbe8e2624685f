"""The model card of a Granulon: metadata that the Hub validates, usage, levels, licences of the parts."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from granulon.modeling_granulon import GranulonConfig


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_DINOV3_LICENCE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"


def render_card(
    config: GranulonConfig,
    title: str = "Granulon",
    repo_id: str = "path/to/this/directory",
    base_models: list[str] | None = None,
    results: str | None = None,
) -> ModelCard:
    """
    Args:
        title: the card's heading.
        repo_id: what the usage example loads.
        base_models: what the parts were taken from. Only Hub ids are named; local paths stay private.
        results: Markdown; without it the card says that the model is not trained.
    """
    hub_ids = [name for name in base_models or [] if _HUB_ID.fullmatch(name) and not Path(name).exists()]
    vision, text = config.vision_config.model_type, config.text_config.model_type
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["granulon", "custom_code", "vision-language-model", vision, text],
    }
    licences = {
        f"Vision encoder (`{vision}`)": "the terms of its checkpoint.",
        f"Language model (`{text}`)": "the terms of its checkpoint.",
        "Code": "Apache-2.0.",
    }
    if hub_ids:
        metadata |= {"base_model": hub_ids, "base_model_relation": "finetune"}
    if vision == "dinov3_vit":
        metadata |= {"license": "other", "license_name": "dinov3-license", "license_link": _DINOV3_LICENCE}
        licences[f"Vision encoder (`{vision}`)"] = (
            f"[DINOv3 licence]({_DINOV3_LICENCE}), where its weights are Meta's: it covers every checkpoint that "
            "contains them. Built with DINOv3."
        )
    if text == "llama":
        licences[f"Language model (`{text}`)"] = (
            "the terms of its checkpoint; for Llama 3.2 the community licence, under which the model's name begins "
            "with "
            '"Llama". Built with Llama.'
        )
    return ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(Path(__file__).with_name("model_card.md")),
        title=title,
        repo_id=repo_id,
        vision_type=vision,
        text_type=text,
        levels=config.levels,
        image_size=config.image_size,
        licences=licences,
        results=results,
    )
