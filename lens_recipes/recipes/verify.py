"""`verify()`: hold a saved result against the model that it is said to be of."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.agreement import find_difference
from lens_recipes.arrays.axes import Response
from lens_recipes.arrays.edits.kinds import Ablation, Patch, Steering, Swap
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import tokenizer_of
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.tokens.vocabulary import prompt_text
from lens_recipes.recipes.attribution.attribution import attribution
from lens_recipes.recipes.logit_lens import logit_lens
from lens_recipes.results import Attribution, LensResult, PatchMap
from lens_recipes.run.provenance import restore_arguments
from lens_recipes.run.request.encodings import IDS, EncodedPrompt, as_recorded
from lens_recipes.run.request.images.digests import check_recorded
from lens_recipes.run.request.lenses import resolve_lens

Result = TypeVar("Result", LensResult, Attribution)

# What a result does not hold in its arrays, and is asked for as it was.
LENS_ARGUMENTS = ("layers", "components", "heads", "track", "apply_norm")

# How many tokens may be as likely as the last that a result holds.
TIED = 8


def verify(
    result: Result,
    model: Envoy,
    *,
    remote: bool | str | None = None,
    lens: Any = None,
    images: Any = None,
) -> Result:
    """Run a result again on a model, and return it with the certificate of that run.

    What a file holds is a claim: its certificate says "as saved". The prompts are kept as token
    ids, and are read again at the same positions, sites and targets. What was generated is read
    again as a text, without sampling it anew: what only the run itself knew is not checked
    (`sampler_logprob`, why a text ended, `timings`). A run that was edited is edited again.

    Args:
        result: A lens result or an attribution.
        model: What `load()` returns: the model that the result is said to be of.
        remote: Where it runs, as for `logit_lens`.
        lens: The lens that it was read with, or that an edit names a direction under, where it
            cannot be loaded from where it was then; a list where there are several. None loads
            them from there.
        images: The images of its prompts, in the forms of `logit_lens`: a result keeps small
            copies to be looked at, and not what the model was given.

    Raises:
        LensError: the model says something else; the message names the first number that differs
            by more than rounding. Or the result keeps too little to run it again.

    Example:
        >>> model = load("smollm2")
        >>> logit_lens(model, "The capital of France is").save("result.json")
        >>> result = LensResult.load("result.json").verify(model)
    """
    if isinstance(result, PatchMap):
        raise LensError(
            "a patch map is not run again from its file: run patch_map() on its prompts, and "
            "compare `mean`."
        )
    if not result.inputs:
        raise LensError(
            "this result does not keep what the model was given (vectors, or a file of an earlier "
            "version), so it cannot be run again: run the recipe anew."
        )
    recorded = recorded_images(result)
    check_recorded(recorded, images, "this result", "images=…", n_prompts=len(result))
    try:
        given = given_lenses(lens, model)
        its_lens = lens_again(result, model, given)
        edits = edits_again(result, model, given)
    except ValueError as error:
        raise LensError(f"this result cannot be run again: {error}") from error
    try:
        again = run_again(result, model, remote, its_lens, edits | {"images": images})
    except (KeyError, TypeError, ValueError) as error:
        raise LensError(
            f"this result cannot be run again on this model: {error} It is of another model, or "
            "damaged."
        ) from error
    difference = find_difference(result, again)
    if difference is not None:
        raise LensError(
            f"this result is not what this model says: {difference}. It is of another model, of "
            f"other weights or another precision, or was changed since{_needs_others(result)}."
        )
    return dataclasses.replace(result, certificate=again.certificate)


def _needs_others(result: LensResult | Attribution) -> str:
    """Return that an edit takes something from other prompts of its run, where one does."""
    for edit in result.edits:
        names_one = isinstance(edit, Patch) and isinstance(edit.source, int | list)
        takes_next = isinstance(edit, Ablation) and str(edit.to) == "resample"
        if names_one or takes_next:
            return (
                ", or it is one prompt of several: an edit takes something from the others "
                f"({edit}), and only the whole result can be verified"
            )
    return ""


def recorded_images(result: LensResult | Attribution) -> Any:
    """Return what tells the images of a result's run from others; None where it had none."""
    arguments = result.provenance.get("arguments")
    return arguments.get("images") if isinstance(arguments, dict) else None


def given_lenses(lens: Any, model: Envoy) -> list[Lens | None]:
    """Return the lenses that the caller passed; None is the logit lens.

    Raises:
        ValueError, LensError: as `resolve_lens`.
    """
    if lens is None:
        return []
    lenses = lens if isinstance(lens, list | tuple) else [lens]
    return [resolve_lens(each, model) for each in lenses]


def lens_again(
    result: LensResult | Attribution, model: Envoy, given: list[Lens | None]
) -> Lens | None:
    """Return the lens that a result was read with.

    Raises:
        ValueError: it cannot be loaded, or is another one.
    """
    arguments = result.provenance.get("arguments")
    recorded = arguments.get("lens") if isinstance(arguments, dict) else None
    if recorded is None:
        return None
    if not given:
        return resolve_lens(recorded, model)
    lens = with_digest(given, recorded["digest"])
    if lens is None:
        first = given[0]
        digest = "none: it is the logit lens" if first is None else first.digest
        raise ValueError(
            f"the lens that was passed has the digest {digest}, and the result was read with "
            f"{recorded['digest']}."
        )
    return lens


