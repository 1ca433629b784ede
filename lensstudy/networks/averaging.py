"""Several trainings of one network as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lensstudy.networks.architectures import Classifier

__all__ = ["Mean"]


class Mean(Classifier):
    """The mean of the logits of several networks of one architecture; its features are those of all, side by side.

    Args:
        members: the networks, such as those of the seeds of a study.

    Example:
        >>> from lensstudy.networks.registry import build_network
        >>> mean = Mean([build_network("d4-mean-cnn", 33, 3, seed=seed) for seed in (1, 2)])
        >>> mean(torch.zeros(4, 1, 33, 33)).shape
        torch.Size([4, 3])
    """

    def __init__(self, members: Sequence[Classifier]):
        super().__init__()
        self.members = cast(list[Classifier], nn.ModuleList(members))
        first = members[0]
        self.name, self.group = first.name, first.group
        self.image_size, self.in_channels = first.image_size, first.in_channels

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(0)

    def features(self, images: Tensor) -> Tensor:
        return torch.cat([member.features(images) for member in self.members], dim=1)
