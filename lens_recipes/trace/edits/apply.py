"""`EditPass`: make the edits of one batch as the model runs, and measure that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.changes import AddDirection, EditContext, refuse_lost
from lens_recipes.trace.edits.directions import Directions
from lens_recipes.trace.edits.plan import PROOF, BatchEdits
from lens_recipes.trace.kernels import on_cpu, sent
from lens_recipes.trace.operations import (
    CastTo,
    Elementwise,
    Operation,
    WithVector,
    first_of,
    replay,
)
from lens_recipes.trace.plan import EditStep


class MadeStream(NamedTuple):
    """A stream that was made by what is added to it.

    Attributes:
        layer: The block's number.
        rows, columns: Of the tokens, `[entry]`.
        asked: What it is to be, `[entry, d_model]`.
        is_kept: Where that is what it was, `[entry, d_model]`.
        size: The largest number of what it was added to, `[entry]`.
    """

    layer: int
    rows: Int[Tensor, " entry"]
    columns: Int[Tensor, " entry"]
    asked: Float[Tensor, "entry d_model"]
    is_kept: Tensor
    size: Float[Tensor, " entry"]

    def without(self, other: MadeStream) -> MadeStream:
        """Return what is left of it where another edit has made the same tokens anew."""
        places = zip(other.rows.tolist(), other.columns.tolist(), strict=True)
        made_anew = set(places)
        left = []
        for entry, place in enumerate(zip(self.rows.tolist(), self.columns.tolist(), strict=True)):
            if place not in made_anew:
                left.append(entry)
        return MadeStream(
            self.layer,
            self.rows[left],
            self.columns[left],
            self.asked[left],
            self.is_kept[left],
            self.size[left],
        )


class Missing(NamedTuple):
    """What a stream in the middle of a block lacks of what was asked for.

    Attributes:
        rows, columns: Of the tokens, `[entry]`.
        vectors: `[entry, d_model]`.
    """

    rows: Int[Tensor, " entry"]
    columns: Int[Tensor, " entry"]
    vectors: Float[Tensor, "entry d_model"]


class EditPass:
    """Makes the edits of one batch in one trace.

    Attributes:
        step: Which forward pass of a generation runs; 0 for the one over the prompts.
        first_column: Where in the text the columns begin that run in it: with a cache, that is the
            newest.
        n_prompt_columns, n_columns: How many columns the prompts have, padding included, and the
            text so far; only in a generation.
        set_streams: The stream after a layer as edits left it, `[row, column, d_model]`, until the
            model goes on with it.
        set_by: Which edit has set each of these last.
        row_errors: How far what is there is from what was asked, at most, relative, `[row]`, as
            `prove` has found it last.
        row_codes: The number of the site where that is, `[row]`; −1 for none.
        proof: What the model says of the edited sites: an `EditProof` as a tensor, or None.
        in_units: The numbers of the sites whose vectors give an edit its unit.
        norms: How far each edit has moved its tokens, by site, `[entry]`; also of earlier runs.
    """

    def __init__(
        self,
        model: Any,
        edits: BatchEdits,
        sources: dict[int, Tensor],
        head_operations: Sequence[Operation],
        weight: Any,
        max_bytes: int,
        norms: Mapping[int, Tensor] | None = None,
    ) -> None:
        """Begin before the model runs.

        Args:
            model: The nnsight model.
            edits: Of the batch.
            sources: What `read_sources` read for them.
            head_operations: What the model does between its last block and its logits.
            weight: Of a plain local unembedding, or None.
            max_bytes: Bound on the memory for logits.
            norms: How far the edits of earlier runs have moved their tokens, for controls of the
                same size.
        """
        self.model = model
        self.edits = edits
        self.norms = dict(norms or {})
        self.sources = sources
        self.head_operations = head_operations
        self.weight = weight
        self.max_bytes = max_bytes
        self.n_rows = len(edits.padding)
        self.step = 0
        self.first_column = 0
        self.n_prompt_columns = 0
        self.n_columns = 0
        self.row_errors = torch.zeros(self.n_rows, dtype=torch.float32, device="cpu")
        self.row_codes = torch.full((self.n_rows,), -1.0, dtype=torch.float32, device="cpu")
        self.proof = sources.get(PROOF)
        self.in_units = {site.code for site in edits.sites if is_in_units(site.change)}
        self.set_streams: dict[int, Tensor] = {}
        self.set_by: dict[int, int] = {}
        self._held: dict[int, Tensor] = {}
        self._unsettled: dict[int, MadeStream] = {}
        self._missing: dict[int, Missing] = {}
        self._units: dict[float, Tensor] = {}
        self._directions: Directions | None = None
        self._noted: list[tuple[int, Tensor, Tensor]] = []

    # -- where ---------------------------------------------------------

    def begin_step(self, step: int, n_columns: int) -> None:
        """Go on to a forward pass of a generation.

        Args:
            step: Which one; 0 is that over the prompts.
            n_columns: How many columns run in it: one with a cache, the whole text without.
        """
        self.step = step
        if step == 0:
            self.n_prompt_columns = n_columns
        self.n_columns = self.n_prompt_columns + step
        self.first_column = self.n_columns - n_columns

    def is_active(self, site: int) -> bool:
        """Tell whether an edit acts in the forward pass that runs.

        An edit of the prompt acts again wherever the prompt runs again.
        """
        when = self.edits.sites[site].when
        if when == "both":
            return True
        if when == "written":
            return self.step > 0
        return self.first_column == 0

    def places_of(self, site: int) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
        """Return rows and columns of the tokens that an edit changes in this forward pass.

        First those of the prompts, then all that were written, of every row.
        """
        edit = self.edits.sites[site]
        if self.step == 0:
            return edit.rows, edit.columns
        rows, columns = [], []
        if edit.when != "written" and self.first_column == 0:
            rows.append(edit.rows)
            columns.append(edit.columns)
        if edit.when != "prompt":
            written = self.written_columns()
            rows.append(torch.arange(self.n_rows, device="cpu").repeat_interleave(len(written)))
            columns.append(written.repeat(self.n_rows))
        return torch.cat(rows), torch.cat(columns)

    def written_columns(self) -> Int[Tensor, " column"]:
        """Return the columns of this forward pass that the model itself has written."""
        first = max(self.n_prompt_columns, self.first_column)
        return torch.arange(first, self.n_columns, device="cpu") - self.first_column

    def places_at(self, layer: int) -> TokenPlaces | None:
        """Return the tokens of a layer that edits change in this forward pass; None for none."""
        edits = self.edits.layers[layer]
        active = [site for site in edits.sites if self.is_active(site)]
        if not active:
            return None
        if self.step == 0:
            return edits.places
        places: set[tuple[int, int]] = set()
        for site in active:
            rows, columns = self.places_of(site)
            places.update(zip(rows.tolist(), columns.tolist(), strict=True))
        entries = torch.tensor(sorted(places), dtype=torch.long, device="cpu").reshape(-1, 2)
        return TokenPlaces(self.n_rows, entries[:, 0], entries[:, 1])

    def at_tokens(
        self, step: EditStep, difference: Tensor, places: TokenPlaces
    ) -> Float[Tensor, "token d_model"]:
        """Return what an edit has added at the tokens that are read: nothing at most of them."""
        rows, columns = self.places_of(step.site)
        entry_of = {}
        for entry, place in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            entry_of[place] = entry
        added = difference.new_zeros(len(places.rows), difference.shape[-1])
        tokens = zip(places.rows.tolist(), places.columns.tolist(), strict=True)
        for token, place in enumerate(tokens):
            if place in entry_of:
                added[token] = difference[entry_of[place]]
        return added

    # -- the edit ------------------------------------------------------

    def follow(self, step: EditStep) -> Float[Tensor, "entry d_model"] | None:
        """Take one step: keep a tensor, or edit it. Return what an edit has added, else None."""
        is_active = self.is_active(step.site)
        # A vector that is added to written tokens alone has the length of the prompt's vectors.
        measures = self.step == 0 and self.edits.sites[step.site].when == "written"
        if not is_active and not measures:
            return None
        module = self.model.get(step.module)
        output = given_of(module, step.side)
        tensor = first_of(output)
        grid = tensor.reshape(self.n_rows, -1, tensor.shape[-1])
        if not is_active:
            self.units(step, grid)
            return None
        if step.role in ("settle", "finish"):
            made = self.settled(step, grid) if step.role == "settle" else self.finished(step, grid)
            put_back(module, step.side, output, made.reshape(tensor.shape))
            return None
        places = self.places_of(step.site)
        rows, columns = (sent(place, grid.device) for place in places)
        raw = tokens_of(step, grid, rows, columns)
        value = replay(self.model, step.operations, raw)
        if step.role == "hold":
            self.units(step, grid)
            held = self._held.get(step.site)
            self._held[step.site] = value if held is None else held + value.to(held.device)
            return None
        changed_raw, wanted, difference = self.changed(step, grid, raw, value)
        self.norms[step.site] = difference.norm(dim=-1)
        edited = grid.clone()
        if step.columns is None:
            edited[rows, columns] = changed_raw
        else:
            head_columns = sent(torch.tensor(step.columns, device="cpu"), grid.device)
            edited[rows[:, None], columns[:, None], head_columns] = changed_raw
        put_back(module, step.side, output, edited.reshape(tensor.shape))
        if step.site not in self._unsettled:
            standing = first_of(given_of(module, step.side)).reshape(grid.shape)
            there = replay(self.model, step.operations, tokens_of(step, standing, rows, columns))
            self.note(step.site, places[0], relative_error(there, wanted))
        if step.is_after:
            self.set_streams[step.layer] = edited
            self.set_by[step.layer] = step.site
        return difference

    def changed(
        self, step: EditStep, grid: Tensor, raw: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is to stand in the module's tensor, and by how much the site changes.

        Between the two is what is to be added to the stream, as it was asked for.

        Args:
            step: The edit.
            grid: The whole tensor, `[row, column, width]`.
            raw: What the module has at the edited tokens, `[entry, width]`.
            value: The same, as it is added to the stream.
        """
        edit = self.edits.sites[step.site]
        held = self._held.pop(step.site, None)
        current = to_float32(value if held is None else value + held.to(value.device))
        context = EditContext(
            self.directions(grid),
            self.units(step, grid),
            self.sources.get(step.site),
            self.norms,
        )
        asked = edit.change.apply(current, context)
        is_kept = asked == current
        # Of the stream in the middle of a block, what is missing from it is added.
        wanted = asked if held is None else asked - to_float32(held).to(asked.device)
        new_raw = undone(step.operations, wanted).to(raw.dtype)
        # What is not changed keeps its bits, whatever scales lie between.
        new_raw = torch.where(is_kept, raw, new_raw)
        there = to_float32(replay(self.model, step.operations, new_raw))
        difference = torch.where(is_kept, 0.0, there - to_float32(value))
        if held is not None:
            rows, columns = self.places_of(step.site)
            made = MadeStream(step.layer, rows, columns, asked, is_kept, largest(held))
            for site, earlier in self._unsettled.items():
                if earlier.layer == step.layer:
                    self._unsettled[site] = earlier.without(made)
            self._unsettled[step.site] = made
        elif isinstance(edit.change, AddDirection):
            refuse_lost(current, asked, there.to(current.device), new_raw.dtype)
        return new_raw, wanted, difference

    def settled(self, step: EditStep, grid: Tensor) -> Tensor:
        """Return the stream with what was asked for, and measure how far from it the model's is.

        The sum that the model makes of what it adds is rounded. Where a stream is set to nearly
        nothing, a norm after it would show no more than that.
        """
        made = self._unsettled.pop(step.site)
        rows, columns = sent(made.rows, grid.device), sent(made.columns, grid.device)
        there, asked = grid[rows, columns], made.asked.to(grid.device)
        size = torch.maximum(largest(asked), made.size.to(grid.device))
        error = largest(to_float32(there) - asked) / size.clamp(min=1e-30)
        self.note(step.site, made.rows, error)
        edited = grid.clone()
        is_kept = made.is_kept.to(grid.device)
        edited[rows, columns] = torch.where(is_kept, there, asked.to(grid.dtype))
        missing = to_float32(edited[rows, columns]) - to_float32(there)
        self._missing[step.site] = Missing(rows, columns, missing)
        return edited

    def finished(self, step: EditStep, grid: Tensor) -> Tensor:
        """Return the stream after a block, to which what its middle lacked is added.

        The block has added to the sum that the model made, and not to what was asked for.
        """
        rows, columns, missing = self._missing.pop(step.site)
        rows, columns = rows.to(grid.device), columns.to(grid.device)
        there = grid[rows, columns]
        whole = to_float32(there) + missing.to(grid.device)
        edited = grid.clone()
        # What lacks nothing keeps its bits, infinities among them.
        edited[rows, columns] = torch.where(
            missing.to(grid.device) == 0, there, whole.to(grid.dtype)
        )
        return edited

    def directions(self, grid: Tensor) -> Directions:
        """Return what finds the directions of tokens."""
        if self._directions is None:
            self._directions = Directions(
                self.model, self.head_operations, self.weight, grid, self.max_bytes
            )
        return self._directions

    def units(self, step: EditStep, grid: Tensor) -> Float[Tensor, " entry"]:
        """Return the median norm of the site's vectors in each entry's prompt.

        It is that of what the model has there, before any edit of the same site. While a text is
        written, it is that of its prompt. In the middle of a block it is that of the stream before
        the block.
        """
        rows = sent(self.places_of(step.site)[0], grid.device)
        code = self.edits.sites[step.site].code
        if code not in self.in_units:
            return torch.ones(len(rows), device=grid.device)
        if code not in self._units:
            vectors = replay(self.model, step.operations, grid)
            norms = to_float32(vectors).norm(dim=-1)
            columns = torch.arange(norms.shape[1], device=norms.device)
            is_padding = columns[None] < self.edits.padding.to(norms.device)[:, None]
            medians = norms.masked_fill(is_padding, float("nan")).nanmedian(-1).values
            self._units[code] = medians
        return self._units[code][rows]

    # -- the proof -----------------------------------------------------

    def note(self, site: int, rows: Int[Tensor, " entry"], errors: Float[Tensor, " entry"]) -> None:
        """Keep what was measured of an edit, where it is, until `prove` asks for it."""
        self._noted.append((site, rows, errors))

    def prove(self) -> None:
        """Find the largest error of each row, and which edit has it; a NaN stays.

        All that was measured is brought to the processor together.
        """
        measured = on_cpu({number: errors for number, (_, _, errors) in enumerate(self._noted)})
        for number, (site, rows, _) in enumerate(self._noted):
            for row, error in zip(rows.tolist(), measured[number].tolist(), strict=True):
                if not error <= float(self.row_errors[row]):
                    self.row_errors[row] = torch.maximum(self.row_errors[row], torch.tensor(error))
                    self.row_codes[row] = self.edits.sites[site].code
        self._noted.clear()


