from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner

from lalte.retrofit.config import RetrofitConfig
from memoryd.cli import app
from retrofit.test_recipe import RECIPE


def test_a_recipe_can_take_the_budgets_that_are_proposed(base: Path, data: Path, tmp_path: Path):
    """None for a layer that the recipe says becomes GDN."""
    body = RECIPE | {"gdn": RECIPE["gdn"] | {"layers": [1]}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(body))
    arguments = ["train", "budgets", recipe, "--data", data, "--model", base, "--streams", 1]
    arguments += ["--mean", 10, "--least", 3]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "nats a token" in result.stdout
    proposed = yaml.safe_load(result.stdout)["budgets"]
    assert list(proposed) == [0]
    assert 3 <= proposed[0] <= 10
    assert RetrofitConfig.model_validate(body | {"budgets": proposed}).budgets == proposed
