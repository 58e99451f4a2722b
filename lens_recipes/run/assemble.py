"""Arrays that came back from a trace become a `LensResult`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import TOKEN_DTYPES, Inputs, Response, Site, Tokens
from lens_recipes.arrays.certificate import Certificate, is_stream_rounding
from lens_recipes.arrays.edits.effects import EditEffects
from lens_recipes.arrays.edits.site_code import site_of_code
from lens_recipes.arrays.images import ImagePlace, Picture
from lens_recipes.arrays.lens import output_entropy
from lens_recipes.arrays.used_lens import LENS_NAMES
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.handle import dtype_of
from lens_recipes.models.structure.links import layers_without_hooks
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.results import LensResult
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import next_ids
from lens_recipes.trace.plan import StreamLinks
from lens_recipes.trace.readout.buffers import PADDING, token_axis

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SUM_CHECKS = ("block", "total", "head")


def in_prompt_order(
    batches: list[dict[str, np.ndarray]], token_prompts: list[int]
) -> dict[str, np.ndarray]:
    """Join the arrays of all batches, tokens by prompt, and pad tracked tokens to the widest batch.

    Args:
        batches: The arrays of each batch; they are emptied.
        token_prompts: The prompt of each token, all batches end to end.
    """
    order = np.argsort(token_prompts, kind="stable")
    widest = max(batch["tracked_ids"].shape[-1] for batch in batches)
    joined = {}
    for array_name in list(batches[0]):
        arrays = [batch.pop(array_name) for batch in batches]
        if array_name in PADDING:
            arrays = [widened(array, widest, PADDING[array_name]) for array in arrays]
        axis = token_axis(array_name)
        joined[array_name] = np.concatenate(arrays, axis).take(order, axis)
    return joined


def widened(array: np.ndarray, width: int, padding: float) -> np.ndarray:
    """Return an array whose last axis is padded to a width."""
    before_last = [(0, 0)] * (array.ndim - 1)
    missing = width - array.shape[-1]
    return np.pad(array, [*before_last, (0, missing)], constant_values=padding)


def certificate_of(
    numbers: dict[str, np.ndarray],
    model: Envoy,
    links: StreamLinks,
    anatomy: Anatomy | None = None,
    is_image: np.ndarray | None = None,
) -> Certificate:
    """Return the certificate of a run's numbers, each `[token]`.

    Args:
        numbers: Of the run; "link" is `[link, token]`.
        model: The nnsight model.
        links: Which streams were compared with what the model went on with.
        anatomy: Where the model keeps its parts; needed where it may read images.
        is_image: Which tokens are of an image, `[token]`; None without images.
    """
    sum_errors: dict[str, Any] = {}
    for name in SUM_CHECKS:
        if name in numbers:
            sum_errors[f"max_{name}_error"] = float(numbers[name].max())
    dtype = coarser_dtype(dtype_of(model), float(numbers["eps"].max()))
    untouched: list[int] = []
    if anatomy is not None and is_image is not None:
        untouched = layers_without_hooks(model, anatomy, links.compared)
    return Certificate(
        max_logit_error=float(numbers["error"].max()),
        max_abs_logit=float(numbers["scale"].max()),
        max_kl=float(numbers["kl_last"].max()),
        top1_agreement=float(numbers["agrees"].mean()),
        tokens=len(numbers["error"]),
        dtype=dtype,
        **sum_errors,
        **edit_fields(numbers, dtype),
        **link_fields(numbers.get("link"), links, dtype, is_image, untouched),
        read_both_ways=anatomy is not None and anatomy.is_prefix,
    )


def edit_fields(numbers: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """Return what a certificate says of the edits, from the arrays of `EditChecks.errors`."""
    if "edit" not in numbers:
        return {}
    worst = int(numbers["edit"].argmax())  # of NaN too
    fields: dict[str, Any] = {"max_edit_error": float(numbers["edit"][worst])}
    if "edit_site" not in numbers:  # of many edits at once, whose sites are not told apart
        return fields
    code = float(numbers["edit_site"][worst])
    # Of a run on a server, the first batch alone has asked the model.
    asked = numbers["edit_identity"] != -1
    if asked.any():
        fields["edit_identity_error"] = float(numbers["edit_identity"][asked].max())
        fields["edit_cone_error"] = float(numbers["edit_cone"][asked].max())
        largest = max(fields["edit_identity_error"], fields["edit_cone_error"])
        # The site that is named is that of the failure that is named first.
        if not (largest <= fields["max_edit_error"] and is_stream_rounding(largest, dtype)):
            code = float(numbers["edit_worst"][asked][0])
    site = site_of_code(code)
    if site is not None:
        fields["worst_edit"] = str(site)
    return fields


def link_fields(
    link_errors: np.ndarray | None,
    links: StreamLinks,
    dtype: str,
    is_image: np.ndarray | None = None,
    untouched: Collection[int] = (),
) -> dict[str, Any]:
    """Return what a certificate says of the links between layers, from their errors [link, token].

    Nothing where none was compared, as in a result that an earlier version of this package made.

    Args:
        link_errors: As above.
        links: Which were compared.
        dtype: Of the run.
        is_image: Which tokens are of an image, `[token]`; None without images.
        untouched: Layers after which no hook stands: what changes the tokens of images there, and
            no others, is the model itself.
    """
    if link_errors is None or not len(link_errors):
        return {}
    by_link = link_errors.max(-1)
    largest = int(by_link.argmax())  # of NaN too
    changed, of_images = [], []
    for layer, errors, error in zip(links.compared, link_errors, by_link, strict=True):
        if is_stream_rounding(float(error), dtype):
            continue
        if layer in untouched and is_image is not None and stays_in_text(errors, is_image, dtype):
            of_images.append(layer)
        else:
            changed.append(layer)
    return {
        "links": len(links.compared),
        "max_link_error": float(by_link[largest]),
        "max_link_layer": links.compared[largest],
        "changed_layers": tuple(changed),
        "unlinked_layers": tuple(links.not_compared),
        "image_layers": tuple(of_images),
    }


def stays_in_text(errors: np.ndarray, is_image: np.ndarray, dtype: str) -> bool:
    """Tell whether a stream is what it was at all tokens that are of no image, `[token]`."""
    of_text = errors[~is_image]
    return not len(of_text) or is_stream_rounding(float(of_text.max()), dtype)


def image_tokens(request: Request) -> np.ndarray | None:
    """Return which of the tokens that are read are of an image, `[token]`; None without images."""
    if not any(request.pictures):
        return None
    return np.array([place.image >= 0 for place in places_read(request)])


def coarser_dtype(weights: torch.dtype, stream_eps: float) -> str:
    """Return the precision that a run had.

    It is that of the weights here, or that of the stream where it ran, if that is coarser.
    """
    dtypes_by_eps = {torch.finfo(dtype).eps: dtype for dtype in DTYPES}
    coarsest_eps = max(torch.finfo(weights).eps, stream_eps)
    return str(dtypes_by_eps.get(coarsest_eps, weights)).removeprefix("torch.")


def packed_tokens(request: Request, texts: dict[int, str]) -> Tokens:
    """Return the token axis: the positions that are read of all prompts, end to end."""
    rows = []
    for prompt, (token_ids, positions) in enumerate(
        zip(request.token_ids, request.positions, strict=True)
    ):
        following = next_ids(token_ids, request.anatomy.vocab_size)
        for position in positions:
            rows.append((prompt, position, token_ids[position], following[position]))
    prompts, positions_read, ids_read, ids_after = np.array(rows, dtype=np.int32).T
    return Tokens(
        **image_columns(request),
        prompt=prompts,
        position=positions_read,
        id=ids_read,
        next_id=ids_after,
        generated=np.zeros(len(rows), dtype=bool),
        text=[texts[int(token)] for token in ids_read],
    )


def image_columns(request: Request) -> dict[str, np.ndarray]:
    """Return where the tokens that are read are in the images; nothing without images."""
    if not request.places:
        return {}
    return columns_of_places(places_read(request))


def places_read(request: Request) -> list[ImagePlace]:
    """Return where the tokens that are read are in the images of their prompts, `[token]`."""
    read = []
    for places, positions in zip(request.places, request.positions, strict=True):
        read += [places[position] for position in positions]
    return read


def columns_of_places(read: list[ImagePlace]) -> dict[str, np.ndarray]:
    """Return the places of some tokens as columns of `Tokens`."""
    columns = {}
    for name, values in zip(ImagePlace._fields, zip(*read, strict=True), strict=True):
        columns[name] = np.array(values, dtype=TOKEN_DTYPES[name])
    return columns


def all_ids(numbers: dict[str, np.ndarray], *lists: Iterable[Iterable[int]]) -> set[int]:
    """Return every id that a result shows: those of a run, and those in lists of lists."""
    token_ids: set[int] = set()
    for rows in lists:
        for row in rows:
            token_ids.update(int(token) for token in row)
    for array_name in ("top_ids", "final_ids", "tracked_ids", "effect_top_ids"):
        if array_name not in numbers:
            continue
        token_ids.update(np.unique(numbers[array_name]).tolist())
    return token_ids


def lens_result(
    numbers: dict[str, np.ndarray],
    sites: list[Site],
    tokens: Tokens,
    prompts: list[str],
    target_ids: list[list[int]],
    texts: dict[int, str],
    certificate: Certificate | None,
    provenance: dict[str, Any],
    responses: list[Response] | None = None,
    inputs: list[Inputs] | None = None,
    pictures: list[list[Picture]] | None = None,
) -> LensResult:
    """Return a result out of what `readout` gave, its tokens in the order of `tokens`.

    The requested ids of each token are its targets, then the next id, then the model's answer.
    """
    refuse_overflow(numbers["logsumexp"], sites, tokens, provenance)
    logprobs, ranks = numbers["wanted_logprobs"], numbers["wanted_ranks"]
    model_entropy = numbers.get("final_entropy")
    if model_entropy is None:  # in what comes of a job that an earlier version sent
        model_entropy = output_entropy(sites, numbers["kl"], numbers["entropy"])
    target_logprobs = logprobs[..., :-2]
    return LensResult(
        sites=sites,
        tokens=tokens,
        prompts=prompts,
        top_ids=numbers["top_ids"],
        top_logprobs=numbers["top_logprobs"],
        entropy=numbers["entropy"],
        kl_to_final=numbers["kl"],
        logsumexp=numbers["logsumexp"],
        next_logprobs=logprobs[..., -2],
        next_ranks=ranks[..., -2],
        final_ids=numbers["final_ids"].astype(np.int32),
        model_logprobs=numbers["final_logprob"],
        model_entropy=model_entropy,
        final_logprobs=logprobs[..., -1],
        final_ranks=ranks[..., -1],
        target_ids=np.array(target_ids, dtype=np.int32).reshape(len(prompts), -1),
        target_logits=target_logprobs + numbers["logsumexp"][..., None],
        target_logprobs=target_logprobs,
        target_ranks=ranks[..., :-2],
        tracked_ids=numbers["tracked_ids"],
        tracked_logprobs=numbers["tracked_logprobs"],
        texts=texts,
        certificate=certificate,
        provenance=provenance,
        responses=responses or [],
        inputs=inputs or [],
        pictures=pictures or [],
        effects=effects_of(numbers, tokens, provenance),
    )


def effects_of(
    numbers: dict[str, np.ndarray], tokens: Tokens, provenance: dict[str, Any]
) -> EditEffects | None:
    """Return what edits did, beside controls; None where there were none."""
    if "controls" not in provenance or "effect_kl" not in numbers:
        return None
    return EditEffects.from_arrays(numbers, tokens.prompt, provenance["controls"])


def refuse_overflow(
    logsumexp: np.ndarray, sites: list[Site], tokens: Tokens, provenance: dict[str, Any]
) -> None:
    """Raise a LensError where a transport made numbers that are NaN or infinite.

    No rank and no top token could be told from a real one there.

    Args:
        logsumexp: Of the logits of each readout, `[site, token]`.
        sites, tokens: What its axes are.
        provenance: Of the run, which says with which lens it read.
    """
    broken = ~np.isfinite(logsumexp)
    if "lens" not in provenance or not broken.any():
        return
    row, token = np.argwhere(broken)[0]
    site = sites[row]
    raise LensError(
        f"the {LENS_NAMES[provenance['lens']['kind']]} makes numbers that are NaN or infinite of "
        f"{broken.sum()} of {broken.size} vectors; the first is {site.component} of layer "
        f"{site.layer}, position {tokens.position[token]} of prompt {tokens.prompt[token]}. Half "
        "precision is the usual cause, as float16 ends at 65,504: load the model with "
        + say(python='dtype="float32".', shell="--dtype float32.")
    )
