"""The recipes build the networks and the optimizers that they name."""

from __future__ import annotations

import inspect

import pytest
import torch

from mixer_plugin import baselines
from mixer_plugin.baselines import create_baseline, create_loop, list_baselines
from mixer_plugin.baselines.recipe import build_optimizer, datasets_of, load_recipe, set_rates
from mixer_plugin.errors import MixERValueError

RECIPES = [
    (name, dataset)
    for name in list_baselines()
    for dataset in ("sysu", "regdb", "llcm")
    if not name.endswith("-base") and dataset in datasets_of(name)
]


@pytest.mark.parametrize(("name", "dataset"), RECIPES)
def test_recipe_builds_the_network_it_names(name: str, dataset: str) -> None:
    """The options a recipe names are those that the network takes by itself for that data set."""
    recipe = load_recipe(name, dataset)
    network = baselines._BASELINES[name].network
    names = inspect.signature(network).parameters
    assert set(recipe["network"]) <= set(names)
    torch.manual_seed(0)
    by_recipe = network(4, trunk="small", dataset=dataset, **recipe["network"])
    torch.manual_seed(0)
    by_itself = network(4, trunk="small", dataset=dataset)
    pairs = zip(by_recipe.state_dict().items(), by_itself.state_dict().items(), strict=True)
    assert all(k == j and torch.equal(v, w) for (k, v), (j, w) in pairs)
    for option, value in recipe["network"].items():
        if names[option].default is not None:
            assert names[option].default == value, option
    assert recipe["rows"] == create_loop(name).rows


@pytest.mark.parametrize(("name", "dataset"), RECIPES)
def test_recipe_makes_the_public_optimizer(name: str, dataset: str) -> None:
    recipe = load_recipe(name, dataset)
    model = create_baseline(name, 4, trunk="small", dataset=dataset)
    optimizer = build_optimizer(model, recipe)
    taken = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())
    lr, epochs = recipe["optimizer"]["lr"], recipe["schedule"]["epochs"]
    for epoch in (0, epochs - 1):
        set_rates(optimizer, recipe, epoch)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] == pytest.approx(rates[-1] * (1 if len(rates) == 1 else 0.1))
    assert rates[-1] == pytest.approx(lr * 0.1 ** len(recipe["schedule"]["milestones"]))


def test_recipe_errors() -> None:
    with pytest.raises(MixERValueError, match="Did you mean 'ddag'"):
        load_recipe("dagg")
    with pytest.raises(MixERValueError, match="no settings for 'regdb'"):
        load_recipe("sgeil", "regdb")
