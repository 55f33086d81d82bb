"""What ``mixer_plugin.attach`` says where something is not as it should be, whole."""

import pytest
import torch
from torch import nn

from mixer_plugin import (
    MixERConfig,
    MixERError,
    base_parameters,
    check_optimizer,
    extract_features,
    mixer_features,
    mixer_loss,
    mixer_param_groups,
    mixer_parameters,
    unwrap_mixer,
    wrap_with_mixer,
)
from mixer_plugin.adapters.saai import SAAIAdapter
from mixer_plugin.attach import restore
from mixer_plugin.baselines import create_baseline

IMAGES = torch.randn(8, 3, 32, 16, generator=torch.Generator().manual_seed(0))
IDS, CAMS = torch.arange(4).repeat_interleave(2), torch.tensor([3, 1]).repeat(4)


def bare(name="saai-base"):
    torch.manual_seed(0)
    return create_baseline(name, num_classes=4, trunk="small", image_size=(32, 16))


def wrapped(mode="e2e", **options):
    return wrap_with_mixer(bare(), mode, config=MixERConfig(**options), seed=0)


def said(run, *arguments):
    with pytest.raises(MixERError) as caught:
        run(*arguments)
    return str(caught.value)


def test_restore_wraps_end_to_end_unless_told_otherwise(tmp_path):
    path = tmp_path / "trained.pth"
    model = wrapped(related_heads="shared", related_labels="identity")
    torch.save(model.state_dict(), path)
    again = restore(bare, path, config=model.mixer.config)
    assert (again.mixer.mode, again.training) == ("e2e", False)
    assert again.mixer.config == model.mixer.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert restore(bare, path, "f", config=model.mixer.config).mixer.mode == "f"


def test_a_forward_that_was_put_on_the_object_is_taken_off_first():
    model = wrapped()
    model.forward = lambda *given, **named: type(model).forward(model, *given, **named)
    assert said(unwrap_mixer, model) == (
        "model.forward was set on the object after the wrap, and calls MixER. Take that off first, "
        "as accelerator.unwrap_model(model, keep_fp32_wrapper=False) or del model.forward does."
    )
    assert "mixer" in dict(model.named_children())
    del model.forward
    assert type(unwrap_mixer(model)) is type(bare())
    model = wrapped()
    model.forward = model.forward  # as accelerate leaves it: the method itself, and no other
    assert "forward" not in vars(unwrap_mixer(model))


def test_a_class_that_another_library_has_changed_is_named():
    model = wrapped()
    model.__class__ = type("Sharded", (type(model),), {})
    assert said(unwrap_mixer, model) == (
        "The model's class is Sharded now: another library, such as FSDP, has changed it since the "
        "wrap. Save base_state_dict(model) and load it into a new model."
    )


def test_features_that_no_head_made_are_refused_with_the_reason():
    model = wrapped()
    with model.mixer.matching(heads=False), torch.no_grad():
        model.eval()(IMAGES, cam_ids=CAMS)
        assert said(mixer_features, model) == (
            "The last forward has no related feature: matching(heads=False) runs no related head. "
            "Leave heads=False out."
        )
    with model.mixer.matching(), torch.no_grad():  # the advice
        model(IMAGES, cam_ids=CAMS)
        assert len(mixer_features(model).related) == 8
    model = wrapped(control="erased-triplet").train()
    model(IMAGES, IDS, cam_ids=CAMS)
    assert said(mixer_features, model) == (
        "The last forward has no related feature: control='erased-triplet' has no head. Use "
        "extract_features."
    )
    found = extract_features(model, [(IMAGES, IDS, CAMS)])  # the advice
    assert (len(found.erased), found.related) == (8, None)
    model = wrapped().train()
    model(IMAGES, IDS, cam_ids=CAMS)
    found = mixer_features(model)
    assert found.rows.tolist() == list(range(8))
    assert found.modality.tolist() == [1, 0] * 4  # cameras 3 and 1
    parts = [nn.functional.normalize(part, dim=1) for part in (found.erased, found.related)]
    torch.testing.assert_close(found.fused, torch.cat(parts, dim=1))


def test_a_loss_that_the_forward_adds_already_is_refused():
    model = wrapped().train()
    model(IMAGES, IDS, cam_ids=CAMS)
    assert said(mixer_loss, model, IDS) == (
        "The adapter 'saai' adds the MixER loss inside the forward already. Leave mixer_loss out "
        "of the loop."
    )


