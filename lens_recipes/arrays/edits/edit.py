"""`Edit`: what all edits have in common, and how they are written into a file and read from it."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lens_recipes.terminal import show_lines

WHEN = ("prompt", "written", "both")

WHEN_IN_WORDS = {
    "prompt": "",
    "written": ", only while it writes",
    "both": ", and while it writes",
}

# Where an edit can be made: the stream before, within and after a block, what attention and MLP
# (and in some models other modules) add to it, one head's share of attention, and the embedding.
EDITABLE = (
    "embed",
    "resid_pre",
    "attn_out",
    "mixer_out",
    "head_out",
    "resid_mid",
    "mlp_out",
    "other_out",
    "resid_post",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit:
    """A change made to the stream at some sites and positions while a model runs.

    Attributes:
        layer: One layer or several, negative from the end; None for all (for "embed": none).
        component: What is changed there: "resid_pre", "resid_mid", "resid_post", "attn_out",
            "mlp_out", "mixer_out", "other_out", "head_out" or "embed".
        head: Of "head_out": one head or several; None for all of the layer.
        positions: Which tokens of each prompt, in the forms of `logit_lens`; None for all.
        when: In generation: "prompt" for the prompt's tokens, "written" for those that the model
            writes, or "both".
    """

    layer: Any = None
    component: str = "resid_post"
    head: Any = None
    positions: Any = None
    when: str = "prompt"

    kind: ClassVar[str] = "edit"

    def __post_init__(self) -> None:
        """Check what needs no model, and keep what can be read once as a list.

        Raises:
            ValueError: names what was received and what is accepted.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            plain = plain_value(field.name, value)
            if plain is not value:
                object.__setattr__(self, field.name, plain)
        if not isinstance(self.component, str) or self.component not in EDITABLE:
            raise ValueError(
                f"component={self.component!r} cannot be edited: accepted are "
                f"{', '.join(map(repr, EDITABLE))}."
            )
        if not isinstance(self.when, str) or self.when not in WHEN:
            raise ValueError(
                f"when={self.when!r} is unknown: accepted are {', '.join(map(repr, WHEN))}."
            )
        if self.when == "written" and self.positions is not None:
            raise ValueError(
                f"positions={self.positions!r} are those of a prompt, and cannot go with "
                'when="written", which edits every token that the model writes: leave one out.'
            )
        if self.head is not None and self.component != "head_out":
            raise ValueError(
                f'head={self.head!r} needs component="head_out"; received '
                f"component={self.component!r}."
            )
        if self.component == "embed" and self.layer is not None:
            raise ValueError(
                f'layer={self.layer!r} cannot go with component="embed", which comes before all '
                "layers: leave it out."
            )

    def refuse_written(self, why: str) -> None:
        """Raise ValueError if the edit is to act on written tokens, and say why it cannot."""
        if self.when != "prompt":
            raise ValueError(
                f'when={self.when!r} is not possible: {why}. Leave it out, or pass when="prompt".'
            )

    @property
    def where(self) -> str:
        """Return the place in words: "L23H4", "resid_post of layer 12", "embed"."""
        if self.component == "embed":
            return "embed"
        if isinstance(self.layer, int) and isinstance(self.head, int):
            return f"L{self.layer}H{self.head}"
        layers = "every layer" if self.layer is None else f"layer {_in_words(self.layer)}"
        if self.component != "head_out":
            return f"{self.component} of {layers}"
        heads = "all heads" if self.head is None else f"head {_in_words(self.head)}"
        return f"{heads} of {layers}"

    @property
    def at(self) -> str:
        """Return the positions in words, with a space before them; nothing where it is all."""
        words = "" if self.positions is None else f" at {positions_in_words(self.positions)}"
        return words + WHEN_IN_WORDS[self.when]

    @property
    def what(self) -> str:
        """Return what is done, in words that a place follows."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.what} {self.where}{self.at}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the sentence in a notebook."""
        show_lines(printer, str(self))

    def to_json(self) -> dict[str, Any]:
        """Return the edit as JSON can hold it, but for its lens; `edit_from_json` reads it."""
        fields: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "lens" and not _is_default(field, value):
                fields[field.name] = as_json(value)
        return fields


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    """Tell whether a field has the value that it has when nobody gives one."""
    if isinstance(value, np.ndarray):
        return False
    return type(value) is type(field.default) and bool(value == field.default)


def plain_value(name: str, value: Any) -> Any:
    """Return a field of an edit as it is kept: what can be read once as a list, sparse as dense.

    A box is a list, too.

    Raises:
        ValueError: a tensor without numbers, or complex numbers.
    """
    if isinstance(value, Iterator):
        return list(value)
    if isinstance(value, Mapping) and hasattr(value.get("box"), "tolist"):
        return {**value, "box": value["box"].tolist()}
    if isinstance(value, np.ndarray):
        if np.iscomplexobj(value):
            raise ValueError(f"{name} has complex numbers: accepted are real ones.")
        return value if value.dtype.kind in "biuf" else value.tolist()
    if not hasattr(value, "detach"):
        return value
    if value.is_meta:
        raise ValueError(f"{name} is on the device meta, and so has no numbers.")
    if value.is_complex():
        raise ValueError(f"{name} has complex numbers: accepted are real ones.")
    return value.to_dense() if value.is_sparse or value.is_sparse_csr else value


def as_json(value: Any) -> Any:
    """Return a field of an edit as JSON can hold it: vectors as the bytes of their float32."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if np.issubdtype(value.dtype, np.integer):
            return value.tolist()
        numbers = np.ascontiguousarray(value, dtype="<f4")
        return {
            "float32": base64.b64encode(numbers.tobytes()).decode(),
            "shape": list(numbers.shape),
        }
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):  # a turn of a chat
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [as_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Return a field of an edit as `as_json` wrote it.

    Raises:
        ValueError: a vector whose bytes are not those of its shape.
    """
    if isinstance(value, Mapping) and value.keys() == {"float32", "shape"}:
        numbers = np.frombuffer(base64.b64decode(value["float32"], validate=True), dtype="<f4")
        return numbers.reshape(value["shape"]).copy()  # torch takes no array of bytes as its own
    if isinstance(value, Mapping) and value.keys() == {"slice"}:
        return slice(*value["slice"])
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


def positions_in_words(positions: Any) -> str:
    """Return positions in words: "position 3", "the tokens of the image"."""
    if isinstance(positions, str):
        return f"the tokens of the {positions}"
    if isinstance(positions, Mapping):
        box = positions.get("box", ())
        if isinstance(box, Iterable):
            box = ", ".join(map(str, box))
        image = positions.get("image", 0)
        return f"the patches under the box ({box})" + (f" of image {image}" if image else "")
    return f"position {_in_words(positions)}"


def _in_words(selection: Any) -> str:
    """Return layers, heads or positions in words: "3", "3, 5", "3 to 7"."""
    if isinstance(selection, slice):
        start = 0 if selection.start is None else selection.start
        stop = "the end" if selection.stop is None else str(selection.stop - 1)
        words = f"{start} to {stop}"
        return words if selection.step in (None, 1) else f"{words} by {selection.step}"
    if isinstance(selection, range):
        selection = list(selection)
    if not isinstance(selection, list | tuple | np.ndarray):
        return str(selection)
    items = list(selection)
    are_numbers = all(isinstance(item, int | np.integer) for item in items)
    if are_numbers and len(items) > 2 and items == list(range(items[0], items[-1] + 1)):
        return f"{items[0]} to {items[-1]}"
    names = [_in_words(item) for item in items]
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return ", ".join(names)
