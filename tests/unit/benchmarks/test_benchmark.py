"""Configuration, jobs, paired differences and verdicts of the benchmark."""

import copy
import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import yaml

from mixer_plugin.benchmarks.experiment.cells import cells_of, plan_jobs
from mixer_plugin.benchmarks.experiment.comparisons import (
    BASELINE,
    E2E,
    GAINS,
    SETTINGS,
    Difference,
    F,
    contract_of,
    cue_share,
    difference,
    level,
    verdict,
)
from mixer_plugin.benchmarks.experiment.config import config_from_dict, load_config
from mixer_plugin.benchmarks.experiment.summary import gains_in_words
from mixer_plugin.benchmarks.experiment.tables import (
    all_tables,
    differences_json,
    titles_of,
)
from mixer_plugin.benchmarks.paper.numbers import rows_beside
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.evaluation.protocols.registry import PROTOCOLS

VALUES = {
    "name": "test",
    "data": {"synthetic": {"train_ids": 8, "test_ids": 6}},
    "image_size": [64, 32],
    "baselines": {"saai-base": {"trunk": "small"}},
    "seeds": [0, 1],
    "recipe": {"iterations": 10, "p": 2, "k": 2},
    "heads": {"when": "after", "recipe": {"iterations": 5}},
    "controls": {"f-ens": [0, 1], "no-cue": [1], "erased-triplet": [0]},
}


CONFIG = config_from_dict(VALUES)


def names(job):
    return tuple(cell.name for cell in job.cells)


def values(**changes):
    return {**copy.deepcopy(VALUES), **changes}


def test_heads_recipe_takes_what_it_does_not_say_from_the_baselines():
    config = config_from_dict(values())
    assert config.heads.recipe.iterations == 5
    assert (config.heads.recipe.p, config.heads.recipe.k) == (2, 2)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"seed": [0]}, "Did you mean 'seeds'"),
        ({"baselines": {"saia": {}}}, "Did you mean 'saai'"),
        ({"controls": {"ens": [0]}}, "Did you mean 'f-ens'"),
        ({"controls": {"f-ens": [7]}}, "paired difference needs both"),
        ({"data": {"synthetic": {}, "root": "somewhere"}}, "either"),
        ({"data": {"synthetic": {"train_id": 3}}}, "Did you mean 'train_ids'"),
        ({"data": {"root": "somewhere"}}, "needs a generator"),
        ({"heads": {"when": "later"}}, "Options: after, joint"),
        ({"heads": {"when": "after"}}, "recipe is missing"),
        ({"mixer": {"lambda_fuse": 1}}, "Did you mean 'lambda_fusion'"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, 0]}, "repeats"),
        ({"workers": 0}, "workers is 0"),
        (
            {"baselines": {"sgeil": {}}, "data": {"root": "r"}, "controls": {}},
            "sgeil trains on body shapes.*data.shapes",
        ),
        ({"data": {"root": "r", "shapes": "s"}, "controls": {}}, "nothing uses it"),
    ],
)
def test_configuration_errors(changes, hint):
    with pytest.raises(MixERError, match=hint):
        config_from_dict(values(**changes))


