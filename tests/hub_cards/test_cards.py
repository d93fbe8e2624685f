"""Model cards: valid metadata, nothing private, and what the checkpoint says of itself."""

from pathlib import Path

from huggingface_hub import ModelCard

from transformers import CLIPVisionConfig, LlamaConfig

from granulon import GranulonConfig
from granulon.hub_cards import render_card


def test_the_metadata_reads_back_and_names_the_parts(tmp_path: Path):
    bases = ["facebook/dinov3-vits16-pretrain-lvd1689m", "Qwen/Qwen2.5-0.5B-Instruct"]
    render_card(GranulonConfig(), base_models=bases).save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "transformers" and data.pipeline_tag == "image-text-to-text"
    assert data.base_model == bases and data.base_model_relation == "finetune"
    assert data.license == "other" and data.license_name == "dinov3-license"


def test_local_paths_stay_private(tmp_path: Path):
    (tmp_path / "vision").mkdir()
    text = str(render_card(GranulonConfig(), base_models=[str(tmp_path / "vision"), "./text", "C:\\text"]))
    assert str(tmp_path) not in text and "base_model" not in text


def test_levels_results_and_licences_follow_the_checkpoint():
    config = GranulonConfig(vision_config=CLIPVisionConfig(), text_config=LlamaConfig())
    untrained, trained = str(render_card(config)), str(render_card(config, results="| easy-vqa | 96.4 |"))
    for level in config.levels:
        assert f"| {level['name']} | {level['pool']} | {level['clusters']} | {level['tokens']} |" in untrained
    assert "train this model before" in untrained and "train this model before" not in trained
    assert "| easy-vqa | 96.4 |" in trained
    assert "dinov3-license" not in untrained and "Built with Llama" in untrained
