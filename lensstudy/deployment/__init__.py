"""A trained network on its own: exported, with a card, predicting for one's own images."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "exporting": ["export"],
        "predictor": ["Predictor", "predict"],
        "card": ["Card", "CardError"],
        "estimators": ["LensClassifier"],
    },
)
