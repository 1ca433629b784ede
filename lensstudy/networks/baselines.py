"""What a network with symmetry is compared with, by name: the same filters without symmetry.

`names.BASELINES` has the endings of the matched plain ones, and `registry.plain_baseline` makes them.
"""

__all__ = ["same_filters"]


def same_filters(network: str) -> str:
    """The name of the network that has the steerable filters of `network` and no symmetry. With a group of one element,
    mean and maximum over the group are the same.

    Example:
        >>> same_filters("d4-mean-cnn")
        'c1-steerable-cnn'
    """
    kind = network.partition("-")[2]
    return f"c1-{'steerable-cnn' if kind == 'mean-cnn' else kind}"
