"""Let this package travel to a server that does not have it, as source that any Python reads."""

from __future__ import annotations

from typing import Any

import nnsight


def register_package() -> None:
    """Have nnsight send the functions and classes of this package along with a trace.

    It sends each function as source. But Python makes the `__new__` of a named tuple without one,
    and compiles the types of its fields. Both would travel as bytecode, which another minor version
    of Python cannot read, or crashes on.
    """
    nnsight.register("lens_recipes")
    for kind in tuple.__subclasses__():
        if hasattr(kind, "_fields") and kind.__module__.startswith("lens_recipes."):
            kind.__new__ = staticmethod(new_named_tuple)  # type: ignore[method-assign]
            for name, hint in kind.__annotations__.items():
                kind.__annotations__[name] = getattr(hint, "__forward_arg__", hint)


def new_named_tuple(cls: Any, *values: Any, **named: Any) -> Any:
    """Return a named tuple of a class, like its own `__new__`.

    Raises:
        TypeError: these are not its fields.
    """
    by_position = dict(zip(cls._fields, values, strict=False))
    fields = cls._field_defaults | by_position | named
    n_given = len(values) + len(named)
    if fields.keys() != set(cls._fields) or n_given > len(by_position.keys() | named.keys()):
        raise TypeError(
            f"{cls.__name__} has the fields {cls._fields}: received {values} and {named}."
        )
    return tuple.__new__(cls, [fields[name] for name in cls._fields])