def test_configuration_files(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    assert load_config(path) == config_from_dict(values())
    demo = load_config("demo")
    assert demo.seeds == (0, 1)
    assert demo.mixer == MixERConfig.recommended(related_width=0.5)
    assert demo.rule == demo.mixer.rule
    with pytest.raises(FileNotFoundError):
        load_config("no-such-name")
    path.write_text("a: [")
    with pytest.raises(MixERError, match="not valid YAML"):
        load_config(path)


def test_jobs_train_the_baseline_once_and_every_control_on_its_seeds():
    after = {job.name + ":" + ",".join(names(job)) for job in plan_jobs(config_from_dict(values()))}
    assert after == {
        "saai-base-cues-seed0:baseline,f,f-ens",
        "saai-base-cues-seed0:e2e",
        "saai-base-cues-seed0:erased-triplet",
        "saai-base-cues-seed1:baseline,f,f-ens",
        "saai-base-cues-seed1:e2e",
        "saai-base-no-cue-seed1:baseline,f,f-ens",
    }
    joint = plan_jobs(config_from_dict(values(heads={"when": "joint"}, paper=True)))
    assert not any("baseline" in names(job) for job in joint)
    assert sum("e2e-paper" in names(job) for job in joint) == 2


def test_a_seed_is_trained_with_its_variants_before_the_next_and_before_controls():
    own = {"longer": {"mode": "baseline", "recipe": {"iterations": 20}}}
    jobs = plan_jobs(config_from_dict(values(variants=own)))
    assert [(job.seed, names(job)[-1]) for job in jobs] == [
        *((seed, last) for seed in (0, 1) for last in ("f-ens", "e2e", "longer")),
        (0, "erased-triplet"),
        (1, "f-ens"),
    ]


def test_no_cues_end_to_end_is_a_control_of_its_own():
    config = config_from_dict(values(controls={"no-cue": [0], "no-cue-e2e": [0]}))
    bare = [names(job) for job in plan_jobs(config) if job.world == "no-cue"]
    assert bare == [("baseline", "f", "f-ens"), ("e2e",), ("e2e-ens",)]


def test_cells_differ_in_what_they_say():
    config = config_from_dict(values(mixer={"fusion_margin": 0.2}))
    cells = cells_of(config)
    mode, f = cells["f"].mode, cells["f"].mixer
    assert (mode, f.frozen_base, f.control, f.fusion_margin) == ("f", True, "none", 0.2)
    assert cells["f-ens"].mixer.control == "shared-head"
    assert cells["e2e"].mode == "e2e"
    assert not cells["e2e"].mixer.frozen_base
    assert cells["erased-triplet"].mixer.control == "erased-triplet"
    assert cells["e2e-paper"].mixer.related_input == "flow"
    cues, bare = (
        job.data.train.settings(job.world, job.seed)
        for job in plan_jobs(config)[:1] + plan_jobs(config)[-1:]
    )
    assert (cues.visible_cue, bare.visible_cue, bare.infrared_cue) == (1.0, 0.0, 0.0)
    assert (cues.shared_cue, bare.shared_cue, bare.seed) == (1.0, 1.0, 1)


class FakeResults:
    """mAP of every rule and calibration; cross does not see the related feature."""

    def __init__(self, base, mixer=0.0, shuffled=0.0, calibrated=0.0):
        added = {"mixer": mixer, "mixer-calibrated": mixer, "mixer-shuffled": shuffled}
        self.rows = [
            self.row(setting, rule, calibration, base, added.get(rule, 0.0), calibrated)
            for setting in SETTINGS
            for rule in ("erased", "erased-calibrated", *added)
            for calibration in (None, "znorm", "center")
        ]

    @staticmethod
    def row(setting, rule, calibration, base, added, calibrated):
        added += calibrated if calibration else 0.0
        added = 0.0 if setting == "cross" else added
        return SimpleNamespace(
            setting=setting,
            rule=rule,
            calibration=calibration,
            query="infrared",
            protocol="sysu/all/single",
            mAP=base + added,
            r1=base + added / 2,
        )

    def to_csv(self):
        return "setting,mAP\nmix,0.5\n"


def measured(ens=0.01, calibrated=0.0, shuffled=-0.1):
    out = {}
    for seed, base in ((0, 0.5), (1, 0.6), (2, 0.55)):
        kind = {"calibrated": calibrated, "shuffled": shuffled}
        out["cues", "baseline", seed] = FakeResults(base, **kind)
        out["cues", "f", seed] = FakeResults(base, mixer=0.02 + seed / 1000, **kind)
        out["cues", "f-ens", seed] = FakeResults(base, mixer=ens)
        out["cues", "e2e", seed] = FakeResults(base - 0.01 + 0.02 * seed, mixer=0.0, **kind)
    return out


def test_differences_are_paired():
    of_f = difference(measured(), GAINS[0], "mix")
    assert of_f.values == pytest.approx({0: 2.0, 1: 2.1, 2: 2.2})
    assert of_f.mean == pytest.approx(2.1)
    assert of_f.spread == pytest.approx(0.1)
    assert str(of_f) == "+2.10 ± 0.10 (3/3)"
    assert str(difference(measured(), GAINS[0], "cross")).startswith("0 (exactly, 3 of 3)")
    of_e2e = difference(measured(), GAINS[1], "cross")
    assert of_e2e.positive == 2
    assert difference(measured(), GAINS[2], "mix") is None
    only = {k: v for k, v in measured().items() if k[1:] != ("baseline", 1)}
    assert set(difference(only, GAINS[0], "mix").values) == {0, 2}
    assert set(level(only, F, "mix", "mAP")) == {0, 1, 2}
    assert math.isclose(level(only, BASELINE, "mix", "mAP")[2], 55.0)
    assert level(only, E2E, "mix", "r1")[0] == pytest.approx(49.0)


def test_from_four_seeds_on_a_difference_has_its_interval():
    values = {0: 1.0, 1: 2.0, 2: 3.0, 3: 0.5, 4: 1.5}
    found = Difference("f", "mix", "mAP", values)
    low, high = found.interval()
    half = 2.7764451 * found.spread / math.sqrt(5)  # Student's t, 4 degrees of freedom, 97.5 %
    assert (low, high) == pytest.approx((1.6 - half, 1.6 + half))
    assert f"[{low:+.2f}, {high:+.2f}] (5/5)" in str(found)
    assert found.shown
    wide = dataclasses.replace(found, values={**values, 3: 9.0})
    assert wide.positive == 5
    assert not wide.shown
    few = dataclasses.replace(found, values={0: 0.1, 1: 9.0})
    assert few.shown
    assert "[" not in str(few)
    assert dataclasses.replace(found, values={0: 1.0}).interval() is None


def test_a_proof_shows_the_mean_its_interval_and_who_does_not_follow():
    found = Difference("f", "mix", "mAP", {0: 1.0, 1: 2.0, 2: 3.0, 3: -0.5})
    low, high = found.interval()
    assert found.brief == f"+1.4 [{low:+.1f}, {high:+.1f}] (3/4)"
    assert dataclasses.replace(found, values={0: 1.0, 1: 2.0}).brief == "+1.5"
    assert dataclasses.replace(found, values={0: 0.0, 1: 0.0}).brief == "0 exactly"


def test_of_both_queries_the_tables_show_the_mean():
    results = FakeResults(0.5)
    visible = [SimpleNamespace(**vars(row)) for row in results.rows]
    for row in visible:
        row.query, row.mAP = "visible", row.mAP + 0.2
    results.rows += visible
    found = {("cues", "baseline", 3): results}
    assert level(found, BASELINE, "mix", "mAP") == pytest.approx({3: 60.0})
    assert "mean of both queries" in contract_of(found)
    assert titles_of(found)["uni"] == "within"


def test_variants_are_rows_of_their_own():
    own = {"f-long": {"mode": "f", "recipe": {"iterations": 9}}, "soft": {"mixer": {"reversal": 0}}}
    own["quick"] = {"finish": False}
    config = config_from_dict(values(variants=own))
    cells = {(job.world, job.seed): set() for job in plan_jobs(config)}
    for job in plan_jobs(config):
        cells[job.world, job.seed] |= set(names(job))
        assert ("f-long" in names(job)) <= ("baseline" in names(job))
    assert all(
        {"f-long", "soft"} <= found for (world, _), found in cells.items() if world == "cues"
    )
    found = cells_of(config)
    assert (found["f-long"].mode, found["f-long"].mixer.frozen_base) == ("f", True)
    assert found["soft"].mixer.reversal == 0
    (long,) = found["f-long"].recipes
    assert long == dataclasses.replace(config.heads.recipe, iterations=9)
    assert found["soft"].recipes == [config.recipe, config.heads.recipe]
    assert found["quick"].recipes == [config.recipe]
    out = measured()
    for seed in (0, 1):
        out["cues", "soft", seed] = FakeResults(0.5 + seed / 10, mixer=0.03)
    rows = {row[0]: row[2] for row in all_tables({"saai-base": out}, CONFIG)[1].rows}
    assert rows["soft − baseline"] == "+3.00 ± 0.00 (2/2)"


@pytest.mark.parametrize("name", ["f", "a/b", "with space", ""])
def test_a_variant_needs_a_name_of_its_own(name):
    with pytest.raises(MixERValueError, match="variants has"):
        config_from_dict(values(variants={name: {"mode": "f"}}))


def test_a_verdict_is_the_gain_over_the_control_that_comes_closest():
    assert verdict(measured(), "(f)+MixER", "cross") == "equal"
    missing = "; not run: no cues"
    assert verdict(measured(), "(f)+MixER", "mix") == f"+1.1 over (f) ens, in 3 of 3 seeds{missing}"
    assert (
        verdict(measured(ens=0.03), "(f)+MixER", "mix")
        == f"-0.9 over (f) ens, in 0 of 3 seeds, not beaten{missing}"
    )
    assert "z-normed baseline" in verdict(measured(calibrated=0.05), "(f)+MixER", "mix")
    assert "shuffled" in verdict(measured(shuffled=0.05), "(f)+MixER", "mix")
    assert "in 1 of 3 seeds, not beaten; not run: e2e ens" in verdict(
        measured(), "e2e+MixER", "mix"
    )
    worse = measured()
    for seed in (0, 1, 2):
        worse["cues", "e2e", seed] = FakeResults(0.1, mixer=0.0)
    assert verdict(worse, "e2e+MixER", "mix") == "no gain"
    nothing = {k: v for k, v in measured().items() if k[1] != "e2e"}
    assert verdict(nothing, "e2e+MixER", "mix") == "not run"


def test_what_a_gain_owes_to_cues_is_paired_by_seed():
    world = measured()
    for seed in (0, 1):
        world["no-cue", "baseline", seed] = FakeResults(0.5)
        world["no-cue", "f", seed] = FakeResults(0.5, mixer=0.02)
        world["no-cue", "f-ens", seed] = FakeResults(0.5, mixer=0.018)
    share = cue_share(world, "(f)+MixER", "mix")
    assert share.values == pytest.approx({s: 1.0 + s / 10 - 0.2 for s in (0, 1)})
    assert cue_share(measured(), "e2e+MixER", "mix") is None
    assert verdict(world, "(f)+MixER", "mix") == "+1.1 over (f) ens, in 3 of 3 seeds"
    for seed in (0, 1):
        world["no-cue", "f-ens", seed] = FakeResults(0.5, mixer=0.005)
    assert verdict(world, "(f)+MixER", "mix").endswith("3 of 3 seeds, no more than without cues")


def test_tables_hold_the_papers_rows_beside_ours():
    rows = dict(rows_beside("saai-base", {("sysu/all/single", "infrared")}))
    assert rows["SAAI"]["mix-id"] == (52.49, 53.30)
    assert rows["SAAI (f)+MixER"]["cross"] == (73.64, 69.51)
    assert rows["SAAI+MixER"]["mix-cam-id"] == (88.51, 73.24)
    text = "\n".join(t.to_markdown() for t in all_tables({"saai-base": measured()}, CONFIG))
    assert "| saai-base | 55.00 | 55.00 |" in text
    assert "| paper: SAAI+MixER | 74.25 | 71.08 |" in text
    assert "+2.10 ± 0.10 (3/3)" in text
    assert "**+1.1 over (f) ens, in 3 of 3 seeds; not run: no cues**" in text
    latex = all_tables({"saai-base": measured()}, CONFIG)[1].to_latex()
    assert r"$\pm$" in latex
    assert "±" not in latex
    assert '"+1.1 over (f) ens, in 3 of 3 seeds; not run: no cues"' in differences_json(
        {"saai-base": measured()}, CONFIG
    )
    assert len(SETTINGS) == 6


def test_the_runs_own_rule_stands_in_every_form():
    config = config_from_dict(values(rule="fused-calibrated"))
    found = measured()
    for results in found.values():
        results.rows += [
            results.row(setting, "fused-calibrated", None, 0.6, 0.1, 0.0) for setting in SETTINGS
        ]
    text = "\n".join(t.to_markdown() for t in all_tables({"saai-base": found}, config))
    assert "| saai-base (f)+MixER, fused-calibrated | 60.00 |" in text
    assert "| (f)+MixER over baseline | +5.00 ± 5.00 (2/3) |" in text
    assert text.count('Rows with "over" match by the rule fused-calibrated') == 2
    assert "Cross +5.0 (2 of 3 seeds)" in gains_in_words(config, found)[0]
    out = json.loads(differences_json({"saai-base": found}, config))["saai-base"]["differences"]
    of_f = [d for d in out if d["label"] == "(f)+MixER over baseline" and d["setting"] == "cross"]
    assert [d["mean"] for d in of_f] == pytest.approx([5.0, 5.0])
    plain = "\n".join(t.to_markdown() for t in all_tables({"saai-base": measured()}, CONFIG))
    assert "(f)+MixER over baseline" not in plain  # the row "(f)+MixER − baseline" says it


@pytest.mark.parametrize("query", ["infrared", "visible", "both"])
@pytest.mark.parametrize("protocol", [*PROTOCOLS, "two"])
def test_the_papers_rows_stand_beside_its_own_protocol_alone(protocol, query):
    found = measured()
    for results in found.values():
        names = ("sysu/all/single", "full") if protocol == "two" else (protocol, protocol)
        queries = ("infrared", "visible") if query == "both" else (query, query)
        for i, row in enumerate(results.rows):
            row.protocol, row.query = names[i % 2], queries[i % 2]
    text = "\n".join(t.to_markdown() for t in all_tables({"saai-base": found}, CONFIG))
    assert ("paper: SAAI+MixER" in text) == ((protocol, query) == ("sysu/all/single", "infrared"))
    family = protocol.split("/")[0] if protocol.startswith("regdb") else protocol
    has_rows = family in ("sysu/all/single", "regdb", "llcm/sampled") and query != "both"
    assert ("The paper's rows are" in text) == has_rows


def test_several_baselines_are_shown_in_one_table_with_their_spread():
    one = all_tables({"saai": measured()}, CONFIG)
    both = all_tables({"saai": measured(), "ddag": measured()}, CONFIG)
    assert len(both) == 1 + 2 * len(one)
    rows = {row[0]: row[1:] for row in both[0].rows}
    assert set(rows) == {n + m for n in ("saai", "ddag") for m in ("", " (f)+MixER", "+MixER, e2e")}
    assert rows["ddag"] == ("55.00 ± 5.00",) * 6
    assert rows["saai (f)+MixER"][1] == "57.10 ± 5.05"


def test_the_configuration_of_all_six():
    config = load_config("six")
    assert list(config.baselines) == ["ddag", "deen", "sgeil", "mpanet", "saai", "idkl"]
    cells = {(job.network.name, cell) for job in plan_jobs(config) for cell in names(job)}
    for name in config.baselines:
        assert {c for n, c in cells if n == name} == {"baseline", "f", "f-ens", "e2e"}
