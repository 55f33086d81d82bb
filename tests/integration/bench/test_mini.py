"""What `bench` trains in small behaves as the paper's: related features alone stay within."""

from __future__ import annotations

from pathlib import Path

from mixer_plugin.benchmarks.reproduce.networks import OURS, Bench, Network
from mixer_plugin.evaluation import evaluate


def test_the_related_feature_alone_is_worth_little_across_modalities(tmp_path: Path) -> None:
    """As Table 1's row MixER(R): next to nothing in Cross and Mix-ID, as good as (E) within."""
    bench, network = Bench(scale="mini", out=tmp_path), Network("sysu", OURS, "e2e")
    bench.train([network])
    rules, settings = ["related", "erased"], ["cross", "mix-id", "uni"]
    results = evaluate(
        bench.features(network, 0), bench.protocol(network, 0), rules=rules, settings=settings
    )
    related, erased = (
        {setting: results.get(setting, rule).r1 for setting in settings} for rule in rules
    )
    assert related["mix-id"] < 0.03
    assert related["cross"] < erased["cross"] / 2
    assert related["uni"] > 0.9 * erased["uni"]
