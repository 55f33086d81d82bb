"""Features of fewer dimensions, by PCA of each feature, and what that costs."""

from __future__ import annotations

from mixer_plugin.search.reduction.reduce import (
    Projection,
    Reduction,
    fit_reduction,
    fit_reductions,
)

__all__ = ["Projection", "Reduction", "fit_reduction", "fit_reductions"]
