"""The recipes that `paste` knows, and what each script finds. Imports nothing, so that `--help` answers at once."""

from __future__ import annotations

RECIPES = {
    "first-lens": "what each layer would say next",
    "top-k": "the most likely tokens at every position, with entropy",
    "token-track": "ranks and log-probabilities of some tokens",
    "grid-heatmap": "a picture of layers and tokens",
    "batch": "several prompts, each with its own answer",
    "components": "what attention and MLP write",
    "attribution": "how much each adds to the lead of a token over another",
    "generation": "while the model writes",
    "remote": "an NDIF job that can be resumed",
}