def test_a_loss_of_a_forward_in_eval_mode_is_refused():
    model = wrapped(mode="f", frozen_base=True)
    model.train()(IMAGES, cam_ids=CAMS)
    model.eval()
    assert said(mixer_loss, model, IDS) == (
        "The last forward ran in eval mode. Call model.train() before the forward whose loss you "
        "want."
    )


def test_parameters_are_parted():
    model = wrapped()
    own = {id(p) for n, p in model.named_parameters() if n.startswith("mixer.") and p.requires_grad}
    rest = {id(p) for p in model.parameters() if p.requires_grad} - own
    assert {id(p) for p in mixer_parameters(model)} == own
    assert {id(p) for p in base_parameters(model)} == rest
    (group,) = mixer_param_groups(model, 0.3, weight_decay=0.1)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.3, 0.1, len(own))


class Odd(SAAIAdapter):
    """Says another width than the network has."""

    def widths(self, model):
        erased, _ = super().widths(model)
        return erased, erased - 1


def test_widths_that_do_not_divide_are_refused_before_anything_changes():
    model = bare()
    words = said(lambda: wrap_with_mixer(model, adapter=Odd()))
    assert words == (
        "The erased feature has 128 columns and the related one 127; expected a multiple. Check "
        "the adapter's widths and pool."
    )
    assert type(model) is type(bare())


def test_options_come_from_a_file_too(tmp_path):
    path = tmp_path / "mixer.yaml"
    MixERConfig(related_stages=2).to_yaml(path)
    assert wrap_with_mixer(bare(), config=path).mixer.config.related_stages == 2


def sgd(*groups):
    return torch.optim.SGD(list(groups), lr=0.1)


def test_what_an_optimizer_lacks_is_said_whole():
    model = wrapped()
    names = [name for name, p in model.mixer.named_parameters() if p.requires_grad]
    base = [p for n, p in model.named_parameters() if not n.startswith("mixer.")]
    total, first = len(names), names[0]
    optimizer = sgd({"params": base})
    assert check_optimizer(model, optimizer) == [
        f"{total} of {total} MixER parameters are in no optimizer group ({first}, …): they will "
        "not train. Make the optimizer after wrapping, or add mixer_param_groups(model, lr)[0] "
        "with optimizer.add_param_group."
    ]
    optimizer.add_param_group(mixer_param_groups(model, lr=0.1)[0])  # the advice
    assert check_optimizer(model, optimizer) == []
    optimizer.param_groups.append({"params": mixer_parameters(model)[:2], "lr": 0.1})
    assert check_optimizer(model, optimizer) == [
        f"2 MixER parameters are in more than one optimizer group ({first}, …): they would be "
        "stepped twice."
    ]
    one, two, *others = mixer_parameters(model)
    optimizer = sgd({"params": [*base, *others]}, {"params": [one, two], "lr": 0.025})
    (rates,) = check_optimizer(model, optimizer)
    assert rates.startswith("The MixER heads train at learning rate 0.025, 0.1, the base's")
    assert rates.endswith(
        "at 0.1. If that is not meant, give the heads their own group with mixer_param_groups."
    )
    one.requires_grad = two.requires_grad = False
    (frozen,) = check_optimizer(model, sgd({"params": [*base, *others]}))
    assert frozen == (
        f"2 of {total} MixER parameters do not require a gradient ({first}, …): they will not "
        "train. A loop that freezes parameters by name must leave those under mixer. alone."
    )


def test_a_classifier_that_no_optimizer_steps_sets_no_rate():
    model = wrapped()
    heads = mixer_parameters(model)
    trunk = next(p for n, p in model.named_parameters() if "conv" in n)
    assert check_optimizer(model, sgd({"params": heads}, {"params": [trunk], "lr": 0.3})) == []


@pytest.mark.parametrize("classes", [0, True, 2.0])
def test_a_number_of_classes_is_a_whole_one(classes):
    words = f"num_classes is {classes!r}; expected a whole number >= 1."
    assert said(lambda: wrap_with_mixer(bare(), num_classes=classes)) == words


def test_wrapping_takes_a_config_and_the_mode_of_training():
    words = "config is {'related_heads': 'shared'}; expected a MixERConfig or a YAML path."
    assert said(lambda: wrap_with_mixer(bare(), config={"related_heads": "shared"})) == words
    assert wrap_with_mixer(bare(), num_classes=1).mixer.num_classes == 1
    assert [wrap_with_mixer(bare().train(on)).mixer.training for on in (True, False)] == [
        True,
        False,
    ]
