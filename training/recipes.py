"""`load_recipe`, `dry_run`, `run_recipe` and what they return, under the one name that callers import."""

from .dry_run import DryRun, build_on_meta, dry_run, estimate_memory
from .recipe import (
    RECIPES,
    Recipe,
    build_arguments,
    load_data,
    load_model,
    load_recipe,
    peft_config,
    run_recipe,
    shipped_recipes,
)


__all__ = [
    "RECIPES",
    "DryRun",
    "Recipe",
    "build_arguments",
    "build_on_meta",
    "dry_run",
    "estimate_memory",
    "load_data",
    "load_model",
    "load_recipe",
    "peft_config",
    "run_recipe",
    "shipped_recipes",
]
