"""`LensResult`: what a lens said, in plain numpy with named axes, and the certificate that it was read right."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .certificate import Certificate
from .display import visible

if TYPE_CHECKING:
    from .components import Important

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


class Site(NamedTuple):
    """One place that is read: a layer, what of it, and which head (None where heads do not apply)."""

    layer: int | None
    component: str = "resid_post"
    head: int | None = None

    def __str__(self) -> str:
        if self.component in ("embed", "vector"):  # of no layer
            return self.component
        head = "" if self.head is None else f".{self.head}"
        return f"{self.layer}" if self.component == "resid_post" else f"{self.layer}.{self.component}{head}"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The packed token axis: prompts end to end, only the positions that were asked for.

    Each field is an array `[token]`. A token at `position` t predicts the token at t+1, `next_id` (−1 where the
    prompt ends). `generated` says that the model itself wrote `next_id`; then `next_logprob` is what its own
    distribution gave it, and `sampler_logprob` what was left of that after temperature, top-p and the rest (NaN where
    nothing was generated; both None in a result without generation).
    """

    prompt: NDArray[np.int32]
    position: NDArray[np.int32]
    id: NDArray[np.int32]
    next_id: NDArray[np.int32]
    generated: NDArray[np.bool_]
    text: list[str]
    next_logprob: NDArray[np.float32] | None = None
    sampler_logprob: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.id)


class Response(NamedTuple):
    """What a model wrote after one prompt, and why it stopped.

    `finish` is "eos", "stop" (a stop string), "length" (`max_new_tokens`), "time" (`max_time`) or "interrupted".
    """

    text: str
    finish: str


def one_prompt(result: Any, axes_of: dict[str, tuple[str, ...]], prompt: Any) -> tuple[int, dict[str, Any]]:
    """Which prompt `result[prompt]` is, and the result's arrays, tokens and prompts cut to it."""
    if not isinstance(prompt, int | np.integer):
        raise TypeError(f"result[i] is one prompt's result, i a whole number; received {prompt!r}.")
    if not -len(result) <= prompt < len(result):
        raise IndexError(f"prompt {prompt} is out of range: the result holds {len(result)}.")
    number = range(len(result))[prompt]
    here = np.flatnonzero(result.tokens.prompt == number)
    cut: dict[str, Any] = {"prompts": [result.prompts[number]]}
    for name, axes in axes_of.items():
        array = getattr(result, name)
        if "token" in axes:
            array = array.take(here, axes.index("token"))
        cut[name] = array[number : number + 1] if axes[0] == "prompt" else array
    columns = {f.name: getattr(result.tokens, f.name) for f in dataclasses.fields(Tokens) if f.name != "text"}
    there = {name: column[here] for name, column in columns.items() if column is not None}
    tokens = Tokens(**there, text=[result.tokens.text[i] for i in here])
    cut["tokens"] = dataclasses.replace(tokens, prompt=np.zeros_like(tokens.prompt))
    return number, cut


@dataclass(frozen=True, repr=False, eq=False)
class LensResult:
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

    def __iter__(self) -> Iterator[LensResult]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, prompt: int) -> LensResult:
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

    def name(self, token: int, beside: Iterable[int], width: int = 20, show: Callable[..., str] = visible) -> str:
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
            marks.append("RAW STREAM: the final norm was not applied, these are not the model's predictions")
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

    def settled(self, of: str | int = "final", *, component: str | None = None) -> NDArray[np.int32]:
        """The first *index into `sites`* from which a token is top-1 and stays, `[token]`; −1 for never.

        `of` as in `of()`: by default the model's own answer. `component`: along which sites; None for "resid_post", or
        for the only component that was read.

        Raises:
            ValueError: a component that was not read, or several to choose from; heads have no order to settle along.
        """
        from .components import series

        along = np.array(series(self.sites, component))
        first = self.of(of)[1] == 0
        if len(along) < len(self.sites):
            first = first[along]
        stays = np.logical_and.accumulate(first[::-1], axis=0)[::-1]
        return np.where(stays.any(0), along[stays.argmax(0)], -1).astype(np.int32)

    def important(
        self,
        metric: str = "prob",
        threshold: float | None = None,
        *,
        of: str | int | None = None,
        prompt: int = 0,
        position: int = -1,
    ) -> list[Important]:
        """The sites that stand out after one token, each with the number that says so, in the order of `sites`.

        It is a threshold on what the lens shows, not a test of what the model uses: a site can stand out although
        nothing later reads it, and a layer that works in another basis does not stand out. What a block adds
        ("attn_out", "mlp_out" …) is read alone, so its numbers say nothing of how much it moves the stream.

        Args:
            metric: "prob": the probability of the token `of`, or of the site's own top-1 (default threshold 0.5).
                "kl_drop": by how many nats `kl_to_final` falls (0.5). "target_jump": by how many nats the
                log-probability of `of` rises (1.0). Both compare with the site before it *in the stream*: a step to
                `resid_mid` is attention's, one to `resid_post` the MLP's. The first site has none, nor has what a block
                adds; where layers were left out a step spans several.
            threshold: A site is important from this value on, itself included.
            of: As in `of()`. For "target_jump" None is the first target, or "final" where there is none.
            prompt: Which prompt.
            position: Which of its selected tokens; −1 is the last.

        Raises:
            ValueError: an argument that does not fit the result; the message says what would.

        Example:
            >>> heatmap(result, sites=result.important("kl_drop", 1.0))
        """
        from .tracks import important

        return important(self, metric, threshold, of=of, prompt=prompt, position=position)

    def __str__(self) -> str:
        from ._generation_table import generation_text
        from ._table import table

        if self.tokens.generated.any():
            return generation_text(self)
        return table(self)

    @property
    def size(self) -> str:
        """In words: prompts, tokens, sites."""
        counts = {"prompt": len(self), "token": len(self.tokens), "site": len(self.sites)}
        return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())

    def __repr__(self) -> str:
        mark = f"; {self.mark}" if self.mark else ""
        return f"LensResult({self.provenance.get('model', '?')}: {self.size}{mark})"

    def _repr_html_(self) -> str:
        from .notebook import lens_html

        return lens_html(self)

    def summary(self) -> str:
        """A few lines for an assistant: where the answer settles, how the targets' ranks move, what to distrust."""
        from ._summary import summary

        return summary(self)

    def to_frame(self) -> Any:
        """Long-form pandas: one row per site, token and predicted token, with the role it plays there.

        `role` is "top" (with `k`), "next", "final", "target" (with `k`) or "tracked". Of a generation also
        `generated`, `next_logprob` and `sampler_logprob` of the token after which the row is, as in `tokens`.

        Raises:
            LensError: pandas is not installed.
        """
        from .frames import to_frame

        return to_frame(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small): complete or not at all, and without pickle."""
        from .files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LensResult:
        """Read what `save` wrote, exactly.

        Raises:
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        from .files import load

        return load(path)
