"""The pages of evidence show what the committed results say, made by commands that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mixer_plugin.benchmarks import forest
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.study_config import load_study
from mixer_plugin.benchmarks.speed.depth_cost import table

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs").glob("evidence*.md"))
RESULTS = ROOT / "benchmarks/results"
COMMAND = re.compile(r"(table3|study|length|head_cost)\s--config\s([a-z][a-z\d-]*)(?![\w.-])")


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {i - 1 for i, line in enumerate(lines) if set(line) <= set("|- ")}
    return [line for i, line in enumerate(lines) if i not in heads and not set(line) <= set("|- ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_is_a_committed_one(page):
    saved = set()
    for path in RESULTS.rglob("*.md"):
        saved |= set(path.read_text(encoding="utf-8").splitlines())
    shown = rows(page.read_text(encoding="utf-8"))
    if page.stem == "evidence":  # beside its own words, which have no figures
        shown = [line for line in shown if re.search(r"\d\.\d", line)]
    assert [line for line in shown if line not in saved] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_has_a_command_and_its_links_exist(page):
    text = page.read_text(encoding="utf-8")
    assert COMMAND.search(text)
    links = re.findall(r"\]\((?!http|#)(.*?)(?:#.*?)?\)", text)
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_of_every_page_name_configurations_of_their_kind(page):
    for command, name in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert load_config(name) if command == "table3" else load_study(name).variants


def test_its_picture_is_what_its_command_draws(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    text = (ROOT / "docs/evidence.md").read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.search(r"benchmarks\.forest (.*)", text).group(1)
    drawn = tmp_path / "forest.svg"
    words = shlex.split(
        command.replace("forest.svg", str(drawn)).replace("results/", f"{RESULTS}/")
    )
    assert forest.main(words) == 0
    new, old = (
        path.read_text(encoding="utf-8") for path in (drawn, RESULTS / "evidence/forest.svg")
    )
    words, made_by = re.compile("<!-- (.*?) -->"), re.compile("Matplotlib v[^,]*")
    assert words.findall(new) == words.findall(old)
    if made_by.findall(new) == made_by.findall(old):  # places differ between versions
        assert new == old


def test_the_first_page_is_read_in_three_minutes():
    text = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120


@pytest.mark.parametrize(
    ("study", "curve", "baseline"),
    [
        ("evidence", "length", "saai-base"),
        ("evidence-mpanet", "mpanet", "mpanet"),
        ("evidence-pretrained", "pretrained", "saai-base@pretrained"),
        ("demo", "demo", "saai-base"),
    ],
)
def test_the_proof_and_the_demo_are_on_finished_networks(study, curve, baseline):
    run = load_config(study) if study == "demo" else load_study(study).run
    assert baseline in run.baselines
    text = (RESULTS / f"length/{curve}.md").read_text(encoding="utf-8")
    ends = dict(re.findall(r"([\w@-]+): (\d+|not finished)", text.split("Finished at: ")[1]))
    assert ends[baseline] == str(run.recipe.iterations)


def proof():
    """(baseline, difference, setting) → row, of both studies."""
    return {
        (row["baseline"], row["difference"], row["setting"]): row
        for name in ("evidence", "evidence-mpanet")
        for row in json.loads((RESULTS / name / "recipe.json").read_text(encoding="utf-8"))
    }


def test_its_sentences_say_what_the_proof_says():
    found = proof()
    settings = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id", "uni")
    assert all(len(r["seeds"]) == 8 for r in found.values())

    def ends(label, setting):
        rows = [found[b, label, setting] for b in ("saai-base", "mpanet")]
        return [r["mean"] for r in rows], [tuple(r["interval"]) for r in rows]

    for mode in ("(f)", "e2e"):
        for setting in settings:
            assert min(low for low, _ in ends(f"{mode}, recommended − baseline", setting)[1]) > 0
    for label, setting, low, high in (
        ("(f), recommended − baseline", "mix", 6.45, 8.55),
        ("(f), recommended − baseline", "cross", 3, 4.5),
        (LONGER, "uni", 1.1, 1.4),
        *((SECOND, setting, 0.75, 2.1) for setting in settings),
    ):
        means, intervals = ends(label, setting)
        assert low <= min(means) <= max(means) <= high
        assert min(low for low, _ in intervals) > 0
    for setting in ("mix", "mix-cam", "mix-cam-id"):
        paper, _ = ends("(f), the paper's − baseline", setting)
        alone, _ = ends("calibrated, no head − baseline", setting)
        assert all(a > p > 0 for a, p in zip(alone, paper, strict=True))
        other, (unsure, sure) = ends(LONGER, setting)
        assert 1.65 <= other[1] <= 1.95
        assert sure[0] > 0 > unsure[0]
    for setting in settings:
        head, _ = ends("(f), the paper's − second head fused", setting)
        assert all(mean > 0 if setting == "uni" else mean < 0 for mean in head)
        apart, _ = ends("(f), recommended − deep heads apart, calibrated", setting)
        assert setting != "uni" or [round(mean, 1) for mean in apart] == [-0.6, -1.0]
        thin = found["mpanet", "(f), recommended: half width − whole", setting]
        assert abs(thin["mean"]) < 0.35
    worse = {
        (baseline, setting): round(row["mean"], 1)
        for (baseline, label, setting), row in found.items()
        if label == "e2e, recommended − (f), recommended" and row["interval"][1] < 0
    }
    assert worse == {("mpanet", "mix"): -0.6, ("mpanet", "uni"): -1.6}
    better = [
        r for (_, label, _), r in found.items() if label == "e2e, recommended − (f), recommended"
    ]
    assert max(row["interval"][0] for row in better) <= 0


def test_its_sentences_on_longer_training():
    found = proof()
    own = {b: found[b, "trained longer − baseline", "cross"] for b in ("saai-base", "mpanet")}
    assert round(own["saai-base"]["mean"], 1) == 2.2
    assert own["saai-base"]["interval"][0] > 0 > own["mpanet"]["interval"][0]
    for setting in ("cross", "mix-id"):  # nothing that is shown
        assert found["mpanet", LONGER, setting]["interval"][0] <= 0
    text = (RESULTS / "evidence-mpanet/unfinished.json").read_text(encoding="utf-8")
    early = {r["setting"]: r["interval"] for r in json.loads(text) if r["difference"] == LONGER}
    for setting in ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id"):  # as good as the heads
        for low, high in (early[setting], found["saai-base", LONGER, setting]["interval"]):
            assert low <= 0 <= high


def test_the_calibrated_rules_lose_nowhere_but_in_their_earlier_version():
    folder = RESULTS / "calibration"
    several, poor, between = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("recipe.json", "poor.json", "random.json")
    )
    for listed, baselines, labels in (
        (several, {"saai-base", "mpanet"}, 9),
        (poor, {"saai-base", "mpanet"}, 3),
        (between, {"saai-base@random"}, 3),
    ):
        gains = [row for row in listed if row["difference"].endswith("calibrated − not")]
        assert {row["baseline"] for row in gains} == baselines
        assert len(gains) == len(baselines) * labels * 6  # settings
        assert min(row["mean"] for row in gains) > 0
    assert min(row["interval"][0] for row in poor) > 0
    assert {len(row["seeds"]) for row in poor} == {8}
    unseen = [[v for s, v in row["seeds"].items() if int(s) > 234] for row in poor]
    assert {len(values) for values in unseen} == {5}
    assert min(map(sum, unseen)) > 0
    gained = [r["mean"] for r in poor if (r["difference"][:3], r["setting"]) == ("(f)", "mix")]
    assert [round(gain) for gain in gained] == [20, 27]
    earlier = (folder / "poor-earlier.md").read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in earlier.splitlines() if row.startswith("| (f)")]
    assert [(row[2].split()[0], *row[5].split()[::3]) for row in rows] == [
        ("+26.4", "-2.9", "(0/8)"),
        ("+36.2", "-0.9", "(0/8)"),
    ]


def test_the_page_on_heads_says_what_they_gain_and_cost():
    listed = json.loads((RESULTS / "depth/head_cost.json").read_text(encoding="utf-8"))
    nothing, found = listed[0]["gain_own"], {row["heads"]: row for row in listed[1:]}
    apart, three = found["per modality, 1 stage"], found["per modality, 3 stages"]
    one, deep, thin = (
        found[f"shared, {which}"] for which in ("1 stage", "3 stages", "3 stages, width 0.5")
    )
    assert thin["gain_own"] > deep["gain_own"]
    assert round(thin["cost_resnet50"], 2) == 0.84
    assert round(thin["cost_resnet50"] / deep["cost_resnet50"], 2) == 0.44
    assert round(thin["gain_paper"] / apart["gain_paper"], 1) == 1.4
    assert [round(row["gain_own"] - nothing, 1) for row in (thin, apart)] == [2.1, 0.6]
    assert round(three["gain_own"] - apart["gain_own"], 1) == 0.7
    assert round(deep["gain_own"] - one["gain_own"], 1) == 2.0


def test_the_page_on_heads_says_how_long_they_are_trained():
    listed = json.loads((RESULTS / "head-length/recipe.json").read_text(encoding="utf-8"))
    settings = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id", "uni")

    def gains(label, setting):
        found = {r["difference"]: r["mean"] for r in listed if r["setting"] == setting}
        return [round(found[f"{steps} steps: {label}"], 1) for steps in ("700", "2,000", "4,000")]

    for setting in settings:
        first, *longer = gains("recommended − baseline", setting)
        assert max(longer) <= first
    for label, setting, told in (
        ("recommended − baseline", "cross", [4.0, None, 0.6]),
        ("recommended − baseline", "mix", [8.6, None, 6.7]),
        ("trained longer, calibrated − baseline", "cross", [3.0, 2.9, 1.8]),
        ("recommended − trained longer, calibrated", "cross", [1.0, -1.4, None]),
        ("recommended − trained longer, calibrated", "uni", [2.1, 1.2, 2.3]),
        ("the paper's − baseline", "mix", [2.0, 2.0, 1.4]),
    ):
        assert all(a in (b, None) for a, b in zip(told, gains(label, setting), strict=True))


def test_the_page_on_heads_says_what_a_step_with_them_takes():
    text = (RESULTS / "depth/step_cost.json").read_text(encoding="utf-8")
    found = json.loads(text)["heads"]
    saved = (RESULTS / "depth/step_cost.md").read_text(encoding="utf-8")
    assert saved.strip() == table(found).strip()
    paper, whole, half = (
        found[kind]
        for kind in ("per modality, 1 stage", "shared, 3 stages", "shared, 3 stages, half width")
    )
    added = [one["time_over_bare"]["minimum"]["joint"] - 1 for one in (paper, whole, half)]
    assert [round(each, 2) for each in added] == [0.36, 0.81, 0.46]
    assert round(added[2] / added[1], 2) == 0.58
    memory = [one["memory"]["joint"] / one["memory"]["bare"] - 1 for one in (whole, half)]
    assert [round(each, 2) for each in memory] == [0.5, 0.44]
    assert max(one["time_over_bare"]["minimum"]["afterwards"] for one in found.values()) < 1.005


def test_the_page_on_cues_says_what_each_share_brings():
    listed = json.loads((RESULTS / "dose/recipe.json").read_text(encoding="utf-8"))
    shares = ("no cues", "a quarter", "half", "three quarters", "all cues")

    def gains(label, setting="mix"):
        found = {r["difference"]: r["mean"] for r in listed if r["setting"] == setting}
        return [found[f"{share}: {label}"] for share in shares]

    paper = [round(gain, 1) for gain in gains("(f), the paper's − baseline")]
    assert (paper[0], paper[-1]) == (0.5, 2.0)
    assert max(paper[:-1]) < paper[-1]
    *others, whole = gains("(f), the paper's − second head fused")
    assert max(others) < -0.5
    assert abs(whole) < 0.5
    recommended = [round(gain, 1) for gain in gains("(f), recommended − calibrated baseline")]
    assert (recommended[0], recommended[-1]) == (2.9, 1.7)


def test_the_page_on_a_pretrained_network_says_what_came_out():
    text = (RESULTS / "evidence-pretrained/recipe.json").read_text(encoding="utf-8")
    rows = [row for row in json.loads(text) if row["baseline"] == "saai-base@pretrained"]
    found = {(row["difference"], row["setting"]): row for row in rows}
    settings = sorted({setting for _, setting in found})

    def gain(label, setting):
        return round(found[label, setting]["mean"], 1)

    def span(label):
        means = [gain(label, setting) for setting in settings if setting != "uni"]
        return gain(label, "uni"), min(means), max(means)

    assert [gain("(f), recommended − baseline", s) for s in ("mix", "cross")] == [4.7, 4.9]
    assert span(LONGER) == (0.7, 1.8, 2.8)
    assert span(SECOND) == (0.5, 1.2, 2.4)
    for label in (LONGER, SECOND):
        assert min(min(found[label, setting]["seeds"].values()) for setting in settings) > 0
    paper = "(f), the paper's − baseline"
    assert [gain(paper, s) for s in ("mix", "uni", "mix-id")] == [0.4, 1.0, -0.3]
    for setting in settings:
        head = found["(f), the paper's − second head fused", setting]["mean"]
        assert head > 0 if setting == "uni" else head < 0
    assert [gain("trained longer − baseline", s) for s in ("cross", "mix")] == [1.3, 0.8]
    for setting, by_seed in (("cross", [3.7, 0.4]), ("mix", [2.8, 0.9])):
        assert [round(x, 1) for x in found[LONGER, setting]["seeds"].values()] == by_seed
    joint = {s: found["e2e, recommended − (f), recommended", s]["mean"] for s in settings}
    assert max(mean for setting, mean in joint.items() if setting != "uni") < 0
    assert round(joint["uni"], 1) == 0.2
    own = [gain("erased-triplet − baseline", setting) for setting in settings]
    assert min(own) == -1.4
    assert gain("erased-triplet − baseline", "uni") == max(own) == 0.3


def test_the_page_on_a_pretrained_network_says_what_random_weights_change():
    folder = RESULTS / "evidence-pretrained"
    listed = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    found = {
        (row["difference"], row["setting"]): row
        for row in listed
        if row["baseline"] == "saai-base@random"
    }

    def gains(label, *settings):
        return [round(found[label, setting]["mean"], 1) for setting in settings]

    assert gains("trained longer − baseline", "cross", "mix") == [5.3, 6.0]
    assert gains("(f), recommended − baseline", "mix") == [7.9]
    assert gains("(f), the paper's − baseline", "mix", "uni") == [1.2, 2.6]
    assert gains(LONGER, "cross", "mix") == [-1.1, -0.1]
    for setting in ("cross", "mix"):
        low, high = sorted(found[LONGER, setting]["seeds"].values())
        assert low < 0 < high
    over_longer, over_heads = (
        f"e2e, recommended − {other}" for other in (LONGER.split(" − ")[1], "(f), recommended")
    )
    assert gains(over_longer, "cross", "mix") == [0.8, 1.3]
    assert gains(over_heads, "mix") == [1.4]
    assert min(found[over_longer, "mix"]["seeds"].values()) > 0
    for label, setting in ((over_longer, "cross"), (over_heads, "mix")):
        low, high = sorted(found[label, setting]["seeds"].values())
        assert low < 0 < high
    assert gains("erased-triplet − baseline", "mix") == [2.4]
    pretrained = [
        round(row["mean"], 1)
        for row in listed
        if row["baseline"] == "saai-base@pretrained"
        and (row["difference"], row["setting"]) == ("erased-triplet − baseline", "mix")
    ]
    assert pretrained == [-0.5]
    for label in (
        "calibrated, no head − baseline",
        "(f), the paper's: calibrated − not",
        "(f), recommended: calibrated − not",
    ):
        assert min(min(r["seeds"].values()) for (own, _), r in found.items() if own == label) > 0
    second = [
        row["mean"] for (label, _), row in found.items() if label == "second head fused − baseline"
    ]
    assert -0.25 < min(second) <= max(second) < 0
    levels = re.findall(
        r"\| saai-base@\w+ \| ([\d.]+) ± \S+ \| ([\d.]+)",
        (folder / "recipe.md").read_text(encoding="utf-8"),
    )
    pretrained, random = ([float(level) for level in row] for row in levels)
    assert [round(a - b) for a, b in zip(pretrained, random, strict=True)] == [52, 42]


SECOND = "(f), recommended − second head fused, calibrated"
LONGER = "(f), recommended − trained longer, calibrated"
