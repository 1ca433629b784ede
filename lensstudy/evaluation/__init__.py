"""Judging answers: scores with intervals, robustness, images out of distribution, where a network looks."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "scores": ["auc", "interval"],
        "attribution": ["group_averaged"],
        "ood": ["OODDetector", "image_statistics"],
    },
)
