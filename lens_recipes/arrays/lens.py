"""`LensArrays`: what a lens said, in plain numpy with named axes, and its certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import (
    Axes,
    Inputs,
    Response,
    Site,
    Tokens,
    fields_of_prompt,
    prompt_number,
)
from lens_recipes.arrays.certificate import Certificate, norm_was_applied
from lens_recipes.arrays.edits.effects import EditEffects
from lens_recipes.arrays.edits.words import edits_in_words
from lens_recipes.arrays.images import Picture
from lens_recipes.arrays.run_record import RunRecord
from lens_recipes.arrays.sites import are_vectors, layer_series
from lens_recipes.arrays.text import EACH_TARGET as EACH_TARGET
from lens_recipes.arrays.text import counted, visible_token
from lens_recipes.caller import argument, say
from lens_recipes.terminal import one_line

# The arrays of a result and their axes, for views of one prompt and for files.
AXES: Axes = {
    "top_ids": ("site", "token", "k"),
    "top_logprobs": ("site", "token", "k"),
    "entropy": ("site", "token"),
    "kl_to_final": ("site", "token"),
    "logsumexp": ("site", "token"),
    "next_logprobs": ("site", "token"),
    "next_ranks": ("site", "token"),
    "final_ids": ("token",),
    "model_logprobs": ("token",),
    "model_entropy": ("token",),
    "final_logprobs": ("site", "token"),
    "final_ranks": ("site", "token"),
    "target_ids": ("prompt", "target"),
    "target_logits": ("site", "token", "target"),
    "target_logprobs": ("site", "token", "target"),
    "target_ranks": ("site", "token", "target"),
    "tracked_ids": ("token", "m"),
    "tracked_logprobs": ("site", "token", "m"),
}


SAME_DISTRIBUTION = 1e-3  # nats of KL to the model's own output, at the model's last layer
UNIFORM_ROUNDING = 1e-4  # nats by which rounding may make a uniform guess look worse than one


def find_output(sites: list[Site], kl_to_final: NDArray[np.float32]) -> int:
    """Return the index of the site that is the model's own output; −1 if it was not read."""
    streams = [index for index, site in enumerate(sites) if site.component == "resid_post"]
    if not streams:
        return -1
    last_stream = streams[-1]
    is_output = kl_to_final[last_stream].max(initial=0) < SAME_DISTRIBUTION
    return last_stream if is_output else -1


