"""Token-wise layers give a row the same bits whatever rows stand beside it (8 rows and more)."""

import pytest
import torch

from lalte.layers.linear import Linear
from lalte.layers.mlp import MLP
from lalte.layers.norm import RMSNorm
from lalte.presets import tiny_lalte

CPU = torch.device("cpu")


def check(layer, x):
    with torch.no_grad():
        together = layer(x)
        for rows in (8, 16, 40):
            alone = torch.cat([layer(part.clone()) for part in x.split(rows)])
            assert torch.equal(together, alone), rows


# Unpadded, some of these seeds differ at 1, 2 and 3 features.
@pytest.mark.parametrize("features", [1, 2, 3, 9, 16])
def test_products_of_any_width(features):
    for seed in range(30):
        torch.manual_seed(seed)
        layer = Linear(128, features, torch.bfloat16, CPU)
        layer.weight.data = (torch.randn(features, 128) / 8).to(torch.bfloat16)
        check(layer, torch.randn(320, 128).to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("inner", [128, 101])
def test_mlps_whose_width_is_no_multiple_of_a_vector(inner, dtype):
    config = tiny_lalte(("lte",))
    config = type(config)(**{**vars(config), "intermediate_size": inner})
    torch.manual_seed(4)
    layer = MLP(config, dtype, CPU)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape).to(dtype)
    check(layer, torch.randn(320, 64).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_norms(dtype):
    torch.manual_seed(4)
    layer = RMSNorm(101, 1e-6, dtype, CPU)
    layer.weight.data = torch.randn(101).to(dtype)
    check(layer, torch.randn(320, 101).to(dtype))
