"""The Lightning callback: the same training, its figures where Lightning looks for them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from mixer_plugin.attach import restore
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.training import best_so_far
from tests.contract.attached import assert_equal, build, wrap
from tests.contract.toys import TOYS
from tests.unit.training.test_evaluation_in_training import gallery

lightning = pytest.importorskip("lightning", reason="needs the extra 'lightning'")


def callback(*given, **options):
    from mixer_plugin.training.lightning import MixedGalleryEvaluation

    return MixedGalleryEvaluation(*given, **options)


class Module(lightning.LightningModule):
    """A toy, trained on batches from the global random numbers."""

    def __init__(self, wrapped=True):
        super().__init__()
        self.toy = TOYS["generic/dropout"]
        net = build(self.toy)
        self.net = wrap(self.toy, net) if wrapped else net
        self.modes = []

    def training_step(self, *_):
        self.modes.append(self.net.training)
        return self.toy.step_loss(self.net, self.toy.batch(None))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(tmp_path, *callbacks, module=None, epochs=4, **options):
    module = Module() if module is None else module
    torch.manual_seed(11)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=options.pop("enable_checkpointing", False),
        logger=options.pop("logger", False),
    )
    trainer.fit(module, DataLoader([0, 1], shuffle=True), **options)
    return trainer, module


@pytest.mark.slow
def test_the_training_is_the_same_and_the_figures_are_logged(tmp_path):
    _, plain = fit(tmp_path)
    path = tmp_path / "best.pth"
    watcher = callback(gallery(), every=2, best=path, settings=("mix",))
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    trainer, watched = fit(tmp_path, watcher, logger=logger)
    assert_equal(dict(plain.state_dict()), dict(watched.state_dict()))
    assert all(watched.modes)
    logged = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert "mix/mAP" in logged[0]
    assert len(logged) == 1 + 2  # epochs 2 and 4
    assert 0 < float(trainer.callback_metrics["mix/mAP"]) <= best_so_far(path) + 1e-6 <= 1.1
    held = torch.load(path, weights_only=True)
    assert held["epoch"] in (1, 3)
    assert watcher.state_dict() == {"best": best_so_far(path)}
    restore(lambda: build(watched.toy), path, adapter=watched.toy.adapter())


@pytest.mark.slow
def test_lightnings_own_checkpoints_find_the_figure_and_a_resumed_run_the_best(tmp_path):
    keeper = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "kept", monitor="mix/mAP", mode="max", save_on_train_epoch_end=True
    )
    watcher = callback(gallery(), best=tmp_path / "best.pth")
    fit(tmp_path, watcher, keeper, enable_checkpointing=True)
    assert float(keeper.best_model_score) == pytest.approx(watcher.best)
    again = callback(gallery(), best=tmp_path / "best.pth")
    kept = {"ckpt_path": tmp_path / "kept.ckpt", "weights_only": False}
    fit(tmp_path, again, enable_checkpointing=True, epochs=8, **kept)
    assert again.best >= watcher.best


def test_a_module_without_a_wrapped_network_is_told(tmp_path):
    from mixer_plugin.training.lightning import _wrapped_in

    with pytest.raises(MixERTypeError, match="holds 0 models wrapped"):
        _wrapped_in(Module(wrapped=False))
    assert _wrapped_in(module := Module()) is module.net


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"monitor": "mix/map"}, "Did you mean 'mix/mAP'"),
        ({"rules": ("mixr",)}, "Did you mean 'mixer'"),
        ({"settings": ("mixed",)}, "Unknown setting 'mixed'"),
    ],
)
def test_what_is_wrong_is_told_before_the_training(options, message):
    with pytest.raises(MixERValueError, match=message):
        callback(gallery(), **options)
