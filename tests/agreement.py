"""Comparing an op's implementations: outputs and, in the same pass, every gradient."""

import torch

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def close(actual, expected):
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(
        actual, expected, atol=tolerance, rtol=tolerance, check_dtype=actual.dtype == expected.dtype
    )


def agree(implementations, inputs, *rest):
    """All give the same tensors, and the same gradients of a random sum of them, for `inputs`."""
    results = []
    for run in implementations:
        learned = [x.clone().requires_grad_() for x in inputs]
        outputs = run(*learned, *rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(7)
        weights = [torch.randn(x.shape, generator=generator) for x in outputs]
        loss = sum((x.float() * weight).sum() for x, weight in zip(outputs, weights, strict=True))
        loss.backward()
        results.append([*(x.detach() for x in outputs), *(x.grad for x in learned)])
    for other in results[1:]:
        for actual, expected in zip(other, results[0], strict=True):
            close(actual, expected)
