"""Writes features of one's own to a file and evaluates them in mixed galleries."""

import numpy as np

from mixer_plugin import FeatureSet, evaluate

rng = np.random.default_rng(0)
PERSONS, EACH, WIDTH = 30, 8, 32
ids = np.arange(PERSONS).repeat(EACH)
modality = np.arange(len(ids)) % 2  # 0 visible, 1 infrared
cams = 1 + 2 * modality + (np.arange(len(ids)) % 4 > 1)

# In place of your features: `erased` knows the person in both modalities, `related` in its own.
common = rng.normal(size=(PERSONS, WIDTH))
own = rng.normal(size=(2, PERSONS, WIDTH))
erased = common[ids] + 1.5 * rng.normal(size=(len(ids), WIDTH))
related = own[modality, ids] + 1.5 * rng.normal(size=(len(ids), WIDTH))

columns = {"erased": erased, "related": related, "ids": ids, "cams": cams, "modality": modality}
np.savez("mine.npz", **columns)  # `mixer-plugin evaluate mine.npz` prints the same

features = FeatureSet.load("mine.npz")
rules = ("erased", "mixer", "mixer-shuffled")  # the last one is a control
results = evaluate(features, "full", rules=rules, settings=("cross", "mix", "mix-id"))
print(results.to_markdown())
for rule in rules:
    print(f"{rule}: mAP in Mix {100 * results.get('mix', rule).mAP:.1f} %")
