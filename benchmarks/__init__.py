"""Experiments: the paper's tables, studies of MixER's options, and measurements of speed."""

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.benchmarks, not benchmarks")
