"""The earlier path of :mod:`mixer_plugin.data.datasets.image_checks`."""

from mixer_plugin.data.datasets.image_checks import open_image

__all__ = ["open_image"]
