"""All initialisation, in one place: for training, and for random models that tests can use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lalte.layers.gdn import GatedDelta
from lalte.layers.local_gdn import LocalGDN
from lalte.layers.lte import GroupedConv
from lalte.layers.norm import RMSNorm
from lalte.model import LaLTE

if TYPE_CHECKING:
    from lalte.config import ModelConfig

STD = 0.006
DECAY_MAX = 16.0  # A ~ U(0, 16)
DT_RANGE = (1e-3, 0.1)  # softplus(dt_bias), log-uniform
ROUTER_BIAS = 0.5  # keeps every token at first


@torch.no_grad()
def init_weights(model: LaLTE, seed: int) -> None:
    """Initialise for training from scratch, as the laLTE and Gated DeltaNet papers do.

    Weights, short convolutions included, N(0, 0.006); o_proj and down_proj kaiming over
    sqrt(2 layers); router convolutions kaiming, their biases 0 but for the projection's 0.5.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = 1 / math.sqrt(2 * len(model.config.layers))
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            # Kaiming uniform with a = sqrt(5): U(-1, 1) / sqrt(fan in).
            bound = residual / math.sqrt(parameter.shape[1])
            _uniform(parameter, -bound, bound, generator)
        else:
            _normal(parameter, STD, generator)
    _init_modules(model, generator)


@torch.no_grad()
def random_model(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> LaLTE:
    """Return an untrained model whose every part matters to its logits.

    Weights have gain 1, so that logits differ from token to token, and routers both keep and drop.
    The values are drawn in fp32 and the same for every dtype, up to rounding.
    """
    model = LaLTE(config, dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        gain = 0.5 if name.endswith("conv1d.weight") else 1 / math.sqrt(_fan_in(parameter))
        _normal(parameter, gain, generator)
    _init_modules(model, generator)
    for module in model.modules():
        if isinstance(module, GroupedConv):
            _normal(module.weight, 2 / math.sqrt(_fan_in(module.weight)), generator)
            _normal(module.bias, 0.3, generator)
    return model


def _init_modules(model: LaLTE, generator: torch.Generator) -> None:
    """Set what is not a plain weight matrix."""
    for name, module in model.named_modules():
        if isinstance(module, RMSNorm):
            module.weight.fill_(1)
        elif isinstance(module, GatedDelta):
            _init_decay(module, generator)
        elif isinstance(module, GroupedConv):
            _normal(module.weight, math.sqrt(2 / _fan_in(module.weight)), generator)
            module.bias.fill_(ROUTER_BIAS if name.endswith("proj") else 0)


def _init_decay(module: GatedDelta[Any], generator: torch.Generator) -> None:
    _uniform(module.A_log, 0, DECAY_MAX, generator)
    module.A_log.log_()
    low, high = (math.log(x) for x in DT_RANGE)
    _uniform(module.dt_bias, low, high, generator)
    # The inverse of softplus, so that softplus(dt_bias) is the drawn step.
    module.dt_bias.copy_(module.dt_bias.exp().expm1().log())


@torch.no_grad()
def init_branch(module: LocalGDN, generator: torch.Generator) -> None:
    """Initialise the new parts beside an attention layer's projections, which stay as they are.

    The branch starts with the layer's own q, k and v: convolutions pass the current token on, and
    the low-rank term adds to the output gate alone.
    """
    for conv in (module.q_conv1d, module.k_conv1d, module.v_conv1d):
        conv.weight.zero_()
        conv.weight[..., -1] = 1
    down, up = module.delta.down.weight, module.delta.up.weight
    _normal(down, 1 / math.sqrt(down.shape[1]), generator)
    _normal(up, 1 / math.sqrt(up.shape[1]), generator)
    up[: 3 * up.shape[0] // 4] = 0
    _normal(module.gates_proj.weight, STD, generator)
    module.null_bias.zero_()
    module.o_norm.weight.fill_(1)
    _init_decay(module, generator)


def _fan_in(parameter: torch.Tensor) -> int:
    return max(math.prod(parameter.shape[1:]), 1)


def _normal(parameter: torch.Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _uniform(parameter: torch.Tensor, low: float, high: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.rand(parameter.shape, generator=generator) * (high - low) + low)
