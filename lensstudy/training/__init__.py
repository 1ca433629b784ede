"""Fitting networks by the same rules for every one of a comparison.

`fit` trains one network with one seed and leaves a run folder, `load_run` opens it, `search` looks for better settings
on validation data only. Nothing here opens the test part of a data set.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "adaptation": ["without_labels"],
        "fitting": ["fit", "range_test", "TrainingDiverged"],
        "run": ["load_run", "TrainedNetwork"],
        "tuning": ["search"],
    },
)
