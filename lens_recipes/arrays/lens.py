"""`LensResult`: what a lens said, in plain numpy with named axes, and the certificate that it was read right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Response, Site, Tokens, one_prompt
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.text import visible_token

if TYPE_CHECKING:
    pass


# The arrays of a result and their axes, for views of one prompt and for files.
AXES: dict[str, tuple[str, ...]] = {
    "top_ids": ("site", "token", "k"),
    "top_logprobs": ("site", "token", "k"),
    "entropy": ("site", "token"),
    "kl_to_final": ("site", "token"),
    "logsumexp": ("site", "token"),
    "next_logprobs": ("site", "token"),
    "next_ranks": ("site", "token"),
    "final_ids": ("token",),
    "model_logprobs": ("token",),
    "final_logprobs": ("site", "token"),
    "final_ranks": ("site", "token"),
    "target_ids": ("prompt", "target"),
    "target_logits": ("site", "token", "target"),
    "target_logprobs": ("site", "token", "target"),
    "target_ranks": ("site", "token", "target"),
    "tracked_ids": ("token", "m"),
    "tracked_logprobs": ("site", "token", "m"),
}


@dataclass(frozen=True, repr=False, eq=False)
class LensArrays:
    """What each site of a model predicts after each token. Axes `[site, token, …]`; `tokens` names the tokens.

    Log-probabilities are natural logs, entropy and KL are in nats, rank 0 is the top. `final_*` is about the model's
    own answer, its top-1 after that token; `next_*` about the token that really follows (NaN, rank −1 where the
    prompt ends). `len(result)` is the number of prompts, `result[i]` the result of one, with the numbers it has alone.

    Attributes:
        sites: The places that were read, `[site]`.
        tokens: The packed token axis.
        prompts: Display text of every prompt, `[prompt]`.
        top_ids, top_logprobs: The k most likely tokens, `[site, token, k]`.
        entropy: Of the lens distribution, `[site, token]`.
        kl_to_final: KL(model's own output ‖ lens), `[site, token]`.
        logsumexp: log Σ exp of the logits, `[site, token]`: logit = logprob + logsumexp.
        next_logprobs, next_ranks: Of the prompt's next token, `[site, token]`.
        final_ids, model_logprobs: The model's answer and the log-probability it gave it, `[token]`.
        final_logprobs, final_ranks: What each site makes of that answer, `[site, token]`.
        target_ids: `[prompt, target]`.
        target_logits, target_logprobs, target_ranks: `[site, token, target]`.
        tracked_ids: Tokens followed through all sites of their position, `[token, m]`; −1 pads.
        tracked_logprobs: `[site, token, m]`.
        texts: id → text of every id above.
        certificate: The proof, or None with the reason in `provenance["certificate"]`.
        provenance: Model, versions, recipe, arguments, seconds.
        responses: What the model wrote after each prompt, `[prompt]`; empty where it did not generate.
    """

    sites: list[Site]
    tokens: Tokens
    prompts: list[str]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    entropy: NDArray[np.float32]
    kl_to_final: NDArray[np.float32]
    logsumexp: NDArray[np.float32]
    next_logprobs: NDArray[np.float32]
    next_ranks: NDArray[np.int32]
    final_ids: NDArray[np.int32]
    model_logprobs: NDArray[np.float32]
    final_logprobs: NDArray[np.float32]
    final_ranks: NDArray[np.int32]
    target_ids: NDArray[np.int32]
    target_logits: NDArray[np.float32]
    target_logprobs: NDArray[np.float32]
    target_ranks: NDArray[np.int32]
    tracked_ids: NDArray[np.int32]
    tracked_logprobs: NDArray[np.float32]
    texts: dict[int, str]
    certificate: Certificate | None
    provenance: dict[str, Any] = field(default_factory=dict)
    responses: list[Response] = field(default_factory=list)

    # -- prompts -------------------------------------------------------

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, prompt: int) -> Self:
        """One prompt's result: the numbers that it has alone. (`texts` stays whole.)"""
        number, cut = one_prompt(self, AXES, prompt)
        cut["responses"] = self.responses[number : number + 1]
        followed = (cut["tracked_ids"] >= 0).any(0)  # other prompts may have needed more columns
        cut |= {name: cut[name][..., followed] for name in ("tracked_ids", "tracked_logprobs")}
        return dataclasses.replace(self, **cut)

    @property
    def timings(self) -> dict[str, float | None]:
        """Where the time of a generation went; empty where the model did not generate.

        Seconds: `load_s` (None if `load` did not build the model), `tokenise_s`, `prefill_s`, `decode_s` (all steps
        after the first, sampling included), `decode_per_token_s`, `lens_s`, `text_s` (ids to text). And `input_tokens`,
        `output_tokens`, and `tokens_per_second` of prefill, decode and lens together.
        """
        return dict(self.provenance.get("timings", {}))

    def text(self, token: int) -> str:
        """The text of an id in this result."""
        return self.texts.get(int(token), f"#{token}")

    def name(
        self,
        token: int,
        beside: Iterable[int],
        width: int = 20,
        show: Callable[..., str] = visible_token,
    ) -> str:
        """The text of an id as it is shown, with the id where another one `beside` it would look the same."""
        shown = show(self.text(token), width)
        twin = any(i != token and show(self.text(i), width) == shown for i in beside)
        return f"{shown} ({token})" if twin else shown

    def named(self, ids: Iterable[int], what: str | int) -> int | None:
        """The one of some ids that `what` means, a text or an id; None where there is none.

        Raises:
            ValueError: the text is that of several.
        """
        text = isinstance(what, str)
        found = sorted({int(i) for i in ids if i >= 0 and (self.text(i) if text else i) == what})
        if len(found) > 1:
            raise ValueError(
                f"{what!r} is the text of several tokens: pass one of the ids {', '.join(map(str, found))}."
            )
        return found[0] if found else None

    # -- reading it ----------------------------------------------------

    @property
    def normed(self) -> bool:
        """Whether the final norm was applied (`apply_norm=False` reads the raw stream)."""
        return bool(self.provenance.get("arguments", {}).get("apply_norm", True))

    @property
    def mark(self) -> str:
        """What every view must say beside the numbers; empty when nothing is wrong."""
        marks = []
        if self.certificate is not None and not self.certificate.passed:
            marks.append("NOT CERTIFIED")
        if not self.normed:
            marks.append(
                "RAW STREAM: the final norm was not applied, these are not the model's predictions"
            )
        return "; ".join(marks)

    def of(self, what: str | int) -> tuple[NDArray[np.float32], NDArray[np.int32], str]:
        """Log-probabilities and ranks `[site, token]` of one token at each position, and its name.

        `what` is "next" (the token that follows in the prompt), "final" (the model's own answer) or one of the
        targets, as text or id.

        Raises:
            ValueError: not a target of this result, or the text of several; the message lists them.
        """
        if what == "next":
            return self.next_logprobs, self.next_ranks, "the next token"
        if what == "final":
            return self.final_logprobs, self.final_ranks, "the model's answer"
        each = [self.named(ids, what) for ids in self.target_ids]  # of each prompt
        for j, ids in enumerate(self.target_ids.T.tolist()):
            if each and each == ids:
                several = len(set(ids)) > 1  # then none is the id of all prompts
                name = self.name(ids[0], [] if several else self.target_ids.ravel())
                return self.target_logprobs[..., j], self.target_ranks[..., j], name
        known = [repr(self.text(i)) for i in dict.fromkeys(self.target_ids.ravel().tolist())]
        raise ValueError(
            f'of={what!r} is unknown: accepted are "next", "final" and a target of every prompt here; the targets are '
            f"({', '.join(known) or 'none'}). Pass targets= to the recipe, or take one prompt: result[i]."
        )

    def settled(
        self, of: str | int = "final", *, component: str | None = None
    ) -> NDArray[np.int32]:
        """The first *index into `sites`* from which a token is top-1 and stays, `[token]`; −1 for never.

        `of` as in `of()`: by default the model's own answer. `component`: along which sites; None for "resid_post", or
        for the only component that was read.

        Raises:
            ValueError: a component that was not read, or several to choose from; heads have no order to settle along.
        """
        from lens_recipes.arrays.sites import layer_series as series

        along = np.array(series(self.sites, component))
        first = self.of(of)[1] == 0
        if len(along) < len(self.sites):
            first = first[along]
        stays = np.logical_and.accumulate(first[::-1], axis=0)[::-1]
        return np.where(stays.any(0), along[stays.argmax(0)], -1).astype(np.int32)

    @property
    def size(self) -> str:
        """In words: prompts, tokens, sites."""
        counts = {"prompt": len(self), "token": len(self.tokens), "site": len(self.sites)}
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())

    def __repr__(self) -> str:
        mark = f"; {self.mark}" if self.mark else ""
        return f"LensResult({self.provenance.get('model', '?')}: {self.size}{mark})"
