"""Which lens a recipe reads with, and which transport of it each site takes.

The stream after a block has the transport of that block. The other sites use that of the stream
they are part of:

- `resid_pre` and `embed` are the stream after the block before; before block 0, the embedding's.
- `resid_mid` has none of its own: it is read with that of its block, of whose stream it is a part
  already. This is an approximation, as the MLP has yet to write.
- What a block adds (`attn_out`, `mlp_out`, `head_out` …) is taken through the linear part of its
  block's transport, without the bias, which belongs to no part. So the parts of a stream sum.

The last stream is read as it is, whatever the lens: that is what the certificate compares.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.sites import PARTS
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.caller import parameter, say
from lens_recipes.errors import LensError
from lens_recipes.lenses.belongs import check_belongs
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.load import load_lens
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.run.request.prompts import shortened
from lens_recipes.trace.transport import IDENTITY, Affine, Transport

LOGIT_LENS = "logit"  # what asks for the lens without transports, as None does


def resolve_lens(lens: Any, model: Any) -> Lens | None:
    """Return the lens that a recipe is to read with; None for the logit lens.

    Args:
        lens: None or "logit", a `Lens`, the path of its file, a hub id, or what a job's file
            recorded of it.
        model: The model that it must belong to.

    Raises:
        ValueError: it is none of these, or another lens than a job was sent with.
        LensError: its file cannot be read, or it cannot belong to the model.
    """
    if lens is None or (isinstance(lens, str) and lens == LOGIT_LENS):
        return None
    if isinstance(lens, Lens):
        check_belongs(lens, model)
        return lens
    if isinstance(lens, str | os.PathLike):
        return load_lens(lens, model)
    if isinstance(lens, Mapping) and {"source", "digest"} <= lens.keys():
        return load_recorded(lens, model)
    raise ValueError(
        f"{parameter('lens')} is {shortened(lens)}, which is no lens: accepted are None or "
        '"logit" for the logit lens, '
        "what load_lens() and fit_lens() return, the path of a lens's file, or a hub id."
    )


def load_recorded(recorded: Mapping[str, Any], model: Any) -> Lens:
    """Load the lens that a result or a job says it was read with.

    Raises:
        ValueError: the lens there is another one, or was never saved.
    """
    source = recorded["source"]
    path = recorded.get("location") or source
    if not isinstance(path, str) or not os.path.lexists(path):  # no file asks a hub for another one
        raise ValueError(
            f"the lens of this run ({source!r}) is not there: "
            + say(
                python="pass it, lens=load_lens(path). One that was fitted is there if it was "
                "saved, lens.save(path), and read with that path.",
                shell="name its file, --lens FILE.",
            )
        )
    try:
        lens = load_lens(path, model)
    except LensError as error:
        raise ValueError(f"the lens of this run ({source!r}) cannot be loaded: {error}") from error
    if lens.digest != recorded["digest"]:
        raise ValueError(
            f"the lens at {source!r} is not the one of this run: its digest is {lens.digest}, "
            f"expected is {recorded['digest']}."
        )
    return lens


def recorded_lens(lens: Lens | None) -> dict[str, str] | None:
    """Return a lens as the arguments of a run name it.

    "location" is the path that it can be loaded from again. Jobs need it, and results, which tell
    nothing of a machine, do not keep it.
    """
    if lens is None:
        return None
    return {"source": lens.used().source, "digest": lens.digest, "location": lens.location}


def lens_provenance(lens: Lens | None) -> dict[str, Any]:
    """Return what a result's provenance says of the lens; nothing for the logit lens."""
    return {} if lens is None else {"lens": lens.used().to_json()}


def transport_of(site: Site, lens: Lens | None, anatomy: Anatomy) -> Transport | None:
    """Return the transport by which a site is read; None where the lens has none for it."""
    if lens is None or site.layer is None:
        return IDENTITY
    if site.component in ("resid_pre", "embed"):
        return transport_after(stream_before(site.layer, anatomy), lens, anatomy)
    transport = transport_after(site.layer, lens, anatomy)
    if site.component in PARTS and isinstance(transport, Affine):
        return transport.without_bias()
    return transport


def transport_after(stream: int | None, lens: Lens, anatomy: Anatomy) -> Transport | None:
    """Return the transport of the stream after a block."""
    if stream == anatomy.last_layer:
        return IDENTITY
    if stream is None:
        return None
    return lens.transports.get(stream)


def transport_of_layer(layer: int, lens: Lens, anatomy: Anatomy) -> Transport:
    """Return the transport of the stream after the one block that was named.

    Raises:
        ValueError: the lens has none.
    """
    transport = transport_after(layer, lens, anatomy)
    if transport is None:
        raise ValueError(
            f"the {lens.name} {lens.source!r} has no transport for layer {layer}: accepted are "
            f"{layer_list(lens, anatomy)}."
        )
    return transport


def stream_before(layer: int, anatomy: Anatomy) -> int | None:
    """Return after which block the stream before a layer is; `EMBEDDING` before the first.

    None where the model scales the stream between the two, so that no transport was fitted to it.
    """
    if layer not in anatomy.layers:
        return None
    place = anatomy.layers.index(layer)
    if place == 0:
        return EMBEDDING
    before = anatomy.layers[place - 1]
    link = anatomy.links[before]
    is_scaled = link is not None and link.factor != 1
    return None if is_scaled else before


def sites_with_transports(
    sites: list[Site], lens: Lens | None, anatomy: Anatomy, *, any_layer: bool
) -> list[Site]:
    """Return the sites that a lens can read.

    Args:
        sites: Those asked for.
        lens: The lens.
        anatomy: Of the model.
        any_layer: Whether sites without a transport are passed over.

    Raises:
        ValueError: a site that was named has no transport, or all lack one.
    """
    lacking = [site for site in sites if transport_of(site, lens, anatomy) is None]
    if not lacking:
        return sites
    having = [site for site in sites if site not in lacking]
    if any_layer and having:
        return having
    assert lens is not None  # the logit lens reads any site
    all_names = list(dict.fromkeys(f"{each.component} of layer {each.layer}" for each in lacking))
    names = ", ".join(all_names[:5])
    others = f" and {len(all_names) - 5} more" if len(all_names) > 5 else ""
    raise ValueError(
        f"the {lens.name} {lens.source!r} has no transport for {names}{others}. It reads the "
        f"stream after layers {layer_list(lens, anatomy)} and what those layers add."
    )


def layer_list(lens: Lens, anatomy: Anatomy) -> list[int]:
    """Return the layers that a lens reads, the last one included."""
    return [layer for layer in lens.layers if layer != EMBEDDING] + [anatomy.last_layer]
