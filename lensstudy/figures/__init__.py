"""Every figure of the study, in one style: units, captions and alternative texts belong to the function that draws."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submodules={"plots", "analysis", "observations"}, submod_attrs={"plots": ["show"]}
)
