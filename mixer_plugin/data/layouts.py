"""The earlier path of :mod:`mixer_plugin.data.datasets.layouts`."""

from mixer_plugin.data.datasets.layouts import detect_layout, read_images

__all__ = ["detect_layout", "read_images"]
