"""`known_model()`: what was found out about a model, for as long as the model stays as it is."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from nnsight.intervention.envoy import Envoy
from nnsight.intervention.source import STATE, Controller, _framework_forward
from torch import nn

from lens_recipes.models.structure.fingerprint import fingerprint
from lens_recipes.models.structure.parts import Anatomy, Block
from lens_recipes.trace.edits.probe import SiteProof


@dataclass
class KnownModel:
    """What was found out about a model as it is now; each is filled when it is first asked for.

    Attributes:
        fingerprint: Of the model at that time.
        anatomy: Where it keeps its parts.
        blocks: What each block adds, by the implementations of attention: under eager attention
            there are weights to be read.
        pads_harmlessly: Whether a prompt padded on the left gives what it gives alone.
        writes_on_harmlessly: Whether what is written after it is that, too.
        edit_proofs: What it says of each site that was edited, by the site's number.
        continues: Whether it goes on from the cache of a prompt's first tokens, cut and repeated,
            as if it had read the whole prompt, by the prompt's length.
    """

    fingerprint: int
    anatomy: Anatomy | None = None
    blocks: dict[tuple[str, ...], list[Block]] = field(default_factory=dict)
    pads_harmlessly: bool | None = None
    writes_on_harmlessly: bool | None = None
    edit_proofs: dict[float, SiteProof] = field(default_factory=dict)
    continues: dict[int, bool] = field(default_factory=dict)


# What was found out about each model, as it is now last, and as it was before: a hook that is put
# on and taken off again leaves a model that is known.
_known_models: weakref.WeakKeyDictionary[nn.Module, list[KnownModel]] = weakref.WeakKeyDictionary()
STATES_KEPT = 4


def known_model(model: Envoy) -> KnownModel:
    """Return what is known of a model, which is nothing if it has changed since it was examined.

    A run asks once, and keeps what it was given: what a recipe itself switches for a while is no
    change.
    """
    module = model._module
    states = _known_models.setdefault(module, [])
    now = fingerprint(module)
    if states and states[-1].fingerprint == now:
        return states[-1]
    if follow_changes(model):
        now = fingerprint(module)
    known = KnownModel(now)
    for state in states:
        if state.fingerprint == now:
            known = state
    others = [state for state in states if state is not known]
    _known_models[module] = [*others, known][-STATES_KEPT:]
    return known


def follow_changes(model: Envoy) -> bool:
    """Let nnsight's tree be that of the model as it is now, and tell whether it was another.

    nnsight mirrors the modules that it was given. It does not see one that was put in later, and
    reads nothing of a module whose `forward` was replaced.
    """
    is_current = True
    for module in model._module.modules():
        if has_foreign_forward(module):
            # What nnsight put there may still be called from within: it is to be silent, since
            # each module is read at its outside.
            module.__dict__.pop(STATE).routes.clear()
            is_current = False
        elif module.__dict__.get(STATE) is None:
            is_current = False
    if is_current and mirrors(model):
        return False
    model._update(model._module)
    return True


def has_foreign_forward(module: nn.Module) -> bool:
    """Tell whether a module's `forward` was replaced after nnsight had put its own there."""
    if STATE not in module.__dict__ or isinstance(module.__dict__.get("forward"), Controller):
        return False
    return not _framework_forward(module)


def mirrors(envoy: Envoy) -> bool:
    """Tell whether an envoy's children are those of its module, under the same names."""
    children = {name: child for name, child in envoy._module._modules.items() if child is not None}
    if list(children) != list(envoy._child_map):
        return False
    for name, child in children.items():
        child_envoy = envoy._child_map[name]
        if child_envoy._module is not child:
            return False
        is_alias = child_envoy.parent is not envoy
        if not is_alias and not mirrors(child_envoy):
            return False
    return True
