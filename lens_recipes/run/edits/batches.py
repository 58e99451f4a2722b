"""Turn planned edits into what each batch needs: which tokens, what change, which other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Ablation, Patch, Steering, Swap, is_token_pair
from lens_recipes.arrays.edits.site_code import site_code
from lens_recipes.arrays.images import NO_PLACE, ImagePlace
from lens_recipes.caller import advised, say
from lens_recipes.models.images.added import layers_with_additions
from lens_recipes.models.images.both_ways import TYPES
from lens_recipes.models.images.processor import image_token_id, processor_of
from lens_recipes.run.batches import given_beside_ids, one_batch, with_inputs
from lens_recipes.run.edits.probe import EditProofs
from lens_recipes.run.edits.reference_text import REFERENCE_TEXTS
from lens_recipes.run.request.edits.controls import RandomMove
from lens_recipes.run.request.edits.layers import as_index, layer_edits
from lens_recipes.run.request.edits.planned import PlannedEdit, is_setting
from lens_recipes.run.request.edits.resolve import naming
from lens_recipes.run.request.encodings import MASK, POSITIONS, read_encoding
from lens_recipes.run.request.images.asked.chats import has_image_parts
from lens_recipes.run.request.images.asked.positions import image_positions
from lens_recipes.run.request.images.asked.slots import slot_of
from lens_recipes.run.request.lenses import transport_of
from lens_recipes.run.request.prompts import encode, refuse_empty, shortened
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import check_ids, pick_positions, target_id
from lens_recipes.trace.edits.changes import (
    AddDirection,
    AddRandom,
    CopySource,
    Partly,
    SetTo,
    SwapCoordinates,
)
from lens_recipes.trace.edits.directions import TokenDirection
from lens_recipes.trace.edits.plan import (
    BatchEdits,
    SiteEdit,
    SourceBatch,
    SourceRead,
)
from lens_recipes.trace.kernels import FORWARD_TOKENS

MAX_SOURCE_TOKENS = FORWARD_TOKENS  # in one forward pass over sources
RUNS_OF_A_PROBE = 3


class Source(NamedTuple):
    """A prompt from which something is copied.

    Attributes:
        token_ids: `[position]`.
        prompt: Which prompt of the call it is, where the model is given more than its ids, such as
            images; −1 for one of ids alone.
    """

    token_ids: tuple[int, ...]
    prompt: int = -1


class SourceTokens(NamedTuple):
    """What an edit copies: token after token, of which prompts.

    Attributes:
        prompts: The sources, `[source]`.
        positions: Which tokens of each are taken, `[source][token]`.
    """

    prompts: list[Source]
    positions: list[list[int]]


class EditBatches:
    """The edits of one request, batch by batch."""

    def __init__(
        self,
        request: Request,
        planned: Sequence[PlannedEdit],
        other_runs: Sequence[Sequence[PlannedEdit]] = (),
    ) -> None:
        """Check the edits against the prompts.

        Args:
            request: The prompts.
            planned: The edits, each at one site.
            other_runs: Edits of further runs of the same batches, such as controls, numbered on.

        Raises:
            ValueError: positions or sources that do not fit the prompts, or two edits that set the
                same site.
        """
        self.request = request
        self.runs = [planned, *other_runs]
        self.planned = [item for run in self.runs for item in run]
        self.positions: dict[int, list[list[int]]] = {}
        self.sources: dict[int, SourceTokens] = {}
        self.means: dict[int, list[list[int]]] = {}
        for item in self.planned:
            self.read_edit(item.edit)
        for item in planned:
            self.refuse_added_after(item)
        for run in self.runs:
            refuse_conflicts(run, self.positions)
        self.changes = [self.shared_change_of(item) for item in self.planned]
        self.mean_batches = self.batches_of_means()
        self.proofs = EditProofs(request, planned)
        self.unasked = self.proofs.probes
        self.kept_means: dict[int, Tensor] = {}
        self.batches_made = 0

    # -- what the edits name -------------------------------------------

    def read_edit(self, edit: Edit) -> None:
        """Read the positions and the sources of an edit, once.

        Raises:
            ValueError: they do not fit the prompts.
        """
        if id(edit) in self.positions:
            return
        token_ids = self.request.token_ids
        with naming(edit):
            chosen = image_positions(edit.positions, self.request.places, len(token_ids))
            positions = pick_positions(chosen, token_ids)
        self.positions[id(edit)] = positions
        if isinstance(edit, Patch):
            self.sources[id(edit)] = self.patch_sources(edit, positions)
        elif isinstance(edit, Swap) and edit.clamp:
            own = [self.own_source(number) for number in range(len(token_ids))]
            self.sources[id(edit)] = SourceTokens(own, positions)
        elif isinstance(edit, Ablation) and is_named(edit.to, "resample"):
            self.sources[id(edit)] = self.other_prompts(edit, positions)
        elif isinstance(edit, Ablation) and is_named(edit.to, "mean"):
            self.means[id(edit)] = self.mean_prompts(edit)

    def refuse_added_after(self, item: PlannedEdit) -> None:
        """Raise ValueError for an edit of a stream to which a model then adds its image.

        What the model goes on with would not be what was asked, and so not be proved.
        """
        site = item.site
        if not self.request.places or site.component != "resid_post":
            return
        if site.layer not in layers_with_additions(self.request.model):
            return
        pairs = zip(self.request.places, self.positions[id(item.edit)], strict=True)
        if any(places[position].image >= 0 for places, chosen in pairs for position in chosen):
            raise ValueError(
                f"{item.edit}: after this layer the model adds what it has seen to the stream of "
                f"image tokens, so what an edit leaves there does not stay. Edit resid_pre of "
                f"layer {site.layer + 1}, which is after that."
            )

    def encoded(self, prompts: Any, name: str) -> list[list[int]]:
        """Return prompts as ids, as those of the request are.

        Args:
            prompts: From which something is copied.
            name: What they are, for messages.

        Raises:
            ValueError: they are no prompts, or not of this model.
        """
        request = self.request
        try:
            if isinstance(prompts, Mapping) and "input_ids" in prompts:
                token_ids = ids_of_encoding(prompts)
            else:
                token_ids = encode(
                    prompts, request.tokenizer, add_special_tokens=request.add_special_tokens
                )
            refuse_empty(token_ids)
            self.refuse_images(prompts, token_ids)
            check_ids(token_ids, request.anatomy.n_embeddings, request.anatomy.n_positions)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return token_ids

    def refuse_images(self, prompts: Any, token_ids: list[list[int]]) -> None:
        """Raise ValueError if prompts from which something is copied are to have images.

        Nobody gives them here, and without them the model would read their tokens as text.
        """
        has_tokens = False
        if self.request.places:
            token = image_token_id(self.request.model)
            slot = slot_of(processor_of(self.request.model))
            has_tokens = any(token in ids for ids in token_ids)
            has_tokens |= bool(slot) and slot in str(prompts)
        if has_tokens or has_image_parts(prompts):
            raise ValueError(
                "it has an image, which cannot be given here: pass it among the prompts, with its "
                "image in images=, and name it by its number."
            )

    def own_source(self, number: int) -> Source:
        """Return a prompt of the call as one from which something is copied."""
        has_more = bool(given_beside_ids(self.request, number))
        return Source(tuple(self.request.token_ids[number]), number if has_more else -1)

    def places_of(self, source: Source) -> list[ImagePlace]:
        """Return where each token of a source is in its images."""
        if source.prompt >= 0 and self.request.places:
            return self.request.places[source.prompt]
        return [NO_PLACE] * len(source.token_ids)

    def pick_of_sources(self, positions: Any, sources: list[Source]) -> list[list[int]]:
        """Return positions of sources as numbers, `[source][token]`.

        Raises:
            ValueError: a source does not have them.
        """
        places = []
        if self.request.places:
            places = [self.places_of(source) for source in sources]
        chosen = image_positions(positions, places, len(sources))
        return pick_positions(chosen, [list(source.token_ids) for source in sources])

    def patch_sources(self, edit: Patch, positions: list[list[int]]) -> SourceTokens:
        """Return the sources of a patch, one for each prompt.

        Raises:
            ValueError: no such prompt, or positions that the source does not have.
        """
        token_ids = self.request.token_ids
        if isinstance(edit.source, int | np.integer) and not isinstance(edit.source, bool):
            if not -len(token_ids) <= edit.source < len(token_ids):
                raise ValueError(
                    f"patch from prompt {edit.source}: there are prompts 0 to {len(token_ids) - 1}."
                )
            sources = [self.own_source(int(edit.source) % len(token_ids))]
        else:
            given = self.encoded(edit.source, "the source of a patch")
            sources = [Source(tuple(ids)) for ids in given]
        if len(sources) == 1:
            sources = sources * len(token_ids)
        if len(sources) != len(token_ids):
            raise ValueError(
                f"patch has {len(sources)} sources for {len(token_ids)} prompts: accepted are one "
                "for all, or one for each."
            )
        if edit.source_positions is None:
            taken = self.same_positions(edit, positions, sources)
        else:
            try:
                taken = self.pick_of_sources(edit.source_positions, sources)
            except ValueError as error:
                raise ValueError(f"source_positions, of the source of a patch: {error}") from None
        for prompt, (source, target) in enumerate(zip(taken, positions, strict=True)):
            if len(source) != len(target):
                raise ValueError(
                    f"patch of prompt {prompt}: {len(source)} source positions for "
                    f"{len(target)} positions. Name as many of both."
                )
        return SourceTokens(sources, taken)

    def same_positions(
        self, edit: Edit, positions: list[list[int]], sources: list[Source]
    ) -> list[list[int]]:
        """Return the positions of the prompts as those of their sources.

        Raises:
            ValueError: a source of another length, where all positions are meant or one is counted
                from the end, or one that has no such token.
        """
        token_ids = self.request.token_ids
        for prompt, source in enumerate(sources):
            length = len(source.token_ids)
            if edit.positions is None and length != len(token_ids[prompt]):
                raise ValueError(
                    f"{edit.kind} of prompt {prompt}: the source has {length} tokens, the "
                    f"prompt {len(token_ids[prompt])}. Name the positions, and those of a patch's "
                    "source (source_positions)."
                )
        taken = self.pick_of_sources(edit.positions, sources)
        for prompt, (there, here) in enumerate(zip(taken, positions, strict=True)):
            if len(there) != len(here):
                raise ValueError(
                    f"{edit.kind} of prompt {prompt}: its source has {len(there)} such tokens, "
                    f"and the prompt {len(here)}. Images of one size have as many tokens in most "
                    "models; or name positions by their numbers."
                )
        return taken

    def other_prompts(self, edit: Ablation, positions: list[list[int]]) -> SourceTokens:
        """Return what an ablation resamples from: the prompt after each, or those of `over`.

        Raises:
            ValueError: there is no other prompt.
        """
        token_ids = self.request.token_ids
        if edit.over is None:
            if len(token_ids) < 2:
                raise ValueError(
                    say(python='to="resample"', shell="to resample")
                    + " takes what another prompt has: pass several prompts"
                    + say(python=", or over= with prompts to take it from.", shell=".")
                )
            n_prompts = len(token_ids)
            sources = [self.own_source((prompt + 1) % n_prompts) for prompt in range(n_prompts)]
        else:
            others = [Source(tuple(ids)) for ids in self.encoded(edit.over, "over")]
            sources = [others[prompt % len(others)] for prompt in range(len(token_ids))]
        return SourceTokens(sources, self.same_positions(edit, positions, sources))

    def mean_prompts(self, edit: Ablation) -> list[list[int]]:
        """Return the prompts whose mean takes a site's place.

        Raises:
            ValueError: a model without a tokenizer cannot read the text of the package.
        """
        if edit.over is not None:
            return self.encoded(edit.over, "over")
        if self.request.tokenizer is None:
            raise ValueError(
                f"{advised('to', 'mean')} takes the mean over a short English text, which needs a "
                "tokenizer: pass over= with prompts as ids."
            )
        texts = self.encoded(list(REFERENCE_TEXTS), "the text of the package")
        shortest = min(map(len, texts))
        return [token_ids[:shortest] for token_ids in texts]  # of one length: one forward pass

    # -- what is done --------------------------------------------------

    def shared_change_of(self, item: PlannedEdit) -> Any:
        """Return what is done at a site, or the share of it that the plan asks for."""
        change = self.change_of(item)
        return change if item.share == 1 else Partly(change, item.share)

    def change_of(self, item: PlannedEdit) -> Any:
        """Return what is done at a site, as a value that travels.

        Raises:
            ValueError: a vector of another width, or a token or a lens that does not fit.
        """
        edit = item.edit
        if isinstance(edit, RandomMove):
            return AddRandom(edit.of, edit.seed)
        if isinstance(edit, Patch):
            return CopySource()
        if isinstance(edit, Ablation):
            if is_named(edit.to, "zero"):
                return SetTo(torch.zeros(1, 1))
            if isinstance(edit.to, str):
                return CopySource()
            return SetTo(self.vector(edit.to, item, "to")[None])
        if isinstance(edit, Swap):
            a = self.token_direction(edit.a, None, item)
            b = self.token_direction(edit.b, None, item)
            if a.token == b.token:
                raise ValueError(f"swap: {edit.a!r} and {edit.b!r} are the same token, {a.token}.")
            return SwapCoordinates(a, b, edit.clamp)
        assert isinstance(edit, Steering)
        direction = edit.direction
        if isinstance(direction, str | int | np.integer) or is_token_pair(direction):
            token, minus = direction if is_token_pair(direction) else (direction, None)
            return AddDirection(
                self.token_direction(token, minus, item), edit.scale, edit.normalize
            )
        vector = self.vector(direction, item, "direction")
        if not vector.any():
            raise ValueError("direction has only zeros in float32, so it points nowhere.")
        return AddDirection(vector, edit.scale, edit.normalize)

    def vector(self, given: Any, item: PlannedEdit, name: str) -> Tensor:
        """Return a vector in float32, `[width]`.

        Raises:
            ValueError: no numbers, or of another width than the site.
        """
        width = self.request.anatomy.d_model if item.columns is None else len(item.columns)
        try:
            vector = torch.as_tensor(given).detach().cpu().to(torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"{name}={shortened(given)} is neither a token nor a vector."
            ) from None
        if vector.shape != (width,):
            raise ValueError(
                f"{name} is of the shape {list(vector.shape)}; {item.site.component} of layer "
                f"{item.site.layer} takes a vector [{width}]."
            )
        if not vector.isfinite().all():
            raise ValueError(f"{name} has numbers that are NaN or infinite.")
        return vector

    def token_direction(self, token: Any, minus: Any, item: PlannedEdit) -> TokenDirection:
        """Return the direction of a token at a site.

        Raises:
            ValueError: no single token, or a lens that does not read the site.
        """
        edit = item.edit
        assert isinstance(edit, Steering | Swap)
        transport = transport_of(item.site, edit.lens, self.request.anatomy)
        if transport is None:
            raise ValueError(
                f"the {edit.lens.name} {edit.lens.source!r} has no transport for "
                f"{item.site.component} of layer {item.site.layer}, so no direction there: its "
                f"layers are {edit.lens.layers}."
            )
        vocab_size, tokenizer = self.request.anatomy.vocab_size, self.request.tokenizer
        with naming(edit):
            number = target_id(token, tokenizer, vocab_size)
            other = -1 if minus is None else target_id(minus, tokenizer, vocab_size)
        if number == other:
            raise ValueError(f"{token!r} minus {minus!r} is no direction: they are one token.")
        return TokenDirection(number, other, transport)

    # -- batches -------------------------------------------------------

    def of_batch(self, prompts: list[int], padding: list[int]) -> BatchEdits:
        """Return what is done to one batch.

        Args:
            prompts: The prompt of each row.
            padding: How many columns are padding before each row.
        """
        sites = []
        for item, change in zip(self.planned, self.changes, strict=True):
            rows, columns = [], []
            for row, prompt in enumerate(prompts):
                for position in self.positions[id(item.edit)][prompt]:
                    rows.append(row)
                    columns.append(padding[row] + position)
            sites.append(
                SiteEdit(
                    as_index(rows),
                    as_index(columns),
                    change,
                    item.edit.when,
                    site_code(item.site),
                )
            )
        layers = [layer_edits(run, sites, len(prompts)) for run in self.runs]
        probes, self.unasked = self.unasked, []  # the first batch asks
        sources = self.source_batches(prompts)
        runs = [source.inputs for source in sources]
        if not self.batches_made:  # and takes the means
            runs += [source.inputs for source in self.mean_batches]
        runs += [probe.inputs for probe in probes for _ in range(RUNS_OF_A_PROBE)]
        self.batches_made += 1
        return BatchEdits(
            sites=sites,
            sources=sources,
            means=self.mean_batches,
            padding=as_index(padding),
            layers=layers[0],
            other_layers=layers[1:],
            probes=probes,
            proof=self.proofs.known,
            kept_means=self.kept_means,
            more_tokens=sum(inputs["input_ids"].numel() for inputs in runs),
            stretches=self.stretches_of(prompts, padding),
        )

    def stretches_of(self, prompts: list[int], padding: list[int]) -> list[tuple[int, int, int]]:
        """Return where the tokens of some prompts see later ones: row, first column, and the end.

        Args:
            prompts: The prompt of each row.
            padding: How many columns are padding before each row.
        """
        both_ways = self.request.anatomy.both_ways
        if both_ways is None:
            return []
        found = []
        for row, prompt in enumerate(prompts):
            token_types = self.request.extra_inputs[prompt].get(TYPES, [])
            for stretch in both_ways.stretches(token_types):
                found.append((row, padding[row] + stretch.start, padding[row] + stretch.stop))
        return found

    def source_batches(self, prompts: list[int]) -> list[SourceBatch]:
        """Return the runs from which the edits of a batch copy, each prompt once."""
        reads: list[PlannedRead] = []
        for number, item in enumerate(self.planned):
            tokens = self.sources.get(id(item.edit))
            if tokens is None:
                continue
            entry = 0
            for prompt in prompts:
                for position in tokens.positions[prompt]:
                    source = tokens.prompts[prompt]
                    reads.append(PlannedRead(source, number, position, entry))
                    entry += 1
        return self.batches_of(reads)

    def batches_of_means(self) -> list[SourceBatch]:
        """Return the runs over whose tokens means are taken.

        The first token of a prompt is left out: in many models it is unlike all others (Sun et al.
        2024, "Massive Activations in Large Language Models").
        """
        reads: list[PlannedRead] = []
        for number, item in enumerate(self.planned):
            for token_ids in self.means.get(id(item.edit), []):
                for position in range(min(1, len(token_ids) - 1), len(token_ids)):
                    reads.append(PlannedRead(Source(tuple(token_ids)), number, position, None))
        return self.batches_of(reads)

    def batches_of(self, reads: list[PlannedRead]) -> list[SourceBatch]:
        """Return forward passes over prompts of one length each, without padding."""
        alike: dict[tuple[int, int], list[Source]] = {}
        for source in dict.fromkeys(read.source for read in reads):
            alike.setdefault((len(source.token_ids), source.prompt), []).append(source)
        batches = []
        for (length, _), sources in alike.items():
            at_once = max(1, MAX_SOURCE_TOKENS // length)
            for start in range(0, len(sources), at_once):
                some = sources[start : start + at_once]
                batches.append(self.source_batch(some, reads))
        return batches

    def source_batch(self, sources: list[Source], reads: list[PlannedRead]) -> SourceBatch:
        """Return one forward pass over some sources, and what is read of it."""
        row_of = {source: row for row, source in enumerate(sources)}
        found: dict[int, list[PlannedRead]] = {}
        for read in reads:
            if read.source in row_of:
                found.setdefault(read.site, []).append(read)
        in_order = sorted(found, key=lambda site: self.order_of_source(self.planned[site]))
        source_reads = []
        for site in in_order:
            item, of_site = self.planned[site], found[site]
            numbers = [read.entry for read in of_site if read.entry is not None]
            entries = as_index(numbers) if numbers else None
            source_reads.append(
                SourceRead(
                    site=site,
                    side=item.source.side,
                    module=item.source.path,
                    operations=item.source.operations,
                    columns=item.columns,
                    rows=as_index([row_of[read.source] for read in of_site]),
                    token_columns=as_index([read.position for read in of_site]),
                    entries=entries,
                )
            )
        last = [[-1]] * len(sources)
        nothing: list[list[int]] = [[]] * len(sources)
        token_ids = [list(source.token_ids) for source in sources]
        batch = one_batch(self.request.model, self.request.anatomy, token_ids, last, nothing)
        if sources[0].prompt >= 0:  # it is by itself
            batch = with_inputs(batch, given_beside_ids(self.request, sources[0].prompt))
        return SourceBatch(batch.inputs, len(sources), source_reads)

    @staticmethod
    def order_of_source(item: PlannedEdit) -> tuple[int, bool, int]:
        """Return when a source is read as the model runs; after a block comes after all in it."""
        assert item.site.layer is not None
        return (item.site.layer, item.site.component == "resid_post", item.source.time)


class PlannedRead(NamedTuple):
    """One token of a source that an edit takes.

    Attributes:
        source: The source.
        site: Which edit takes it.
        position: Which token of the source.
        entry: For which of the edited tokens; None for a mean.
    """

    source: Source
    site: int
    position: int
    entry: int | None


def refuse_conflicts(planned: Sequence[PlannedEdit], positions: dict[int, list[list[int]]]) -> None:
    """Raise ValueError if two edits set the same tokens of one site."""
    setting = [item for item in planned if is_setting(item.edit)]
    for index, first in enumerate(setting):
        for second in setting[index + 1 :]:
            if place_of(first) != place_of(second):
                continue
            if "prompt" not in (first.edit.when, second.edit.when):
                raise ValueError(
                    f"two edits set {first.site.component} of layer {first.site.layer} at every "
                    f"token that is written: {first.edit}; {second.edit}. Leave one out."
                )
            if "written" in (first.edit.when, second.edit.when):
                continue
            pairs = zip(positions[id(first.edit)], positions[id(second.edit)], strict=True)
            for prompt, (one, other) in enumerate(pairs):
                shared = sorted(set(one) & set(other))
                if shared:
                    raise ValueError(
                        f"two edits set {first.site.component} of layer {first.site.layer} at "
                        f"position {shared[0]} of prompt {prompt}: {first.edit}; {second.edit}. "
                        "Leave one out."
                    )


def place_of(item: PlannedEdit) -> Site:
    """Return the site of an edit; the stream before a layer is that after the one before it."""
    site = item.site
    if site.component == "embed":
        site = site._replace(component="resid_pre")
    is_stream = site.component == "resid_pre" and item.source.side == "in"
    if is_stream and site.layer:
        return site._replace(layer=site.layer - 1, component="resid_post")
    return site


def ids_of_encoding(encoding: Mapping[str, Any]) -> list[list[int]]:
    """Return the ids of an encoding from which something is copied, without padding.

    Raises:
        ValueError: it has more than ids and padding.
    """
    prompts = read_encoding(encoding, frozenset((MASK, POSITIONS)))
    if any(prompt.inputs for prompt in prompts):
        raise ValueError(
            "the encoding has position ids, token types or a mask with a hole: accepted is one of "
            "ids and padding alone."
        )
    return [prompt.token_ids for prompt in prompts]


def is_named(value: Any, name: str) -> bool:
    """Tell whether an argument that may be a vector is this word."""
    return isinstance(value, str) and value == name
