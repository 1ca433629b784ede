"""What does symmetry buy? Equivariant networks for dark matter in gravitational lenses.

Light travels through the package in one direction: `simulate` or `archive` make a `dataset`, `networks` built on
`symmetry` learn from it in `training`, `evaluation` judges them, and `figures` and `report` show what was found.
"""

__version__ = "0.1.0"
