"""Reader → model → features → protocol → table, on files, as a user's test script does it."""

import torch
from torch.utils.data import DataLoader

from mixer_plugin import FeatureSet, evaluate, extract_features, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.data import SyntheticConfig, read_sysu, write_layout
from mixer_plugin.data.loading.decode import ImageDataset


def test_from_a_folder_to_a_table(tmp_path):
    config = SyntheticConfig(train_ids=3, val_ids=1, test_ids=4, height=32, width=16)
    root = tmp_path / "set"
    write_layout(root, config, "sysu")
    test = read_sysu(root, "test")
    loader = DataLoader(ImageDataset(test, (32, 16)), batch_size=13)
    torch.manual_seed(0)
    model = create_baseline("saai", 3, trunk="small", image_size=(32, 16))
    features = extract_features(wrap_with_mixer(model), loader)
    assert features.paths == test.paths
    assert features.modality.tolist() == test.modality.tolist()
    features.save(tmp_path / "features.npz")
    again = FeatureSet.load(tmp_path / "features.npz")
    results = evaluate(again, "sysu/all/single", query="both", rules=("erased", "mixer"))
    cross = results.get("cross", "erased", query="infrared")
    assert cross.trials == 10
    assert cross.gallery_size == 4 * 4  # one image per identity and visible camera
    assert results.get("mix", "mixer", query="visible").gallery_size == 4 * 6
    assert (
        results.get("cross", "mixer", query="visible").mAP
        == results.get("cross", "erased", query="visible").mAP
    )
    assert "mix-cam-id" in results.to_markdown()
