"""Name the scripts that `paste` writes.

This file imports nothing, so that `--help` answers at once.
"""

from __future__ import annotations

# What each script shows.
SCRIPTS = {
    "first-lens": "what each layer would predict next",
    "top-k": "the most likely tokens at every position, with entropy",
    "token-track": "ranks and log-probabilities of chosen tokens",
    "grid-heatmap": "a picture of layers and tokens",
    "batch": "several prompts, each with its own answer",
    "components": "what attention and MLP add to the stream",
    "attribution": "how much each of them adds to a logit difference",
    "generation": "while the model writes",
    "image-lens": "what is said at the patches of an image",
    "steer": "what it says when a direction is added to its stream",
    "patch-map": "which positions and layers carry an answer",
    "remote": "an NDIF job that can be resumed",
}
