"""Images, catalogues and classes: from files or the simulator to a data set that is filtered and split.

`LensDataset` is the one currency between data, training and prediction. `read` takes every layout that DeepLense people
use, `inspect` says what lies at a path, `simulate` makes a set of a preset, `filter_images` gives each excluded image a
reason, `Preprocess` turns images into a network's input.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "dataset": ["LensDataset", "DataError"],
        "preprocess": ["Preprocess"],
        "inspection": ["inspect", "inspect_text"],
        "reading": ["read", "write_deeplense"],
        "simulation": ["simulate", "smooth_counterpart"],
        "filtering": ["filter_images", "Rules"],
        "baselines": ["baseline_auc"],
        "rotation": ["rotate"],
    },
)
