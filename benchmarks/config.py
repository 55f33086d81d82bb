"""The earlier path of :mod:`mixer_plugin.benchmarks.experiment.config`."""

from mixer_plugin.benchmarks.experiment.config import Table3Config, load_config

__all__ = ["Table3Config", "load_config"]
