"""`ablate`, `patch`, `steer`, `swap`: the four kinds of edits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lens_recipes.arrays.edits.edit import Edit, from_json
from lens_recipes.arrays.used_lens import LENS_NAMES, UsedLens

REPLACEMENTS = ("zero", "mean", "resample")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablation(Edit):
    """An edit that takes away what a site says.

    Attributes:
        to: What stands there instead: "zero", "mean" (over the tokens of `over`), "resample" (what
            another prompt has there), or a vector `[d_model]` (of a head: `[d_head]`).
        over: Prompts for "mean" (None for a short text that comes with the package) and "resample"
            (None for the other prompts of the same call).
    """

    to: Any = "zero"
    over: Any = None

    kind: ClassVar[str] = "ablate"

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            ValueError: names what was received and what is accepted.
        """
        super().__post_init__()
        if isinstance(self.to, str) and self.to not in REPLACEMENTS:
            raise ValueError(
                f"to={self.to!r} is unknown: accepted are "
                f"{', '.join(map(repr, REPLACEMENTS))}, or a vector."
            )
        if self.over is not None and not (
            isinstance(self.to, str) and self.to in ("mean", "resample")
        ):
            raise ValueError('over= needs to="mean" or to="resample".')
        if isinstance(self.to, str) and self.to == "resample":
            self.refuse_written('to="resample" takes what another prompt has at the same position')

    @property
    def what(self) -> str:
        """Return what is done, in words that a place follows."""
        replacement = self.to if isinstance(self.to, str) else "a vector"
        return f"ablate (to {replacement})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch(Edit):
    """An edit that puts in what was there in another run.

    Attributes:
        source: The run: a prompt (text, ids or chat), or the number of a prompt of the same call.
        source_positions: Which tokens of the source, as many as `positions` names; None for the
            same ones.
    """

    source: Any = None
    source_positions: Any = None

    kind: ClassVar[str] = "patch"

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            ValueError: names what was received and what is accepted.
        """
        super().__post_init__()
        self.refuse_written("a patch takes what its source has, which is a prompt")

    @property
    def what(self) -> str:
        """Return what is done, in words that a place follows."""
        if isinstance(self.source, int):
            name = f"prompt {self.source}"
        elif isinstance(self.source, str):
            name = repr(self.source if len(self.source) <= 40 else f"{self.source[:37]}…")
        else:
            name = "another prompt"
        return f"patch from {name} into"


@dataclass(frozen=True, eq=False, kw_only=True)
class Steering(Edit):
    """An edit that adds a vector.

    Attributes:
        direction: A vector `[d_model]`; a token, whose direction under the lens is taken; or two,
            (token, minus).
        scale: How much of it. By default in units of the median norm that the site's vectors have
            in the same prompt.
        lens: The lens under which a token has a direction; None for the logit lens.
        normalize: False adds `scale` times the vector as it is.
    """

    direction: Any = None
    scale: float = 1.0
    lens: Any = None
    normalize: bool = True

    kind: ClassVar[str] = "steer"

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            ValueError: names what was received and what is accepted.
        """
        super().__post_init__()
        scale: Any = self.scale
        if isinstance(scale, np.generic | np.ndarray) or hasattr(scale, "detach"):
            scale = scale.item() if np.ndim(scale) == 0 else None
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise ValueError(f"scale={self.scale!r} must be a number.")
        try:
            number = float(scale)
        except OverflowError:  # a whole number that no float can hold
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"scale={self.scale!r:.60} must be finite.")
        object.__setattr__(self, "scale", number)
        refuse_no_flag("normalize", self.normalize)
        is_token = isinstance(self.direction, str | int | np.integer)
        if not self.normalize and (is_token or is_token_pair(self.direction)):
            raise ValueError(
                "normalize=False needs a vector: the direction of a token has no length of its own."
            )
        if self.component == "head_out":
            raise ValueError(
                'steer cannot go with component="head_out": steer "attn_out", to which a head '
                "adds, or ablate the head to a vector."
            )

    @property
    def what(self) -> str:
        """Return what is done, in words that a place follows."""
        return f"steer by {self.scale:g} × {direction_name(self.direction)} at"

    def __str__(self) -> str:
        return super().__str__() + under_lens(self.lens)


