"""A model's own way from the residual stream to its logits, for recipes and for one's own trace."""

from __future__ import annotations

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.models.handle import exclusive, resolve_remote
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.head_path import without_devices
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.weights.offload import refuse_uncallable
from lens_recipes.trace.kernels import kernels_for
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import (
    Elementwise,
    ModuleCall,
    Operation,
    autocast_dtype,
)
from lens_recipes.trace.travel import register_package


def lens_head(model: Envoy, *, remote: bool | str | None = None) -> LensHead:
    """Return the map from vectors of the stream to this model's logits, for any `model.trace`.

    It applies what the model itself applies after its last block, whatever its family: the final
    norm, projections, the unembedding, a logit scale, a softcap. On the last block's output it
    gives the model's own logits.

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
        register_package()
    with exclusive(model):
        operations = head_operations_for(model, anatomy(model), where)
    return LensHead(model, operations)


def head_operations_for(model: Envoy, parts: Anatomy, remote: bool | str) -> list[Operation]:
    """Return the way from the stream to the logits, on a server without this machine's devices.

    Raises:
        LensError: a module on the way cannot be called by itself.
    """
    if remote:
        return without_devices(parts.tail)
    refuse_uncallable(model, parts.tail)
    return parts.tail


def plain_head(model: Envoy, parts: Anatomy) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of an unembedding that is nothing but a product on this processor.

    None for any other: sharded, quantised, offloaded, adapted, half-precision or hooked heads are
    modules to be called.
    """
    head = model.get(parts.unembed)._module
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return None
    if head.weight.dtype != torch.float32 or head.weight.device.type == "meta":
        return None
    if not kernels_for(head.weight.device).tiles_the_product:
        return None
    if autocast_dtype(head.weight.device) is not None:
        return None  # the module rounds its product
    if head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook"):
        return None
    if not all(isinstance(operation, ModuleCall | Elementwise) for operation in parts.tail):
        return None
    return head.weight, head.bias
