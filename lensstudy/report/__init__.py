"""Executed notebooks, HTML pages made of them, and the lists of pages."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "execution": ["execute", "NotebookFailed"],
        "pages": ["render"],
        "index": ["write_index", "compare"],
        "listing": ["write_study_list"],
    },
)