def with_digest(lenses: list[Lens | None], digest: Any) -> Lens | None:
    """Return the lens that has a digest, or None."""
    for lens in lenses:
        if lens is not None and lens.digest == digest:
            return lens
    return None


def edits_again(
    result: LensResult | Attribution, model: Envoy, given: list[Lens | None]
) -> dict[str, Any]:
    """Return the argument `edits` of the same run; none where nothing was edited.

    Raises:
        ValueError: the lens of an edit is not there, or the edit needs prompts that are not.
    """
    if not result.edits:
        return {}
    if isinstance(result, LensResult) and result.tokens.generated.any():
        raise ValueError(
            "what a model wrote while it was edited cannot be read again as a text. Write it anew: "
            "generate_lens(…, edits=result.edits)."
        )
    edits = []
    for edit in result.edits:
        if not isinstance(edit, Steering | Swap) or edit.lens is None:
            edits.append(edit)
            continue
        lens = with_digest(given, edit.lens["digest"])
        try:
            edits.append(dataclasses.replace(edit, lens=lens or resolve_lens(edit.lens, model)))
        except ValueError as error:
            raise ValueError(f"{edit}: {error}") from error
    return {"edits": edits}


def run_again(
    result: LensResult | Attribution,
    model: Envoy,
    remote: bool | str | None,
    lens: Lens | None,
    more: dict[str, Any],
) -> LensResult | Attribution:
    """Return the same of what the model says now."""
    if isinstance(result, Attribution):
        return attribution_again(result, model, remote, lens, more)
    return readout_again(result, model, remote, lens, more)


def attribution_again(
    result: Attribution,
    model: Envoy,
    remote: bool | str | None,
    lens: Lens | None,
    more: dict[str, Any],
) -> Attribution:
    """Return the attribution of the same targets at the same tokens."""
    against: Any = result.against or None
    if (result.against_ids >= 0).all():
        against = result.against_ids.tolist()
    return attribution(
        model,
        recorded_prompts(result),
        result.target_ids.tolist(),
        against=against,
        unit=result.unit,
        at_layer=result.at_layer,
        lens=lens,
        positions=positions_of(result),
        remote=remote,
        **more,
    )


def readout_again(
    result: LensResult,
    model: Envoy,
    remote: bool | str | None,
    lens: Lens | None,
    more: dict[str, Any],
) -> LensResult:
    """Return the lens of the same sites at the same tokens.

    Of a generation, the prompts are read with what was written after them.
    """
    stored = restore_arguments(result.provenance["arguments"])
    arguments = {name: stored[name] for name in LENS_ARGUMENTS if name in stored}
    is_generation = bool(result.tokens.generated.any())
    prompts = written_prompts(result) if is_generation else recorded_prompts(result)
    again = logit_lens(
        model,
        prompts,
        positions=positions_of(result),
        targets=result.target_ids.tolist(),
        # More than it holds: another order of additions may change which tied token is its last.
        top_k=min(result.top_ids.shape[-1] + TIED, anatomy(model).vocab_size),
        remote=remote,
        lens=lens,
        **more,
        **arguments,
    )
    return as_generation(again, result, tokenizer_of(model)) if is_generation else again


def as_generation(again: LensResult, result: LensResult, tokenizer: Any) -> LensResult:
    """Return the lens of whole texts as that of a generation: prompts, and what was written."""
    prompts: list[str] = []
    responses = []
    for inputs, text, response in zip(
        result.inputs, written_out(result), result.responses, strict=True
    ):
        prompt_ids = inputs[IDS]
        number = len(prompts)
        shown = prompt_text(tokenizer, prompt_ids)
        if any(again.pictures) and again.prompts[number].startswith(result.prompts[number]):
            shown = result.prompts[number]  # in which a mark stands for each image
        prompts.append(shown)
        written = prompt_text(tokenizer, text[len(prompt_ids) :], special=False)
        responses.append(Response(written, response.finish))
    return dataclasses.replace(again, prompts=prompts, responses=responses)


def recorded_prompts(result: LensResult | Attribution) -> Any:
    """Return the prompts of a result as a recipe takes them."""
    prompts = []
    for inputs in result.inputs:
        others = {name: row for name, row in inputs.items() if name != IDS}
        prompts.append(EncodedPrompt(inputs[IDS], others))
    return as_recorded(prompts)


def written_out(result: LensResult) -> list[list[int]]:
    """Return the ids of each prompt, and of all that the model wrote after it."""
    texts = []
    for number, inputs in enumerate(result.inputs):
        is_written = result.tokens.generated & (result.tokens.prompt == number)
        texts.append([*inputs[IDS], *result.tokens.next_id[is_written].tolist()])
    return texts


def written_prompts(result: LensResult) -> Any:
    """Return the prompts of a generation with what was written, as a recipe takes them.

    What is given beside each id, such as its type, is 0 for what was written: it is text.
    """
    prompts = []
    for inputs, text in zip(result.inputs, written_out(result), strict=True):
        others = {}
        for name, row in inputs.items():
            if name != IDS:
                others[name] = [*row, *[0] * (len(text) - len(row))]
        prompts.append(EncodedPrompt(text, others))
    return as_recorded(prompts)


def positions_of(result: LensResult | Attribution) -> list[list[int]]:
    """Return which positions of each prompt were read, `[prompt][token]`."""
    positions = []
    for number in range(len(result)):
        positions.append(result.tokens.position[result.tokens.prompt == number].tolist())
    return positions
