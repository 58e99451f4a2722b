"""transformers' own loop, which tells a recorder what is sampled and when a step ends.

It takes the place of `generate`'s loop in the caller's process, where tokens can be handed on as
they come.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation import StopStringCriteria

from lens_recipes.trace.generation.recorder import GenerationRecorder
from lens_recipes.trace.kernels import on_cpu


class RecordedLoop:
    """A loop for `generate(custom_generate=…)` that tells a recorder what was sampled."""

    def __init__(self, recorder: GenerationRecorder) -> None:
        """Begin before the first step."""
        self.recorder = recorder
        self.scores: Any = None

    def run(
        self,
        module: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **options: Any,
    ) -> Any:
        """Run transformers' loop. It has the signature that `custom_generate` is called with."""
        recorder = self.recorder
        recorder.start(input_ids.device)
        if recorder.batch.seed is not None:
            torch.manual_seed(recorder.batch.seed)
        if recorder.plan.stop:
            tokenizer = recorder.model.tokenizer
            stopping_criteria.append(StopStringCriteria(tokenizer, recorder.plan.stop))
        logits_processor.append(self.keep_scores)
        return type(module)._sample(
            module,
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=RecordedCriteria(stopping_criteria, self),
            generation_config=generation_config,
            **options,
        )

    def keep_scores(self, token_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the scores that are sampled from, as the last of the processors."""
        self.scores = scores
        return scores


class RecordedCriteria(StoppingCriteriaList):
    """transformers' criteria, which tell a recorder which of them end which rows."""

    def __init__(self, criteria: StoppingCriteriaList, loop: RecordedLoop) -> None:
        """Take over the criteria."""
        super().__init__(criteria)
        self.loop = loop

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **options: Any
    ) -> Float[Tensor, " row"]:
        """Tell which rows end, and record the step."""
        n_rows, device = len(input_ids), input_ids.device
        is_done = torch.zeros(n_rows, dtype=torch.bool, device=device)
        by_name: dict[str, Tensor] = {}
        for criterion in self:
            ended = torch.as_tensor(criterion(input_ids, scores, **options), device=device)
            is_done = is_done | ended
            name = type(criterion).__name__
            earlier = by_name.get(name)
            by_name[name] = ended.expand(n_rows) if earlier is None else earlier | ended
        ended_rows = {name: ended.tolist() for name, ended in on_cpu(by_name).items()}
        sampled_from, self.loop.scores = self.loop.scores, None  # not beside the next step's
        self.loop.recorder.record(input_ids, sampled_from, ended_rows)
        return is_done
