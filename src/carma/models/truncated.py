"""Noise that agrees with what was observed, by the quantile function of its distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["log_mass", "truncated_gumbels", "truncated_logistic"]


def log_mass(low: Tensor, high: Tensor, width: Tensor) -> Tensor:
    """Log-probability that a standard logistic variable lies between two ends.

    Args:
        low: May be minus infinity.
        high: Above ``low``, same shape; may be infinity.
        width: ``high - low``, which the caller may know more exactly than its two ends.

    Returns:
        The same shape.

    Example:
        >>> ends = torch.tensor([[-torch.inf, 0.0], [0.0, torch.inf]]).double()
        >>> log_mass(ends[:, 0], ends[:, 1], ends[:, 1] - ends[:, 0]).exp()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    return logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(-width))


def truncated_logistic(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Quantile of a standard logistic variable known to lie between two ends.

    Exact far out too: an interval above 0 is mirrored, so that only small probabilities are
    added.

    Args:
        low: May be minus infinity.
        high: Above ``low``; may be infinity.
        share: Strictly between 0 and 1: how much of the distribution is below the quantile.

    Returns:
        The shape that the three have together.

    Example:
        >>> ends = torch.tensor([0.0, torch.inf]).double()
        >>> truncated_logistic(ends[0], ends[1], torch.tensor(0.5).double()).sigmoid()
        tensor(0.7500, dtype=torch.float64)
    """
    is_above = low + high > 0
    near, far = torch.where(is_above, -high, low), torch.where(is_above, -low, high)
    share = torch.where(is_above, 1 - share, share)
    below = torch.logaddexp((1 - share).log() + logsigmoid(near), share.log() + logsigmoid(far))
    found = below - torch.log(-torch.expm1(below))
    return torch.where(is_above, -found, found)


def truncated_gumbels(logits: Tensor, chosen: Tensor, shares: Tensor, dim: int = -1) -> Tensor:
    """Gumbel noise under which one level has the largest sum of logit and noise.

    The largest sum is a Gumbel variable whatever level has it; given that, each other sum is
    one truncated at it, independent of the rest.

    Args:
        logits: Shape ``(..., k, ...)``; their ``logsumexp`` is 0.
        chosen: Number of the level that was observed, shape ``(..., 1, ...)``.
        shares: Strictly between 0 and 1: quantile of the largest sum at the level that was
            observed, of the truncated ones at the others; shape ``(..., k, ...)``.
        dim: The one with levels; the three have as many dimensions.

    Returns:
        Noise without the logits, the shape that the three have together.

    References:
        Maddison & Tarlow 2017, Gumbel machinery, for the way from the top down.
        Oberst & Sontag 2019, Counterfactual off-policy evaluation with Gumbel-max structural
        causal models, arXiv 1905.05824.

    Example:
        >>> logits = torch.tensor([0.9, 0.1]).double().log()
        >>> half = torch.tensor([0.5, 0.5]).double()
        >>> (logits + truncated_gumbels(logits, torch.tensor([1]), half)).argmax().item()
        1
    """
    surprise = -shares.log()
    least, own = (torch.take_along_dim(t, chosen, dim) for t in (surprise, logits))
    # The largest sum is the negative logarithm of the surprise at the level that was observed.
    others = torch.addcmul(surprise, logits.exp(), least).log().neg()
    top = -least.log() - own
    return others.scatter_(dim, chosen.expand_as(top), top)