def is_in_units(change: Any) -> bool:
    """Tell whether a change is in units of the site's own vectors."""
    return bool(getattr(change, "in_units", False))


def given_of(module: Any, side: str) -> Any:
    """Return what a module takes or gives, as edits have left it."""
    return module.input if side == "in" else module.output


def tokens_of(
    step: EditStep, grid: Tensor, rows: Int[Tensor, " entry"], columns: Int[Tensor, " entry"]
) -> Float[Tensor, "entry width"]:
    """Return some tokens of a module's tensor; of one head, its columns."""
    tokens = grid[rows, columns]
    if step.columns is None:
        return tokens
    return tokens[:, sent(torch.tensor(step.columns, device="cpu"), tokens.device)]


def put_back(module: Any, side: str, output: Any, tensor: Tensor) -> None:
    """Let the model go on with another tensor; what a module gives beside it stays."""
    if side == "in":
        module.input = tensor
    elif isinstance(output, tuple):
        module.output = (tensor, *output[1:])
    elif isinstance(output, list):
        module.output = [tensor, *output[1:]]
    else:
        module.output = tensor


UNDOING = {"mul": "div", "div": "mul", "add": "sub", "sub": "add"}


def can_be_undone(operations: Sequence[Operation]) -> bool:
    """Tell whether an edit can be taken back through operations: scales, sums and casts."""
    for operation in operations:
        is_known = isinstance(operation, Elementwise | WithVector) and operation.name in UNDOING
        if not is_known and not isinstance(operation, CastTo):
            return False
    return True


def undone(operations: Sequence[Operation], value: Tensor) -> Tensor:
    """Return what operations make into `value`."""
    for operation in reversed(operations):
        if isinstance(operation, Elementwise):
            value = getattr(torch, UNDOING[operation.name])(value, operation.numbers[0])
        elif isinstance(operation, WithVector):
            value = getattr(torch, UNDOING[operation.name])(
                value, operation.vector.to(value.device)
            )
    return value


def largest(vectors: Float[Tensor, "entry width"]) -> Float[Tensor, " entry"]:
    """Return the largest absolute number of each vector."""
    return to_float32(vectors).abs().amax(-1)


def relative_error(actual: Tensor, asked: Tensor) -> Float[Tensor, " entry"]:
    """Return how far vectors are from those asked for, relative to their largest number."""
    difference = (to_float32(actual) - to_float32(asked).to(actual.device)).abs().amax(-1)
    size = to_float32(asked).abs().amax(-1).clamp(min=1e-30).to(actual.device)
    return difference / size
