"""`SurveyArrays`: what a survey found of each item at each site."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Axes, Site
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.lens import UNIFORM_ROUNDING, find_output, uniform_distance
from lens_recipes.arrays.run_record import RunRecord
from lens_recipes.arrays.sites import components, layer_series
from lens_recipes.caller import advised

# The arrays of a survey and their axes. `spelling` is as wide as the item with the most of them.
SURVEY_AXES: Axes = {
    "number": ("item",),
    "target_ids": ("item", "spelling"),
    "against_ids": ("item", "spelling"),
    "answer_ids": ("item",),
    "position": ("item",),
    "ranks": ("item", "site"),
    "logprobs": ("item", "site"),
    "against_logprobs": ("item", "site"),
    "entropy": ("item", "site"),
    "kl_to_final": ("item", "site"),
    "top_ids": ("item", "site"),
    "shuffled_ranks": ("item", "site"),
    "shuffled_logprobs": ("item", "site"),
    "random_ranks": ("item", "site"),
    "random_logprobs": ("item", "site"),
}

# What a control is called, and how the names of its arrays begin.
CONTROLS = {"shuffle": "shuffled", "random": "random"}
DEFAULT_CONTROL = "shuffle"


class Shown(NamedTuple):
    """What tables, figures and sentences show of a survey, unless they are asked otherwise.

    Attributes:
        metrics: Which metrics; None for those that a view takes by itself.
        control: What the answer is held against; None for nothing.
    """

    metrics: tuple[str, ...] | None = None
    control: str | None = DEFAULT_CONTROL


class ItemNames(NamedTuple):
    """What an item is called and belongs to.

    Attributes:
        id: Its name.
        group: Its condition; "" for none.
        cluster: Which items it is resampled with; "" for none.
        prompt: Display text.
    """

    id: str
    group: str
    cluster: str
    prompt: str


@dataclass(frozen=True, repr=False, eq=False)
class SurveyArrays(RunRecord):
    """The numbers of a survey: `Survey` without the methods that show and save it.

    Log-probabilities are natural, entropy and KL in nats, ranks 0 for the top. A rank is the best
    of an answer's spellings, a probability the sum of theirs. NaN, or −1 for a rank, stands where
    an item has nothing of the kind: no `against`, or no other answer for a control.

    `Survey` says what each field holds; `SURVEY_AXES` says which axes each array has.
    """

    sites: list[Site]
    names: list[ItemNames]
    number: NDArray[np.int64]
    target_ids: NDArray[np.int32]
    against_ids: NDArray[np.int32]
    answer_ids: NDArray[np.int32]
    position: NDArray[np.int32]
    ranks: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    against_logprobs: NDArray[np.float32]
    entropy: NDArray[np.float32]
    kl_to_final: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    shuffled_ranks: NDArray[np.int32]
    shuffled_logprobs: NDArray[np.float32]
    random_ranks: NDArray[np.int32]
    random_logprobs: NDArray[np.float32]
    left_out: list[tuple[int, str, str, str]] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    certificate: Certificate | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shown(self) -> Shown:
        """What views show unless they are asked otherwise: as `survey` was told."""
        asked = self.provenance.get("shown")
        if not isinstance(asked, dict):
            return Shown()
        metrics = asked.get("metrics")
        return Shown(None if metrics is None else tuple(metrics), asked.get("control"))

    @property
    def shards(self) -> list[tuple[int, int]]:
        """Which parts of how many it is, such as [(3, 16)]; empty for the whole."""
        arguments = self.provenance.get("arguments")
        shard = arguments.get("shard") if isinstance(arguments, dict) else None
        if not isinstance(shard, list) or not shard:
            return []
        several = shard if isinstance(shard[0], list) else [shard]
        for each in several:  # a file may say anything
            is_pair = isinstance(each, list) and len(each) == 2
            if not is_pair or not all(type(number) is int for number in each):
                return []
        return [(number, n_parts) for number, n_parts in several]

    @property
    def groups(self) -> list[str]:
        """The conditions, in the order in which they first come."""
        return list(dict.fromkeys(name.group for name in self.names))

    @property
    def output_site(self) -> int:
        """The index of the site that is the model's own output; −1 if it was not read."""
        return find_output(self.sites, self.kl_to_final.T)

    @property
    def layer_sites(self) -> list[int]:
        """The indices of the sites of the stream after each block, or of the one component.

        Raises:
            ValueError: several components were read and not that stream, or heads alone.
        """
        try:
            return layer_series(self.sites)
        except ValueError:
            read = ", ".join(map(repr, components(self.sites)))
            raise ValueError(
                f"this follows one component through the layers, and the survey read {read}: make "
                f"it with {advised('components', 'resid_post')} as well. The table shows what was "
                "read."
            ) from None

    @property
    def has_line(self) -> bool:
        """Whether `layer_sites` are known."""
        names = components(self.sites)
        return "resid_post" in names or (len(names) == 1 and names[0] != "head_out")

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Where the lens is better than a uniform guess at the output, `[item, site]`.

        As for a lens result: False where KL(model ‖ lens) is above ln V − entropy of the model's
        output. True where that entropy is not known, as the output was not read.
        """
        if self.output_site < 0:
            return np.ones(self.kl_to_final.shape, dtype=bool)
        distance = uniform_distance(self.entropy[:, self.output_site], self.provenance)
        return ~(self.kl_to_final > distance[:, None] + UNIFORM_ROUNDING)

    @property
    def unfitted(self) -> NDArray[np.bool_]:
        """Which items are read at a position where the lens was never fitted, `[item]`."""
        return np.asarray(self.position < self.lens.first_position)

    def check_has_items(self) -> None:
        """Raise a ValueError if this is a part of a survey without any item."""
        if not len(self):
            raise ValueError(
                "this part of a survey has no items, so it has no numbers: Survey.merge joins it "
                "with the others."
            )

    def items_of(self, group: str | None) -> NDArray[np.intp]:
        """Return the indices of the items of a group; None for all.

        Raises:
            ValueError: there is no such group, or there are no items.
        """
        self.check_has_items()
        if group is None:
            return np.arange(len(self))
        indices = [index for index, name in enumerate(self.names) if name.group == group]
        if not indices:
            known = ", ".join(map(repr, self.groups))
            raise ValueError(f"group={group!r} is unknown: this survey has {known}.")
        return np.array(indices)

    def clusters_of(self, indices: NDArray[np.intp]) -> list[str] | None:
        """Return the cluster of some items; None where no item has one.

        An item without one, among others with one, is a cluster by itself.
        """
        clusters = []
        for index in indices.tolist():
            cluster = self.names[index].cluster
            clusters.append(f"cluster {cluster}" if cluster else f"item {index}")
        if not any(cluster.startswith("cluster ") for cluster in clusters):
            return None
        return clusters
