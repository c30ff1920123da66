"""Raw (upb) classes of the official messages.

The packages' proto-plus wrappers cost seven times more per call and stay out of the server; each room
has a `messages` module made by `raw()` from the packages whose types it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


def raw(*packages: ModuleType) -> Callable[[str], Any]:
    """A module-level `__getattr__` that finds a type by name in proto-plus packages, unwrapped."""

    def find(name: str) -> Any:
        for package in packages:
            wrapper = getattr(package, name, None)
            if wrapper is not None:
                return wrapper.pb() if hasattr(wrapper, "pb") else wrapper
        raise AttributeError(name)

    return find
