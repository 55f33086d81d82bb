"""benchmarks."""

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.benchmarks, not benchmarks")
