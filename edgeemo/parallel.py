"""Pure functions over many items, on one core, several, or a Dask cluster; results come in the items' order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from edgeemo_runtime.errors import EdgeEmoError

T = TypeVar("T")


def in_order(
    function: Callable[..., T],
    items: Iterable[tuple[Any, ...]],
    jobs: int = 1,
    cluster: str | None = None,
    shared: Sequence[Any] = (),
) -> Iterator[T]:
    """``function(*item)`` of every item. ``jobs`` are processes here, 0 for one per core; ``cluster`` is a Dask scheduler,
    dask://HOST:PORT, which needs this version of edgeemo and the files that items name. ``shared``: what is large and in many
    items; a cluster gets it once instead of with every item.

    Raises EdgeEmoError where the cluster cannot be reached or Dask is not installed, and whatever ``function`` raises.
    """
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1 and cluster is None:
        yield from (function(*item) for item in items)
        return
    from joblib import Parallel, delayed, parallel_config

    with ExitStack() as stack:
        if cluster is not None:
            _connect(cluster, stack)
        options = {"backend": "loky", "n_jobs": jobs} if cluster is None else {"backend": "dask", "n_jobs": -1, "scatter": shared}
        stack.enter_context(parallel_config(**options))
        yield from Parallel(return_as="generator")(delayed(function)(*item) for item in items)


def _connect(cluster: str, stack: ExitStack) -> None:
    if not cluster.startswith("dask://"):
        raise EdgeEmoError(f"--cluster {cluster}: not a Dask scheduler's address, dask://HOST:PORT")
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise EdgeEmoError(f"--cluster {cluster}: needs Dask; pip install 'edgeemo[cluster]'") from error
    try:
        stack.enter_context(Client(cluster.replace("dask://", "tcp://", 1), timeout=10))
    except (OSError, ValueError) as error:
        raise EdgeEmoError(f"--cluster {cluster}: no scheduler answers there ({error})") from error
