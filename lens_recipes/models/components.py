"""The components of a transformer block: one ordered list of every place that can be read.

Derived from it are which module a block's write is named after, the order of sites in a view, which
of them are the residual stream itself, and what a block adds before its middle. This file imports
nothing: results and views, which need no model, read it too.
"""

from __future__ import annotations

from typing import NamedTuple


class Component(NamedTuple):
    """One kind of place in a block.

    Attributes:
        name: What a caller asks for, and what a result's sites are called.
        role: "stream" for the residual stream itself, "write" for what a module adds to it, "share"
            for what one head contributes to such a write.
        module_pattern: A regular expression for the names and classes, in lower case, of the
            modules that write it. The first component whose pattern matches gives the name.
    """

    name: str
    role: str
    module_pattern: str | None = None


# In the order in which a block has them.
COMPONENTS = (
    Component("embed", "stream"),
    Component("resid_pre", "stream"),
    Component("attn_out", "write", r"attn|attention"),
    Component(
        "mixer_out", "write", r"mixer|mamba|ssm|recurrent|temporal|conv|delta|lru|lstm|rwkv|time"
    ),
    Component("head_out", "share"),
    Component("resid_mid", "stream"),
    Component("mlp_out", "write", r"mlp|feed_?forward|ffn|moe|expert|glu|\bff|\bfc|dense"),
    Component("other_out", "write"),
    Component("resid_post", "stream"),
)

NAMES = tuple(component.name for component in COMPONENTS)

# The residual stream itself, at several places.
STREAM = tuple(component.name for component in COMPONENTS if component.role == "stream")

# What a block adds to the stream.
WRITES = tuple(component.name for component in COMPONENTS if component.role == "write")

# What a block adds before its middle.
WRITES_BEFORE_MIDDLE = tuple(name for name in NAMES[: NAMES.index("resid_mid")] if name in WRITES)

# All that is not the stream itself: what a block adds, and the heads' shares of it.
ADDED = tuple(component.name for component in COMPONENTS if component.role != "stream")
