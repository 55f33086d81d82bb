"""Probes of frozen features, and heads trained on cached maps."""

from mixer_plugin.probing.factors import Factors, read_factors
from mixer_plugin.probing.maps import CachedMaps, cache_maps
from mixer_plugin.probing.options import ProbeOptions
from mixer_plugin.probing.report import ProbeReport, probe
from mixer_plugin.probing.training import HeadRecipe, train_heads
from mixer_plugin.probing.views import extract_views

__all__ = [
    "CachedMaps",
    "Factors",
    "HeadRecipe",
    "ProbeOptions",
    "ProbeReport",
    "cache_maps",
    "extract_views",
    "probe",
    "read_factors",
    "train_heads",
]
