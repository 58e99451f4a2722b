"""`lens-recipes anatomy`."""

from __future__ import annotations

from lens_recipes.cli.common.options import ModelName, Remote, load_model


def anatomy_command(model: ModelName = "smollm2", remote: Remote = False) -> None:
    """Show where a model keeps its blocks, norm and unembedding, and what it applies after them."""
    from lens_recipes import anatomy

    print(anatomy(load_model(model, remote, precision=None)))