@dataclass(frozen=True, eq=False, kw_only=True)
class Swap(Edit):
    """An edit that exchanges the coordinates of two tokens' directions.

    Attributes:
        a, b: The tokens.
        lens: The lens under which they have directions; None for the logit lens.
        clamp: Whether the exchanged coordinates are those of the clean run. A live exchange over a
            band of layers undoes itself.
    """

    a: Any = None
    b: Any = None
    lens: Any = None
    clamp: bool = True

    kind: ClassVar[str] = "swap"

    def __post_init__(self) -> None:
        """Check what needs no model.

        Raises:
            ValueError: names what was received and what is accepted.
        """
        super().__post_init__()
        if not self.component.startswith(("resid_", "embed")):
            raise ValueError(
                f"component={self.component!r} cannot be swapped: the coordinates are those of the "
                'stream, "resid_pre", "resid_mid", "resid_post" or "embed".'
            )
        for name, token in (("a", self.a), ("b", self.b)):
            if isinstance(token, bool) or not isinstance(token, str | int | np.integer):
                raise ValueError(f"{name}={token!r} must be a token, as a string or an id.")
        if self.a == self.b:
            raise ValueError(f"a and b are the same token, {self.a!r}: there is nothing to swap.")
        refuse_no_flag("clamp", self.clamp)
        if self.clamp:
            self.refuse_written(
                "the coordinates are clamped to those of a clean run over the prompt; a live swap "
                "(clamp=False) can act on what is written"
            )

    @property
    def what(self) -> str:
        """Return what is done, in words that a place follows."""
        live = "" if self.clamp else " (live)"
        return f"swap {self.a!r} and {self.b!r}{live} in"

    def __str__(self) -> str:
        return super().__str__() + under_lens(self.lens)


