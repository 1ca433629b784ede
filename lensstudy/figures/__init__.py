"""Every figure of the study, in one style: units, captions and alternative texts belong to the function that draws.

`plots` holds every figure, `show` puts one into a notebook, `table` a table, and `widgets` what a reader can move.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submodules={"plots", "widgets"}, submod_attrs={"style": ["captioned", "show"], "tables": ["table"]}
)
