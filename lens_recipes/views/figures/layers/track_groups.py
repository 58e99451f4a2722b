"""The lines of `trajectory`: which tokens are followed, after which tokens of which prompts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import no_rank
from lens_recipes.arrays.metrics.followed import ROLES
from lens_recipes.arrays.metrics.tracks import (
    Track,
    at_token,
    followed,
    has_number,
    named,
    named_prompts,
    tracks,
)
from lens_recipes.arrays.sites import token_index
from lens_recipes.caller import say
from lens_recipes.views.figures.base.style import DASHES

MAX_GROUPS = len(DASHES)  # each group has a dash of its own
MAX_NAMES = 10  # of tracked tokens that an error lists


class TrackGroup(NamedTuple):
    """The lines that are predicted after one token of one prompt.

    Attributes:
        single: The result of that prompt.
        token: An index into its tokens.
        tracks: The tokens that are followed.
    """

    single: LensArrays
    token: int
    tracks: list[Track]


def choose_positions(position: Any) -> list[Any]:
    """Return one or several positions as a list without repetitions.

    Raises:
        ValueError: none, or more than dashes tell apart.
    """
    positions = [position]
    if isinstance(position, Iterable):
        positions = list(dict.fromkeys(position))
    if not 1 <= len(positions) <= MAX_GROUPS:
        raise ValueError(
            f"position= names {len(positions)} tokens; dashes tell 1 to {MAX_GROUPS} apart: "
            "pass that many."
        )
    return positions


def choose_prompts(result: LensArrays, prompts: Any, n_positions: int) -> list[int]:
    """Return the numbers of the prompts that are drawn; None for the first, as many as possible.

    Raises:
        ValueError: no prompt of the result, or more than dashes tell apart with so many positions.
    """
    max_prompts = MAX_GROUPS // n_positions
    if prompts is None:
        return list(range(min(len(result), max_prompts)))
    numbers = named_prompts(result, prompts)
    if not 1 <= len(numbers) <= max_prompts:
        each = f" of {n_positions} positions each" if n_positions > 1 else ""
        raise ValueError(
            f"prompts= names {len(numbers)} prompts{each}; dashes tell 1 to {MAX_GROUPS} apart: "
            "pass that many."
        )
    return numbers


def make_groups(
    result: LensArrays, prompts: Iterable[int], positions: list[Any], of: Any, metric: str
) -> list[TrackGroup]:
    """Return a group of lines for each prompt and position.

    Args:
        result: The result of all prompts.
        prompts: Their numbers.
        positions: Indices into the tokens of each prompt, negative ones from the end.
        of: The tokens that are followed, as for `trajectory`.
        metric: What is drawn of them.

    Raises:
        ValueError: a position that was not read, or a token that has a number nowhere.
    """
    groups = []
    for prompt in prompts:
        single = result[prompt]
        tokens = [token_index(len(single.tokens), number, "position") for number in positions]
        for token in dict.fromkeys(tokens):
            groups.append(TrackGroup(single, token, tracks(single, of, metric, token)))
    _check_all_drawn(groups, of, metric)
    return _tell_names_apart(groups)


def _check_all_drawn(groups: list[TrackGroup], of: Any, metric: str) -> None:
    """Check that every token that was named has a number in some group.

    Where a token has no number in one group, it is only not drawn there. A logit difference was
    checked when its track was made.
    """
    if metric == "logit_diff":
        return
    if of is None:
        if any(group.tracks for group in groups):
            return
        of = _default_token(groups[0].single)
    for token_name in named(of):
        _check_drawn(groups, token_name, metric)


def _default_token(single: LensArrays) -> str | int:
    """Return the token that is followed where none is named: the first target, or the answer."""
    if single.target_ids.size:
        return int(single.target_ids[0, 0])
    return "final"


def _check_drawn(groups: list[TrackGroup], token_name: str | int, metric: str) -> None:
    """Check that one token has a number in some group.

    Raises:
        ValueError: it has none; the message says why, or which tokens are followed.
    """
    if token_name == "target":
        groups[0].single.of("target")  # raises the error that says what to do without targets
    following = []
    for group in groups:
        if token_name in followed(group.single, group.token, metric):
            following.append(group)
    if not following:
        raise ValueError(_unknown_token_message(groups, token_name))
    if not any(has_number(group.single, token_name, group.token) for group in following):
        # There is no number to read: the call raises the error that says why.
        at_token(following[0].single, token_name, following[0].token)


def _unknown_token_message(groups: list[TrackGroup], token_name: str | int) -> str:
    """Return an error message about a token that no group follows, with what is accepted."""
    known: set[str | int] = set()
    targets: set[str] = set()
    for group in groups:
        known |= followed(group.single, group.token, "prob")
        targets |= {group.single.text(token_id) for token_id in group.single.target_ids[0]}
    if token_name in known:
        return no_rank(token_name)
    texts = {text for text in known if isinstance(text, str)}
    tracked = sorted(texts - targets - set(ROLES))
    shown_targets = ", ".join(map(repr, sorted(targets))) or "none"
    shown_tracked = ", ".join(map(repr, tracked[:MAX_NAMES])) or "none"
    if len(tracked) > MAX_NAMES:
        shown_tracked += ", …"
    return (
        f'of={token_name!r} is unknown: accepted are "next", "final", "target", the targets '
        f"({shown_targets}) and the tracked tokens ({shown_tracked}). "
        + say(python="Pass targets= to the recipe.", shell="Run it with --target.")
    )


def _tell_names_apart(groups: list[TrackGroup]) -> list[TrackGroup]:
    """Return the groups with the id in the name of every token whose name another one has too."""
    keys_by_name: dict[str, set[Any]] = {}
    for group in groups:
        for track in group.tracks:
            keys_by_name.setdefault(track.name, set()).add(track.key)
    renamed_groups = []
    for group in groups:
        renamed = []
        for track in group.tracks:
            if len(keys_by_name[track.name]) > 1:
                track = track._replace(name=_name_with_ids(track))
            renamed.append(track)
        renamed_groups.append(group._replace(tracks=renamed))
    return renamed_groups


def _name_with_ids(track: Track) -> str:
    """Return the name of a track followed by its id, or by the two ids of a difference."""
    token_ids = track.key if isinstance(track.key, tuple) else (track.key,)
    return f"{track.name} ({', '.join(map(str, token_ids))})"
