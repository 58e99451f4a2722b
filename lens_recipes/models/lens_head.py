"""`lens_head()`: a model's own way from the residual stream to its logits, for one's own trace."""

from __future__ import annotations

import nnsight
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.handle import exclusive, resolve_remote
from lens_recipes.models.structure.anatomy import anatomy, head_operations_for
from lens_recipes.trace.lens_head import LensHead


def lens_head(model: Envoy, *, remote: bool | str | None = None) -> LensHead:
    """Return the map from vectors of the stream to this model's logits, for any `model.trace`.

    It applies what the model itself applies after its last block, whatever its family: the final
    norm, projections, the
    unembedding, a logit scale, a softcap. On the last block's output it gives the model's own
    logits.

    Args:
        model: What `load()` returns.
        remote: Where the trace will run; None as the model was loaded. In a server's block, call it
            before the block.

    Raises:
        LensError: the logits are not a function of the last block's output alone.

    Example:
        >>> head = lens_head(model)
        >>> with model.trace("The capital of France is"):
        ...     logits = nnsight.save([head(block.output[:, -1]) for block in model.model.layers])
    """
    where = resolve_remote(model, remote)
    if where:
        nnsight.register(
            "lens_recipes"
        )  # a server does not have this package: its classes travel by value
    with exclusive(model):
        operations = head_operations_for(anatomy(model), where)
    return LensHead(model, operations)
