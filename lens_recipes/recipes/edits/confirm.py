"""`confirm()`: ablate the parts that an attribution names, and see what that does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Part
from lens_recipes.arrays.edits.confirmation import TOGETHER
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import REPLACEMENTS, ablate
from lens_recipes.arrays.text import EACH_TARGET
from lens_recipes.errors import LensError
from lens_recipes.recipes.edits.runs import MAX_BYTES, measure_runs
from lens_recipes.recipes.verify import positions_of, recorded_images, recorded_prompts
from lens_recipes.results import Attribution, Confirmation
from lens_recipes.run.edits.reference_text import REFERENCE_TEXTS
from lens_recipes.run.provenance import provenance
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_edits
from lens_recipes.run.request.prompts import encode
from lens_recipes.run.request.request import Request

METHODS = ("mean", "resample")
SEED = 20  # of the parts that are drawn
NOT_ABLATED = {
    "embed": "all else follows from the embedding",
    "bias": "it is no part that a module writes",
    "attn_bias": "it is a constant of the weights",
    "value_bias": "it is a constant of the weights",
}


def confirm(
    model: Envoy,
    attribution: Attribution,
    top: int = 5,
    *,
    methods: Sequence[str] = METHODS,
    controls: int = 5,
    target: int = 0,
    position: int = -1,
    everywhere: bool = False,
    over: Any = None,
    max_bytes: int = MAX_BYTES,
    remote: bool | str | None = None,
) -> Confirmation:
    """Ablate the parts that an attribution names, one at a time and all together.

    A part with a large direct effect need not matter: others may make up for it. What a finding
    may claim is what an intervention has shown, beyond what any part of the kind would do.

    Args:
        model: What `load()` returns: the model that was attributed. It comes first, as in every
            recipe: a result does not hold its model, and may come from a file.
        attribution: Of "layer", "component" or "head". A layer is ablated by all that it writes.
        top: How many parts, the largest by the mean direct effect over prompts.
        methods: What stands in a part's place: "mean" (over `over`), "resample" (what another
            prompt has there) or "zero".
        controls: How many random other parts of the same kind are ablated, too.
        target: Which target of each prompt, an index.
        position: Which of the tokens that were read of each prompt; −1 is the last.
        everywhere: Ablate at all tokens of a prompt, and not only at the one that was attributed,
            of which the direct effect is.
        over: Prompts for "mean" and "resample". None: a short text that comes with the package, and
            the other prompts of the attribution (that text, where none is as long).
        max_bytes, remote: As for `logit_lens`.

    Raises:
        ValueError: an attribution that cannot be confirmed: by token, of an inner layer, of several
            models, against the mean; or an argument that does not fit.
        LensError: an ablation does not hold, or the model is another one.

    Example:
        >>> who = attribution(model, prompts, targets, against=rivals, unit="head")
        >>> print(confirm(model, who, top=5))
    """
    check_arguments(attribution, top, methods, controls, target)
    refuse_images(attribution)
    positions = chosen_positions(attribution, position)
    against = attribution.against_ids[:, target]
    followed = []
    for own, other in zip(attribution.target_ids[:, target], against, strict=True):
        followed.append([int(own)] if other < 0 else [int(own), int(other)])
    request = Request(
        model,
        recorded_prompts(attribution),
        positions=[[place] for place in positions],
        targets=followed,
        remote=remote,
    )
    if attribution.at_layer != request.anatomy.last_layer:
        raise ValueError(
            f"at_layer={attribution.at_layer}: an attribution of an inner layer's lens cannot be "
            "confirmed by the model's own output. Run it without at_layer."
        )
    ablations = Ablations(request, positions, everywhere, over)
    direct = direct_effects(attribution, target, position)
    chosen, left_out = choose_parts(attribution, direct, top, ablations)
    groups = [[part] for part in chosen]
    if len(chosen) > 1:
        groups.append(list(chosen))
    beside = controls_of(groups, chosen, attribution.parts, controls, ablations)
    plan = plan_ablations(groups, beside, methods, ablations)
    arrays = measure_runs(request, plan.runs, "confirm", max_bytes=max_bytes)
    logits = arrays["effect_target_logits"].astype(np.float64)
    scores = logits[..., 0] - logits[..., 1] if logits.shape[-1] == 2 else logits[..., 0]
    falls = scores[0] - scores[1:]  # [run, prompt]
    n_controls = max(map(len, beside), default=0)
    shape = (len(methods), len(groups))
    totals = np.zeros((*shape, len(positions)))
    control_totals = np.full((*shape, n_controls, len(positions)), np.nan)
    for (method, group, control), fall in zip(plan.places, plan.falls_of(falls), strict=True):
        if control is None:
            totals[method, group] = fall
        else:
            control_totals[method, group, control] = fall
    numbers = {part: row for row, part in enumerate(attribution.parts)}
    names = [part_name(group) for group in groups]
    arguments = {"top": top, "methods": list(methods), "controls": controls}
    record = provenance(
        model, "confirm", arguments, request.anatomy.vocab_size, request.remote, request.seconds
    )
    return Confirmation(
        parts=names,
        methods=list(methods),
        prompts=list(attribution.prompts),
        target=target_words(attribution, target),
        direct=np.stack([direct[[numbers[part] for part in group]].sum(0) for group in groups]),
        base=scores[0],
        totals=totals,
        control_totals=control_totals,
        controls=[[part_name(other, whole=True) for other in others] for others in beside],
        left_out=left_out,
        where="at every token" if everywhere else "at the token that was attributed",
        provenance=record,
    )


# -- what is asked -----------------------------------------------------


def check_arguments(attribution: Any, top: Any, methods: Any, controls: Any, target: Any) -> None:
    """Refuse what cannot be confirmed.

    Raises:
        ValueError: names what was received and what is accepted.
    """
    if not isinstance(attribution, Attribution):
        raise ValueError(
            "confirm(model, attribution) takes a model and what attribution() returns; received "
            f"{type(attribution).__name__}."
        )
    if attribution.unit == "token":
        raise ValueError(
            'unit="token": a head\'s share by token is no site that can be ablated. Run '
            'attribution with unit="head".'
        )
    if attribution.edits:
        raise ValueError(
            "this attribution is of an edited run, and what is ablated here is the model itself. "
            "Run attribution without edits."
        )
    if attribution.against == "mean":
        raise ValueError(
            'against="mean": the mean over the vocabulary is not followed in an ablated run. Run '
            "attribution against a token, or against nothing."
        )
    if not attribution.inputs:
        raise ValueError("this attribution does not keep what the model was given: run it anew.")
    for name, value, least in (("top", top, 1), ("controls", controls, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number from {least}.")
    known = attribution.target_ids.shape[1]
    if type(target) is not int or not 0 <= target < known:
        raise ValueError(f"target={target!r}: there are targets 0 to {known - 1}.")
    given = [methods] if isinstance(methods, str) else list(methods)
    if not given or set(given) - set(REPLACEMENTS):
        accepted = ", ".join(map(repr, REPLACEMENTS))
        raise ValueError(f"methods={methods!r} must be one or several of {accepted}.")


def chosen_positions(attribution: Attribution, position: int) -> list[int]:
    """Return which position of each prompt is explained.

    Raises:
        ValueError: a prompt of which no such token was read.
    """
    chosen = []
    for number, positions in enumerate(positions_of(attribution)):
        if not -len(positions) <= position < len(positions):
            raise ValueError(
                f"position={position}: {len(positions)} tokens were read of prompt {number}."
            )
        chosen.append(positions[position])
    return chosen


def direct_effects(attribution: Attribution, target: int, position: int) -> np.ndarray:
    """Return the value of each part after the chosen token, `[part, prompt]`."""
    tokens = []
    for number in range(len(attribution)):
        tokens.append(np.flatnonzero(attribution.tokens.prompt == number)[position])
    return attribution.values[:, tokens, target].astype(np.float64)


def target_words(attribution: Attribution, target: int) -> str:
    """Return what the logit is of, in words."""

    def name(ids: Iterable[int]) -> str:
        texts = {attribution.text(token) for token in ids}
        return repr(texts.pop()) if len(texts) == 1 else EACH_TARGET

    own = f"logit of {name(attribution.target_ids[:, target])}"
    others = attribution.against_ids[:, target]
    if (others < 0).all():
        return own
    rivals = {attribution.text(token) for token in others}
    rival = repr(rivals.pop()) if len(rivals) == 1 else "each prompt's rival"
    return f"{own} − {rival}"


# -- which parts -------------------------------------------------------


class Ablations:
    """Makes the edits that ablate a part of an attribution."""

    def __init__(self, request: Request, positions: list[int], everywhere: bool, over: Any) -> None:
        """Take the prompts.

        Args:
            request: They.
            positions: The explained token of each.
            everywhere: Whether parts are ablated at all tokens.
            over: Prompts for "mean" and "resample", or None.
        """
        self.request = request
        lengths = [len(token_ids) for token_ids in request.token_ids]
        self.at_end = not everywhere and all(
            place == length - 1 for place, length in zip(positions, lengths, strict=True)
        )
        self.positions: Any = None
        if self.at_end:
            self.positions = -1
        elif not everywhere:
            self.positions = [[place] for place in positions]
        self.over = over
        self.first = 0

    def edits(self, part: Part, method: str) -> list[Edit]:
        """Return what ablates a part: one edit, or of a layer one for each component it writes."""
        components = [part.component]
        if part.component == "layer":
            block = self.request.blocks()[int(part.layer or 0)]
            components = [write.component for write in block.writes]
        over = None
        if method == "resample":
            over = self.sources()
        elif method == "mean":
            over = self.over
        return [
            ablate(
                layer=part.layer,
                component=component,
                head=part.head,
                to=method,
                positions=self.positions,
                over=over,
            )
            for component in dict.fromkeys(components)
        ]

    def plan(self, parts: Iterable[Part], method: str) -> list[PlannedEdit]:
        """Return the planned edits that ablate some parts, numbered on."""
        edits = [edit for part in parts for edit in self.edits(part, method)]
        planned = plan_edits(edits, self.request.blocks, self.request.anatomy, self.first)
        self.first += len(planned)
        return planned

    def why_not(self, part: Part) -> str:
        """Return why a part cannot be ablated; empty where it can."""
        if part.component in NOT_ABLATED:
            return NOT_ABLATED[part.component]
        try:
            plan_edits(self.edits(part, "zero"), self.request.blocks, self.request.anatomy)
        except (LensError, ValueError) as error:
            return str(error)
        return ""

    def sources(self) -> Any:
        """Return what is resampled from, one prompt for each: another one, or a plain text.

        It is as long as the prompt, unless only last tokens are ablated.

        Raises:
            ValueError: there is no other prompt, and no tokenizer for a text.
        """
        if self.over is not None:
            return self.over
        token_ids = self.request.token_ids
        sources = []
        for number, own in enumerate(token_ids):
            others = token_ids[number + 1 :] + token_ids[:number]
            fitting = [other for other in others if self.at_end or len(other) == len(own)]
            fitting = [other for other in fitting if other != own]
            sources.append(fitting[0] if fitting else self.text_as_long(len(own), number))
        return sources

    def text_as_long(self, length: int, number: int) -> list[int]:
        """Return the beginning of a plain text, so many tokens of it.

        Raises:
            ValueError: there is no tokenizer, or no text is as long.
        """
        if self.request.tokenizer is None:
            raise ValueError(
                "there is no other prompt to resample from, and no tokenizer for a text: pass "
                "over= with prompts as ids."
            )
        texts = encode([" ".join(REFERENCE_TEXTS)], self.request.tokenizer, add_special_tokens=True)
        ids = texts[0]
        if len(ids) < length:
            raise ValueError(
                f"prompt {number} has {length} tokens, and no other is as long: pass over= with a "
                "prompt to resample from."
            )
        return ids[:length]


def refuse_images(attribution: Attribution) -> None:
    """Raise ValueError for prompts with images, which an attribution does not keep."""
    if recorded_images(attribution) is not None:
        raise ValueError(
            "this attribution is of prompts with images, which it does not keep: ablate its parts "
            "one by one, logit_lens(model, prompts, images=…, edits=ablate(…)), and read effects."
        )


def choose_parts(
    attribution: Attribution, direct: np.ndarray, top: int, ablations: Ablations
) -> tuple[list[Part], list[str]]:
    """Return the parts with the largest mean direct effect, and those left out with the reason.

    Raises:
        ValueError: none can be ablated.
    """
    order = np.argsort(-np.abs(direct.mean(-1)), kind="stable")
    chosen: list[Part] = []
    left_out: list[str] = []
    for row in order:
        part = attribution.parts[row]
        reason = ablations.why_not(part)
        if reason:
            left_out.append(f"{part.short} ({direct[row].mean():+.2f}): {reason}")
        else:
            chosen.append(part)
        if len(chosen) == top:
            return chosen, left_out
    if not chosen:
        raise ValueError("none of the attribution's parts can be ablated.")
    return chosen, left_out


def controls_of(
    groups: list[list[Part]],
    chosen: list[Part],
    parts: list[Part],
    n_controls: int,
    ablations: Ablations,
) -> list[list[list[Part]]]:
    """Return the controls of each group; groups of the same kinds share theirs."""
    generator = random.Random(SEED)
    known: dict[tuple[str, ...], list[list[Part]]] = {}
    beside = []
    for group in groups:
        kinds = tuple(sorted(part.component for part in group))
        if kinds not in known:
            known[kinds] = random_groups(group, chosen, parts, n_controls, ablations, generator)
        beside.append(known[kinds])
    return beside


def random_groups(
    group: list[Part],
    chosen: list[Part],
    parts: list[Part],
    n_controls: int,
    ablations: Ablations,
    generator: random.Random,
) -> list[list[Part]]:
    """Return random parts of the same kinds in place of some, none of them among the chosen."""
    pools: dict[str, list[Part]] = {}
    for component in {part.component for part in group}:
        others = [part for part in parts if part.component == component and part not in chosen]
        pools[component] = [part for part in others if not ablations.why_not(part)]
    drawn: list[list[Part]] = []
    for _ in range(20 * n_controls):
        if len(drawn) == n_controls:
            break
        control: list[Part] = []
        for component, pool in sorted(pools.items()):
            n_parts = sum(part.component == component for part in group)
            if len(pool) < n_parts:
                return []
            control += sorted(generator.sample(pool, n_parts), key=parts.index)
        if control not in drawn:
            drawn.append(control)
    return drawn


def part_name(group: list[Part], *, whole: bool = False) -> str:
    """Return the name of one part, or of several."""
    if len(group) > 1 and not whole:
        return TOGETHER
    names = [f"layer {part.layer}" if part.component == "layer" else part.short for part in group]
    return ", ".join(names)


# -- the runs ----------------------------------------------------------


class AblationPlan(NamedTuple):
    """The runs of a confirmation.

    Attributes:
        runs: The planned edits of each; the same parts are ablated once.
        places: Method, group and control (None for the group itself) of each number.
        run_of: Which run gives it.
    """

    runs: list[list[PlannedEdit]]
    places: list[tuple[int, int, int | None]]
    run_of: list[int]

    def falls_of(self, falls: np.ndarray) -> list[np.ndarray]:
        """Return the fall of each place, `[prompt]`."""
        return [falls[run] for run in self.run_of]


def plan_ablations(
    groups: list[list[Part]],
    beside: list[list[list[Part]]],
    methods: Sequence[str],
    ablations: Ablations,
) -> AblationPlan:
    """Return the runs that ablate each group and each of its controls by each method."""
    plan = AblationPlan([], [], [])
    known: dict[tuple[str, frozenset[Part]], int] = {}
    for method_number, method in enumerate(methods):
        for number, group in enumerate(groups):
            variants: list[tuple[int | None, list[Part]]] = [(None, group)]
            variants += list(enumerate(beside[number]))
            for control, parts in variants:
                key = (method, frozenset(parts))
                if key not in known:
                    known[key] = len(plan.runs)
                    plan.runs.append(ablations.plan(parts, method))
                plan.places.append((method_number, number, control))
                plan.run_of.append(known[key])
    return plan
