"""Whether a model writes after a padded prompt what it writes after the prompt alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.weights.offload import input_device
from lens_recipes.run.batches import can_pad, left_padded, same_logits, trial_prompts
from lens_recipes.run.request.request import Request

STEPS = 3  # the first reads the prompt, the others what was cached


def can_write_padded(request: Request) -> bool:
    """Tell whether prompts have different lengths and may be written on in one batch.

    A padded prompt can be read right and yet be continued wrong: the state of linear attention
    (MiniMax), or a cache whose positions are counted by its length (GIT), holds the padding too.
    Tried with a small run, again when the model was changed.
    """
    if not can_pad(request):
        return False
    known = request.known
    if known.writes_on_harmlessly is None:
        known.writes_on_harmlessly = try_writing(request.model, request.anatomy)
    return known.writes_on_harmlessly


def try_writing(model: Envoy, anatomy: Anatomy) -> bool:
    """Write after five tokens beside nine, and alone, and compare the logits of each step."""
    long, short = trial_prompts(anatomy)
    module = model._module
    try:
        together = step_logits(module, [long, short], anatomy)
        alone = step_logits(module, [short], anatomy)
    except Exception:  # a model that cannot take a mask, or cannot be told which token to write
        return False
    return same_logits(model, together[:, 1], alone[:, 0])


def step_logits(
    module: nn.Module, prompts: list[list[int]], anatomy: Anatomy
) -> Float[Tensor, "step prompt vocab"]:
    """Return the logits of some steps after prompts, which are told what to write."""
    padded = left_padded(prompts)
    device = input_device(module)
    settings = GenerationConfig(
        max_new_tokens=STEPS,
        do_sample=False,
        use_cache=True,
        eos_token_id=None,
        pad_token_id=anatomy.plain_ids[0],
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.no_grad():
        written = module.generate(  # type: ignore[operator]
            padded.ids.to(device),
            attention_mask=padded.mask.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([OneToken(anatomy.plain_ids[-1])]),
        )
    return torch.stack(written.logits).float()


class OneToken(LogitsProcessor):
    """Lets one token alone be written."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores that leave no other choice."""
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.token] = 0
        return forced
