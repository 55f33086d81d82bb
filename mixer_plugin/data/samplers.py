"""The earlier path of :mod:`mixer_plugin.data.loading.samplers`."""

from mixer_plugin.data.loading.samplers import IdentitySampler

__all__ = ["IdentitySampler"]