def refuse_no_flag(name: str, value: Any) -> None:
    """Raise ValueError if an argument is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False.")


def direction_name(direction: Any) -> str:
    """Return a direction in words."""
    if isinstance(direction, str | int):
        return repr(direction)
    if is_token_pair(direction):
        token, minus = direction
        return f"({token!r} − {minus!r})"
    return "a vector"


def under_lens(lens: Any) -> str:
    """Return under which lens tokens have directions, with a space before it.

    Nothing for the logit lens.

    Args:
        lens: A lens, the path of one, or what a file says of it.
    """
    if lens is None or (isinstance(lens, str) and lens == "logit"):
        return ""
    if hasattr(lens, "used"):
        return f" under the {lens.used().named}"
    if not isinstance(lens, Mapping):
        return f" under the lens {str(lens)!r}"
    source = str(lens.get("source", ""))
    if lens.get("kind") not in list(LENS_NAMES):
        return f" under the lens {source!r}"
    return f" under the {UsedLens(lens['kind'], source, str(lens.get('digest', ''))).named}"


def is_token_pair(direction: Any) -> bool:
    """Tell whether a direction is a token minus another one."""
    is_pair = isinstance(direction, list | tuple) and len(direction) == 2
    return is_pair and all(isinstance(token, str | int | np.integer) for token in direction)


KINDS = {kind.kind: kind for kind in (Ablation, Patch, Steering, Swap)}


def edit_from_json(fields: Any) -> Edit:
    """Return the edit that `Edit.to_json` wrote.

    Raises:
        ValueError: it is no such edit.
    """
    try:
        values = dict(fields)
        kind = KINDS[values.pop("kind")]
        return kind(**{name: from_json(value) for name, value in values.items()})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"this is no edit that was saved: {fields!r}") from error


# -- what a caller writes ----------------------------------------------


def ablate(
    *,
    layer: Any = None,
    component: str = "resid_post",
    head: Any = None,
    to: Any = "zero",
    positions: Any = None,
    over: Any = None,
    when: str = "prompt",
) -> Ablation:
    """Return the edit that takes away what a site says.

    "zero" leaves the model's usual range, and so often says more about the zero than about the
    part; "mean" and "resample" stay within it (Chan et al. 2022, "Causal Scrubbing").

    Args:
        layer: One layer or several, negative from the end; None for all.
        component: "resid_pre", "resid_mid" or "resid_post", the stream; "attn_out", "mlp_out",
            "mixer_out" or "other_out", what a module adds to it; "head_out", one head's share;
            "embed", the stream before the first block.
        head: Of "head_out": one head or several; None for all of the layer.
        to: "zero"; "mean", over all tokens of `over` but the first of each prompt; "resample", what
            another prompt has at the same position; or a vector `[d_model]`. A head is edited where
            it enters its output projection: its vector is `[d_head]`.
        positions: Which tokens of each prompt, in the forms of `logit_lens`; None for all.
        over: Prompts for "mean" and "resample". None: a short text that comes with the package, or
            the other prompts of the same call.
        when: In generation: "prompt", "written" (every token that the model writes, as it goes
            through the model) or "both"; with "resample" the prompt alone.

    Raises:
        ValueError: an argument that no model could take.

    Example:
        >>> logit_lens(model, prompt, edits=[ablate(layer=23, component="head_out", head=4)])
    """
    return Ablation(
        layer=layer,
        component=component,
        head=head,
        positions=positions,
        when=when,
        to=to,
        over=over,
    )


def patch(
    source: Any,
    *,
    layer: Any = None,
    component: str = "resid_post",
    head: Any = None,
    positions: Any = None,
    source_positions: Any = None,
) -> Patch:
    """Return the edit that puts in what was there in another run (activation patching).

    Source: Vig et al. 2020; Meng et al. 2022 ("causal tracing").

    Args:
        source: The run to copy from: a prompt (text, ids or chat), or the number of a prompt of the
            same call. It is run without edits.
        layer, component, head, positions: As for `ablate`.
        source_positions: Which tokens of the source, as many as `positions` names; None for the
            same ones. In generation they are tokens of the prompt, too.

    Raises:
        ValueError: an argument that no model could take.

    Example:
        >>> clean, corrupt = "The capital of France is", "The capital of Spain is"
        >>> logit_lens(model, corrupt, edits=[patch(clean, layer=12, positions=3)])
    """
    return Patch(
        layer=layer,
        component=component,
        head=head,
        positions=positions,
        source=source,
        source_positions=source_positions,
    )


def steer(
    direction: Any,
    *,
    layer: Any = None,
    scale: float = 1.0,
    component: str = "resid_post",
    positions: Any = None,
    lens: Any = None,
    normalize: bool = True,
    when: str = "both",
) -> Steering:
    """Return the edit that adds a direction (activation steering).

    Source: Turner et al. 2023, "Activation Addition"; Rimsky et al. 2023.

    Args:
        direction: A vector `[d_model]`; a token, whose direction under the lens is taken with the
            final norm's gain; or two tokens, (token, minus), for the difference of theirs.
        layer, component, positions: As for `ablate`, but for single heads.
        scale: How much is added, in units of the median norm that the site's vectors have over the
            tokens of the same prompt. Negative to push away.
        lens: The lens under which a token has a direction: None for the logit lens, or as for
            `logit_lens`.
        normalize: False adds `scale` times the vector as it is.
        when: In generation: "prompt", "written" (every token that the model writes, as it goes
            through the model) or "both". The unit of `scale` is always that of the prompt.

    Raises:
        ValueError: an argument that no model could take.

    Example:
        >>> logit_lens(model, prompt, edits=[steer((" Rome", " Paris"), layer=20, scale=0.3)])
    """
    return Steering(
        layer=layer,
        component=component,
        positions=positions,
        when=when,
        direction=direction,
        scale=scale,
        lens=lens,
        normalize=normalize,
    )


def swap(
    a: str | int,
    b: str | int,
    *,
    layers: Any = None,
    positions: Any = None,
    lens: Any = None,
    clamp: bool = True,
    component: str = "resid_post",
    when: str = "prompt",
) -> Swap:
    """Return the edit that exchanges the coordinates of two tokens' directions in the stream.

    The stream's part in the plane of the two directions is written in their coordinates, and the
    two coordinates are exchanged; what is orthogonal to the plane stays.

    Args:
        a, b: The tokens, as strings or ids.
        layers: As `layer` of `ablate`.
        positions: As for `ablate`.
        lens: The lens under which the tokens have directions: None for the logit lens, or as for
            `logit_lens`.
        clamp: True sets the coordinates to the exchanged ones of the clean run, which runs beside.
            False exchanges those that are there, which over a band of layers undoes itself.
        component: A place of the stream.
        when: In generation: "prompt"; without `clamp` also "written" or "both".

    Raises:
        ValueError: an argument that no model could take.

    Example:
        >>> logit_lens(model, prompt, edits=[swap(" France", " Italy", layers=range(8, 20))])
    """
    return Swap(
        layer=layers,
        component=component,
        positions=positions,
        when=when,
        a=a,
        b=b,
        lens=lens,
        clamp=clamp,
    )