def output_entropy(
    sites: list[Site], kl_to_final: NDArray[np.float32], entropy: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the entropy of the model's own output, `[token]`, where it was not measured apart.

    It is that of the last layer's lens, where that is the model's output; else NaN, "not known".
    """
    site_index = find_output(sites, kl_to_final)
    return np.full_like(entropy[0], np.nan) if site_index < 0 else entropy[site_index].copy()


def uniform_distance(
    model_entropy: NDArray[np.float32], provenance: dict[str, Any]
) -> NDArray[np.float32]:
    """Return KL(model's own output ‖ uniform) = ln V − entropy, in nats; NaN where V is not known.

    Args:
        model_entropy: Of the model's output, in nats.
        provenance: Of the run, which names the size of the vocabulary.
    """
    vocab_size = int(provenance.get("vocab_size") or 0)
    if vocab_size < 1:
        return np.full_like(model_entropy, np.nan)
    return np.maximum(np.log(vocab_size) - model_entropy, 0).astype(np.float32)


@dataclass(frozen=True, repr=False, eq=False)
class LensArrays(RunRecord):
    """The numbers of a lens: `LensResult` without the methods that show and save it.

    `LensResult` says what each field holds; `AXES` says which axes each array has.
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
    model_entropy: NDArray[np.float32]
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
    inputs: list[Inputs] = field(default_factory=list)
    effects: EditEffects | None = None
    pictures: list[list[Picture]] = field(default_factory=list)

    # -- prompts -------------------------------------------------------

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Self]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, prompt: int) -> Self:
        """Return one prompt's result: the numbers that it has alone. (`texts` stays whole.)"""
        number = prompt_number(prompt, len(self))
        fields = fields_of_prompt(self, AXES, number)
        fields["responses"] = self.responses[number : number + 1]
        fields["pictures"] = self.pictures[number : number + 1]
        if self.effects is not None:
            fields["effects"] = self.effects.of_prompt(number)
        # Other prompts may have needed more columns for their tracked tokens.
        used_columns = (fields["tracked_ids"] >= 0).any(axis=0)
        for array_name in ("tracked_ids", "tracked_logprobs"):
            fields[array_name] = fields[array_name][..., used_columns]
        return dataclasses.replace(self, **fields)

    # -- names of tokens -----------------------------------------------

    def text(self, token: int) -> str:
        """Return the text of an id in this result."""
        return self.texts.get(int(token), f"#{token}")

    def name(
        self,
        token: int,
        beside: Iterable[int],
        width: int = 20,
        show: Callable[..., str] = visible_token,
    ) -> str:
        """Return the text of an id as it is shown, with the id where the text alone is ambiguous.

        It is ambiguous where another id of those `beside` it would look the same.
        """
        shown = show(self.text(token), width)
        for other in beside:
            if other != token and show(self.text(other), width) == shown:
                return f"{shown} ({token})"
        return shown

    def named(self, ids: Iterable[int], what: str | int) -> int | None:
        """Return the one of some ids that `what` means, a text or an id; None if it means none.

        Raises:
            ValueError: the text is that of several ids.
        """
        candidates = {int(token) for token in ids if token >= 0}
        if isinstance(what, str):
            matches = sorted(token for token in candidates if self.text(token) == what)
        else:
            matches = [token for token in candidates if token == what]
        if len(matches) > 1:
            raise ValueError(
                f"{what!r} is the text of several tokens: pass one of the ids "
                f"{', '.join(map(str, matches))}."
            )
        if not matches:
            return None
        return matches[0]

    # -- reading the numbers -------------------------------------------

    def of(self, what: str | int) -> tuple[NDArray[np.float32], NDArray[np.int32], str]:
        """Return log-probabilities and ranks `[site, token]` of one token, and its name.

        `what` is "next" (the token that follows in the prompt), "final" (the model's own answer),
        "target" (each prompt's own target, the first where it has several) or one token that is a
        target of every prompt, as text or id. A target whose text is one of these words is named
        by its id.

        Raises:
            ValueError: not a target of this result, or the text of several; the message lists them.
        """
        if what == "next":
            return self.next_logprobs, self.next_ranks, "the next token"
        if what == "final":
            return self.final_logprobs, self.final_ranks, "the model's answer"
        if what == "target":
            column = self._first_target_column()
        else:
            column = self._common_target_column(what)
        name = self._name_of_target_column(column)
        return self.target_logprobs[..., column], self.target_ranks[..., column], name

    def _first_target_column(self) -> int:
        """Return the column of `target_ids` that "target" means.

        Raises:
            ValueError: there are no targets.
        """
        if self.target_ids.shape[-1] == 0:
            raise ValueError(
                'of="target" is each prompt\'s own target, and this result has none: pass targets= '
                'to the recipe, such as targets=[[" Paris"], [" Rome"]], one list for each prompt.'
            )
        return 0

    def _common_target_column(self, what: str | int) -> int:
        """Return the column of `target_ids` in which every prompt has the target `what`.

        Raises:
            ValueError: a prompt has no such target, or has it in another column.
        """
        id_of_each_prompt = [self.named(token_ids, what) for token_ids in self.target_ids]
        if id_of_each_prompt:
            for column, token_ids in enumerate(self.target_ids.T.tolist()):
                if token_ids == id_of_each_prompt:
                    return column
        distinct_ids = dict.fromkeys(self.target_ids.ravel().tolist())
        known = ", ".join(repr(self.text(token)) for token in distinct_ids) or "none"
        raise ValueError(
            f'{argument("of", what)} is unknown: accepted are "next", "final", "target" (each '
            f"prompt's own) and a target of every prompt here; the targets are ({known}). "
            + say(
                python="Pass targets= to the recipe, or take one prompt: result[i].",
                shell="Run it with --target to follow another.",
            )
        )

    def _name_of_target_column(self, column: int) -> str:
        """Return the name of the targets in one column of `target_ids`."""
        token_ids = self.target_ids[:, column].tolist()
        texts = {self.text(token) for token in token_ids}
        if len(texts) != 1:
            return EACH_TARGET
        if len(set(token_ids)) > 1:  # of one text: no id is that of all prompts
            return self.name(token_ids[0], [])
        return self.name(token_ids[0], self.target_ids.ravel())

    def settled(
        self, of: str | int = "final", *, component: str | None = None
    ) -> NDArray[np.int32]:
        """Return where a token becomes top-1 and stays, `[token]`: its prediction depth.

        The values are *indices into `sites`*, −1 for never. Where the site before cannot be read
        (`readable`), the token may have been top-1 earlier: say "first read at", not "decided at".
        The idea is the prediction depth of
        Baldock et al. 2021, and the saturation event of Geva et al. 2022.

        Args:
            of: As in `of()`; by default the model's own answer.
            component: Along which sites; None for "resid_post", or for the only component that was
                read.

        Raises:
            ValueError: a component that was not read, or several to choose from; heads have no
                order to settle along.
        """
        series = np.array(layer_series(self.sites, component))
        _, ranks, _ = self.of(of)
        is_top = ranks[series] == 0
        stays_top = np.logical_and.accumulate(is_top[::-1], axis=0)[::-1]
        first_site = series[stays_top.argmax(axis=0)]
        return np.where(stays_top.any(axis=0), first_site, -1).astype(np.int32)

    # -- what may be believed ------------------------------------------

    @property
    def fitted(self) -> NDArray[np.bool_]:
        """Return which tokens stand where the lens was fitted, `[token]`.

        A Jacobian lens is fitted on no token before position 16: what it says there is a guess. All
        are True with the logit lens, and of vectors, which have no position.
        """
        if are_vectors(self.sites):
            return np.ones(len(self.tokens), dtype=bool)
        return self.tokens.position >= self.lens.first_position

    @property
    def output_site(self) -> int:
        """Return the index of the site that is the model's own output; −1 if it was not read."""
        return find_output(self.sites, self.kl_to_final)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Return where the lens is better than a uniform guess at the output, `[site, token]`.

        False where KL(model ‖ lens) is above KL(model ‖ uniform) = ln V − entropy of the model's
        output, for a vocabulary of V tokens. What such a cell predicts is no evidence of what the
        model knows there: a lens that does not transfer says little, and says it with confidence.

        True where nothing is known of that: of vectors, and in a file of an earlier version that
        keeps neither the entropy of the model's output nor its last layer.
        """
        return ~(self.kl_to_final > self.kl_to_uniform + UNIFORM_ROUNDING)

    @property
    def kl_to_uniform(self) -> NDArray[np.float32]:
        """Return KL(model's own output ‖ uniform) in nats, `[token]`; NaN where it is not known."""
        return uniform_distance(self.model_entropy, self.provenance)

    # -- reading the run -----------------------------------------------

    @property
    def timings(self) -> dict[str, float | None]:
        """Return where the time of a generation went; empty where the model did not generate.

        Seconds: `load_s` (None if `load` did not build the model), `tokenise_s`, `prefill_s`,
        `decode_s` (all steps after the first, sampling included), `decode_per_token_s`, `lens_s`,
        `text_s` (ids to text). Beside them are `input_tokens`, `output_tokens`, and
        `tokens_per_second` of prefill, decode and lens together.
        """
        return dict(self.provenance.get("timings", {}))

    @property
    def normed(self) -> bool:
        """Return whether the final norm was applied (`apply_norm=False` reads the raw stream)."""
        return norm_was_applied(self.provenance)

    @property
    def mark(self) -> str:
        """Return what every view must say beside the numbers; empty when nothing is wrong."""
        warnings = [mark for mark in [super().mark] if mark]
        if not self.normed:
            warnings.append(
                "RAW STREAM: the final norm was not applied, these are not the model's predictions"
            )
        return "; ".join(warnings)

    @property
    def size(self) -> str:
        """Return the numbers of prompts, tokens and sites, in words."""
        counts = (
            counted(len(self), "prompt"),
            counted(len(self.tokens), "token"),
            counted(len(self.sites), "site"),
        )
        return ", ".join(counts)

    def __repr__(self) -> str:
        model = one_line(str(self.provenance.get("model", "?")))
        lens = "" if self.lens.is_logit else f", {self.lens.name}"
        edited = f"; {edits_in_words(self.edits)}" if self.edits else ""
        warning = f"; {self.mark}" if self.mark else ""
        return f"LensResult({model}{lens}: {self.size}{edited}{warning})"
