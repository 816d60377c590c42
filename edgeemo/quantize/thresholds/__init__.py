"""Methods that choose where to clip a tensor, from a histogram of its absolute values; by the names that recipes use.

A method is a module here with a function ``threshold_bins``; nothing else names it, and recipes, the command line and analyze
follow. Its name is the module's, with hyphens. All return the number of leading bins to keep, in [levels, bins]: below ``levels``
bins no int8 level would have a bin of its own.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module


def _methods() -> dict[str, Callable[..., int]]:
    modules = {found.name: import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)}
    return {n.replace("_", "-"): m.threshold_bins for n, m in sorted(modules.items()) if hasattr(m, "threshold_bins")}


THRESHOLDS = _methods()
