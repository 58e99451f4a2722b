"""What `--edit` says: a verb, a place, and what goes with it, as a person types it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from typing import Annotated, Any, NoReturn

import typer

from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Steering, Swap, ablate, patch, steer, swap
from lens_recipes.cli.common.lenses import named_lens

EditOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        help='Change the model while it runs, for example "ablate L23H4"; repeat the option for '
        "more. See below.",
    ),
]

Controls = Annotated[
    int | None,
    typer.Option(
        "--controls",
        min=0,
        help="How many random edits of the same kind run beside the --edit; default: 5, or 0 where "
        "it only patches. 0 leaves them out.",
    ),
]

EXAMPLES = {
    "ablate": "ablate L23H4 to mean at 4",
    "patch": "patch 12 from 'The capital of Spain is' at 3",
    "steer": "steer 20 by ' Rome' - ' Paris' x0.5",
    "swap": "swap ' France' ' Italy' in 8-20",
}

EDIT_HELP = """
An --edit is a verb and a place: "ablate L23H4", "ablate 12.mlp_out to mean at 3", "patch 12 from
'The capital of Spain is' at 3", "steer 20 by ' Rome' - ' Paris' x0.5", "swap ' France' ' Italy' in
8-20". A place is a layer (12, 8-20, -1, all), which means the stream after it, a head (L23H4), a
part of layers (12.mlp_out, 8-20.attn_out, 3.resid_mid) or embed. "to" is zero, mean or resample;
"from" a prompt in quotation marks or "prompt 0"; "at" positions, of a patch also "at 3 from 5";
"x0.5" how much, in units of the stream's median norm; "under FILE" a lens; "when written" or "when
both" what the model writes.
"""

HEAD = re.compile(r"L(\d+)H(\d+)")
NUMBERS = r"all|-?\d+(?:,-?\d+)*|\d+-\d+|-?\d*:-?\d*(?::-?\d+)?"
PLACE = re.compile(rf"({NUMBERS})(?:\.([a-z_]+)(?:\.(\d+))?)?")
INCLUSIVE = re.compile(r"(\d+)-(\d+)")
AMOUNT = re.compile(r"[x×](-?\d+(?:\.\d+)?(?:e-?\d+)?)")


EDIT_SHORT = """--edit "ablate L23H4" changes the model while it runs: see lens-recipes logit-lens
--help for what an edit can be."""


def parse_edits(texts: list[str] | None) -> list[Edit]:
    """Return the edits that the values of `--edit` say, each with the name of its lens.

    No model is needed, and so none is loaded before a mistake is told.

    Raises:
        typer.BadParameter: one that is no edit; the message shows one that is.
    """
    return [Words(text).edit() for text in texts or []]


def edits_argument(edits: list[Edit], model: Any) -> dict[str, Any]:
    """Return the argument `edits` of a recipe; none where nothing is edited."""
    if not edits:
        return {}
    with_lenses = []
    for edit in edits:
        if isinstance(edit, Steering | Swap):
            edit = dataclasses.replace(edit, lens=named_lens(edit.lens, model))
        with_lenses.append(edit)
    return {"edits": with_lenses}


def check_controls(controls: int | None, edits: list[Edit]) -> None:
    """Refuse controls of nothing."""
    if controls and not edits:
        raise typer.BadParameter(
            f"there is no --edit that {controls} could be the controls of.",
            param_hint="--controls",
        )


class Words:
    """The words of one edit, taken from the first to the last."""

    def __init__(self, text: str) -> None:
        """Take a text apart; quotation marks keep a prompt or a token together."""
        self.text = text
        self.verb = ""
        try:
            self.left = shlex.split(text)
        except ValueError as error:
            self.refuse(f"a quotation mark has no second one ({error})")

    # -- taking words --------------------------------------------------

    def refuse(self, reason: str) -> NoReturn:
        """Raise the message about a mistake, with an example."""
        example = EXAMPLES.get(self.verb, EXAMPLES["ablate"])
        raise typer.BadParameter(
            f'{self.text!r}: {reason}. One that is right: --edit "{example}"', param_hint="--edit"
        )

    def next(self, what: str) -> str:
        """Take one word."""
        if not self.left:
            self.refuse(f"{what} is missing")
        return self.left.pop(0)

    def has(self, *keywords: str) -> bool:
        """Take a keyword, if it comes next."""
        if self.left and self.left[0] in keywords:
            self.left.pop(0)
            return True
        return False

    def need(self, keyword: str, what: str) -> None:
        """Take the keyword that must come next."""
        if not self.has(keyword):
            found = f"; found {self.left[0]!r}" if self.left else ""
            self.refuse(f"{keyword!r} and {what} are missing{found}")

    # -- parts ---------------------------------------------------------

    def numbers(self, text: str, what: str) -> Any:
        """Return "3", "0,3", "8-20" (both included), "2:5" or "all" as a recipe takes it."""
        both = INCLUSIVE.fullmatch(text)
        if both:
            first, last = int(both[1]), int(both[2])
            if last < first:
                self.refuse(f"{text} runs backwards: {last}-{first}")
            return slice(first, last + 1)
        if not re.fullmatch(NUMBERS, text) or text == ":":
            self.refuse(f"{text!r} is no {what}: accepted are 3, 0,3, 8-20, -1 and all")
        if text == "all":
            return None
        if ":" in text:
            return slice(*(int(bound) if bound else None for bound in text.split(":")))
        chosen = [int(number) for number in text.split(",")]
        return chosen[0] if len(chosen) == 1 else chosen

    def place(self) -> dict[str, Any]:
        """Take a place: "L23H4", "12", "8-20.mlp_out", "23.head_out.4", "embed"."""
        text = self.next("a place")
        if text == "embed":
            return {"component": "embed"}
        head = HEAD.fullmatch(text)
        if head:
            return {"layer": int(head[1]), "component": "head_out", "head": int(head[2])}
        found = PLACE.fullmatch(text)
        if not found:
            self.refuse(
                f"{text!r} is no place: accepted are a layer (12, 8-20, all), a head (L23H4), a "
                "part of a layer (12.mlp_out) and embed"
            )
        place: dict[str, Any] = {"layer": self.numbers(found[1], "layer")}
        if found[2]:
            place["component"] = found[2]
        if found[3]:
            place["head"] = int(found[3])
        return place

    def options(self) -> dict[str, Any]:
        """Take what may stand at the end of every edit, in any order."""
        options: dict[str, Any] = {}
        said: set[str] = set()
        while self.left:
            keyword = self.left[0]
            if keyword in said:
                self.refuse(f"{keyword!r} is said twice")
            said.add(keyword)
            if self.has("at"):
                options["positions"] = self.numbers(self.next("a position"), "position")
            elif self.verb == "patch" and "positions" in options and self.has("from"):
                source = self.next("a position of the source")
                options["source_positions"] = self.numbers(source, "position")
            elif self.verb != "patch" and self.has("when"):
                options["when"] = self.next("when")
            elif self.verb in ("steer", "swap") and self.has("under"):
                options["lens"] = self.next("a lens")
            elif self.verb == "swap" and self.has("live"):
                options["clamp"] = False
            else:
                self.refuse(f"{self.left[0]!r} is not understood there")
        return options

    # -- the verbs -----------------------------------------------------

    def edit(self) -> Edit:
        """Return the edit that the words say."""
        verb = self.next("a verb")
        verbs = {"ablate": self.ablate, "patch": self.patch, "steer": self.steer, "swap": self.swap}
        if verb not in verbs:
            self.refuse(f"{verb!r} is unknown: accepted are {', '.join(verbs)}")
        self.verb = verb
        try:
            return verbs[verb]()
        except ValueError as error:
            self.refuse(str(error).rstrip("."))

    def ablate(self) -> Any:
        """Take "L23H4 to mean at 3"."""
        place = self.place()
        to = self.next("zero, mean or resample") if self.has("to") else "zero"
        return ablate(**place, to=to, **self.options())

    def patch(self) -> Any:
        """Take "12 from 'a prompt' at 3", or "12 from prompt 0"."""
        place = self.place()
        self.need("from", "a prompt in quotation marks")
        source: Any = self.next("a prompt")
        if source == "prompt" and self.left and re.fullmatch(r"-?\d+", self.left[0]):
            source = int(self.left.pop(0))
        return patch(source, **place, **self.options())

    def steer(self) -> Any:
        """Take "20 by ' Rome' - ' Paris' x0.5"."""
        place = self.place()
        self.need("by", "a token in quotation marks")
        direction: Any = self.next("a token")
        if self.has("-", "−", "minus"):
            direction = (direction, self.next("the token after minus"))
        amount = AMOUNT.fullmatch(self.left[0]) if self.left else None
        if amount:
            self.left.pop(0)
            place["scale"] = float(amount[1])
        if "head" in place:
            self.refuse("a head cannot be steered, but the attn_out to which it adds can")
        return steer(direction, **place, **self.options())

    def swap(self) -> Any:
        """Take "' France' ' Italy' in 8-20"."""
        first = self.next("a token")
        self.has("and")
        second = self.next("the second token")
        self.need("in", "layers")
        place = self.place()
        if "head" in place:
            self.refuse("a head has no coordinates to swap, but the stream has")
        layers = place.pop("layer", None)
        return swap(first, second, layers=layers, **place, **self.options())
