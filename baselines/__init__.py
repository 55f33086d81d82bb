"""baselines."""
if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.baselines, not baselines")
