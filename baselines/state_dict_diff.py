"""Lists the differences between a checkpoint and a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor


def state_dict_diff(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], left_out: Callable[[str], bool]
) -> str:
    """Names that are missing, unknown or of another shape; empty if everything fits.

    Args:
        own: the network's tensors by name.
        given: the checkpoint's.
        left_out: whether a name that the network lacks is expected.
    """
    found = {
        "missing": [k for k in own if k not in given],
        "unknown": [k for k in given if k not in own and not left_out(k)],
        "of another shape": [k for k in own if k in given and own[k].shape != given[k].shape],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', …' if len(keys) > 5 else ''}"
        for kind, keys in found.items()
        if keys
    )
