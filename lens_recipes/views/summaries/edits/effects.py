"""What edits did, beside controls: the sentences of summaries, tables and pages."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.edits.effects import BASE, EDITED, EditEffects, Effect
from lens_recipes.arrays.edits.kinds import Steering, Swap
from lens_recipes.arrays.edits.verdict import Verdict
from lens_recipes.arrays.lens import EACH_TARGET, LensArrays
from lens_recipes.arrays.text import counted
from lens_recipes.views.words import edited, probability, signed

NO_BASE = (
    "no unedited run beside it, so no effect is known: run the same without edits, and compare"
)


def effect_lines(result: LensArrays) -> Iterator[str]:
    """Yield what was edited, and each effect beside its controls; nothing without edits.

    Effects are those after the last token that was read of each prompt.
    """
    if not result.edits:
        return
    effects = result.effects
    if effects is None:
        yield f"{edited(result)}; {NO_BASE}"
        return
    yield f"{edited(result)}; {controls_in_words(result, effects)}"
    for target in range(effects.target_logits.shape[-1]):
        yield f"  {target_name(result, target)}: {describe_change(effects.of(target))}"
    if effects.target_logits.shape[-1] == 0:
        yield f"  the unedited answer: {describe_change(effects.of('answer'))}"
    kl = effects.of("kl").verdict
    moved = beside_controls(kl, is_change=False)
    yield f"  KL to the unedited output {moved}; {top1_words(result)}"
    yield from cone_line(effects)


def effect_line(result: LensArrays) -> str:
    """Return in one line what the edits did, for below a table; empty without edits.

    Example: "edited: ablate (to zero) L23H4: ' Paris' −1.70 nats (5 controls −0.04 to +0.01):
    beyond the control".
    """
    if not result.edits:
        return ""
    effects = result.effects
    if effects is None:
        return f"{edited(result)}; {NO_BASE}"
    if effects.target_logits.shape[-1] > 0:
        told = f"{target_name(result, 0)} {beside_controls(effects.of(0).verdict)}"
    else:
        kl = effects.of("kl").verdict
        told = f"KL to the unedited output {beside_controls(kl, is_change=False)}"
    return f"{edited(result)}: {told}"


def controls_in_words(result: LensArrays, effects: EditEffects) -> str:
    """Return what the controls were: "5 controls: the same at random sites of 269: L8H5, …"."""
    if effects.missing:
        return effects.missing
    n_controls = counted(len(effects.controls), "control")
    if effects.n_sites is None:
        return f"{n_controls}: random directions of the same size"
    names = ", ".join(effects.controls)
    words = f"the same at random sites of {effects.n_sites}: {names}"
    if any(isinstance(edit, Steering | Swap) for edit in result.edits):
        words = f"random sites of {effects.n_sites} and random directions: {names}"
    return f"{n_controls}: {words}"


def describe_change(effect: Effect) -> str:
    """Return the change of a token's log-probability, beside its controls."""
    words = beside_controls(effect.verdict)
    if len(effect.change) > 1:
        return words
    before, after = probability(effect.before[0]), probability(effect.after[0])
    return f"p {before} → {after}, {words}"


def beside_controls(verdict: Verdict, *, is_change: bool = True, unit: str = " nats") -> str:
    """Return an effect beside its controls, and whether it is beyond them.

    Example: "−1.70 nats (5 controls −0.04 to +0.01): beyond the control"; of several prompts
    "−1.70 nats [−2.10, −1.30] (…): …".

    Args:
        verdict: Of the effect.
        is_change: Whether it has a sign.
        unit: Of the effect.
    """
    show = signed if is_change else unsigned
    words = f"{show(verdict.effect)}{unit}"
    if verdict.n_prompts > 1:
        low, high = verdict.effect_interval
        words += f" [{show(low)}, {show(high)}] over {verdict.n_prompts} prompts"
    if verdict.beyond is None:
        return f"{words} (no control)"
    controls = counted(verdict.n_controls, "control")
    band = f"{show(verdict.control_low)} to {show(verdict.control_high)}"
    return f"{words} ({controls} {band}): {verdict.words}"


def unsigned(value: float) -> str:
    """Return a number without the sign that `signed` gives what is not negative.

    >>> unsigned(1.2), unsigned(0.0012), unsigned(-0.5)
    ('1.20', '0.0012', '-0.50')
    """
    return signed(value).removeprefix("+")


def target_name(result: LensArrays, target: int) -> str:
    """Return the text of a target, or what it is called where the prompts have different ones."""
    texts = {result.text(token) for token in result.target_ids[:, target]}
    return repr(texts.pop()) if len(texts) == 1 else EACH_TARGET


def top1_words(result: LensArrays) -> str:
    """Return what became of the model's top-1: "top-1 ' Paris' becomes ' Rome'"."""
    effects = result.effects
    assert effects is not None  # the caller has seen to it
    tokens = effects.last_tokens()
    before, after = effects.top_ids[BASE, tokens], effects.top_ids[EDITED, tokens]
    if len(tokens) == 1:
        text = result.text(before[0])
        if before[0] == after[0]:
            return f"top-1 stays {text!r}"
        return f"top-1 {text!r} becomes {result.text(after[0])!r}"
    n_changed = int(np.count_nonzero(before != after))
    return f"top-1 changed in {n_changed} of {len(tokens)} prompts"


def cone_line(effects: EditEffects) -> Iterator[str]:
    """Yield what is proved of the tokens before the edited ones, where some were read."""
    if effects.n_outside == 0:
        return
    where = f"{counted(effects.n_outside, 'token')} before the edited ones"
    if effects.max_outside == 0:
        yield f"  outside the causal cone: the logits after {where} are bit-equal"
    else:
        yield f"  outside the causal cone: {where}, logits moved by {effects.max_outside:.1g}"


def why_not_beyond(verdicts: list[Verdict]) -> str:
    """Return why no effect is beyond the control."""
    for verdict in verdicts:
        if abs(verdict.effect) > max(abs(verdict.control_low), abs(verdict.control_high)):
            return "the prompts differ too much to tell the effect from that of random edits"
    return "random edits of the same kind do as much"


def effect_doubts(result: LensArrays) -> Iterator[str]:
    """Yield that an effect is not beyond its control, where that is so."""
    effects = result.effects
    if effects is None:
        return
    targets: list[int | str] = list(range(effects.target_logits.shape[-1]))
    verdicts = [effects.of(what).verdict for what in targets or ["kl"]]
    if all(verdict.beyond is False for verdict in verdicts):
        yield f"not beyond the control: {why_not_beyond(verdicts)}"
    if effects.missing:
        yield f"{effects.missing}: what these edits did may be what any edit does"
    elif any(math.isnan(verdict.effect) for verdict in verdicts):
        yield "an effect is not a number"
