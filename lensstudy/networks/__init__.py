"""Networks that differ in their symmetry and in nothing else.

`build_network(name, ...)` makes any network of the registry; layers are steerable convolutions over e2cnn's bases, and
the symmetry of a network is measured, not asserted (`invariance_error`).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "registry": ["build_network", "network_names", "register", "plain_baseline"],
        "architectures": ["Network"],
        "description": ["describe"],
        "groups": ["invariance_error", "SymmetryError"],
    },
)
