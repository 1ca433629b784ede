"""What symmetry costs: the D4 network in training and inference, beside its plain baseline and e2cnn's own code.

Each pair runs in turns in one process on one thread, so that other load on the machine meets both alike, and what
counts is the processor time they use; the ratio is the median over the pairs, its spread the distance between their
quartiles. Run as a script, it also prints how invariant every network is at every size after an epoch of training, and
the errors on rotated digits.
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lensstudy.networks.architectures import Network
from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.folding import folded
from lensstudy.networks.groups import e2cnn, gspace, invariance_error, rotate
from lensstudy.networks.layers import AntialiasedPool, SteerableConv, SymmetricPool
from lensstudy.networks.registry import build_network, network_names, plain_baseline, recalibrate_batch_norm

NAME, IMAGE_SIZE, CLASSES = "d4-steerable-cnn", 64, 3
enn = e2cnn.nn


class StraightforwardNetwork(nn.Module):
    """A regular steerable CNN of the zoo in e2cnn's own modules, with the same weights, as its examples write it.

    It pools as `network` does, or, if `antialiased`, as the examples do.
    """

    def __init__(self, network: Network, antialiased: bool = False):
        super().__init__()
        space, order = gspace(network.group), gspace(network.group).regular_repr.size
        fields = enn.FieldType(space, [space.trivial_repr] * network.in_channels)
        self.inputs, layers = fields, []
        for layer in network.body:
            if isinstance(layer, SteerableConv):
                outputs = enn.FieldType(space, [space.regular_repr] * (layer.out_channels // order))
                conv = enn.R2Conv(fields, outputs, layer.kernel_size, padding=layer.kernel_size // 2, bias=False)
                conv.weights.data.copy_(layer.weight.data)
                layers.append(conv)
                fields = outputs
            elif isinstance(layer, FieldBatchNorm):
                layers.append(enn.InnerBatchNorm(fields))
                inner = getattr(layers[-1], f"batch_norm_[{order}]")
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(inner, name).data.copy_(getattr(layer, name).data)
            elif isinstance(layer, AntialiasedPool) or (antialiased and isinstance(layer, SymmetricPool)):
                layers.append(enn.PointwiseAvgPoolAntialiased(fields, 0.66, 2))
            elif isinstance(layer, SymmetricPool):
                layers.append(enn.PointwiseAvgPool(fields, layer.kernel_size, 2, layer.padding))
            else:
                layers.append(enn.ReLU(fields))
        self.body = enn.SequentialModule(*layers, enn.GroupPooling(fields))
        self.classifier = copy.deepcopy(network.classifier)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(enn.GeometricTensor(images, self.inputs)).tensor.mean((2, 3)))


def train_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of training, as a function of nothing."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()

    def step():
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def inference(network: nn.Module, images: Tensor) -> Callable[[], None]:
    network.eval()

    @torch.inference_mode()
    def step():
        network(images)

    return step


def convolutions_alone(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """The convolutions of an exported network and nothing else, each on the feature map that it meets: no network of
    this architecture can take less time without fewer multiplications."""
    met = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, _output: met.append((layer, inputs[0].clone())))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()

    @torch.inference_mode()
    def step():
        for layer, features in met:
            layer(features)

    return step


def in_turns(name: str, baseline: str, step: Callable, other: Callable, images: int, repeats: int) -> dict:
    """The record of one benchmark: `step` against `other`, run alternately `repeats` times after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.process_time()
        step()
        middle = time.process_time()
        other()
        times.append((middle - start, time.process_time() - middle))
    times = times[2:]
    ratios = [theirs / ours for ours, theirs in times]
    lower, _, upper = statistics.quantiles(ratios, n=4)
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "name": name,
        "value": images / ours,
        "unit": "images/s",
        "baseline": baseline,
        "baseline_value": images / theirs,
        "ratio": statistics.median(ratios),
        "spread": upper - lower,
    }


def run(batch: int = 64, repeats: int = 15) -> list[dict]:
    """The records, one thread, `batch` images of 64 pixels. The last says how much of an exported network's time its
    convolutions take, which bounds what could still be won."""
    torch.set_num_threads(1)
    images, labels = torch.randn(batch, 1, IMAGE_SIZE, IMAGE_SIZE), torch.arange(batch) % CLASSES
    build = {"image_size": IMAGE_SIZE, "n_classes": CLASSES}
    network, plain = build_network(NAME, **build), build_network(**plain_baseline(NAME), **build)
    antialiased, averaged = (StraightforwardNetwork(network, antialiased) for antialiased in (True, False))
    exported, exported_plain = folded(network), folded(plain)
    own_step, own_inference = train_step(network, images, labels), inference(exported, images)
    blurring = build_network("d4-antialiased-cnn", **build)
    antialiased_inference = inference(folded(blurring), images), inference(StraightforwardNetwork(blurring), images)
    pairs = [
        ("train-step-d4", "plain baseline", own_step, train_step(plain, images, labels)),
        ("train-step-d4-straightforward", "plain e2cnn code", own_step, train_step(antialiased, images, labels)),
        ("infer-d4-exported", "e2cnn in evaluation mode", own_inference, inference(averaged, images)),
        ("infer-d4-exported-plain", "plain baseline, exported", own_inference, inference(exported_plain, images)),
        ("infer-d4-antialiased", "e2cnn in evaluation mode", *antialiased_inference),
        ("infer-d4-exported-floor", "its convolutions alone", own_inference, convolutions_alone(exported, images)),
    ]
    return [in_turns(*pair, batch, repeats) for pair in pairs]


def invariance_table(names=(), sizes=(64, 97, 100, 101, 129, 150), steps: int = 20) -> dict[str, list[float]]:
    """The largest invariance error under rotations by 90 degrees (and reflections, where the group has them) of each
    equivariant network (or those of `names`) at each size: untrained, and after `steps` steps of training with batches
    of 16, an epoch of 320 images."""
    table = {}
    for name in names or network_names():
        if name.startswith(("plain", "resnet")):
            continue
        table |= {f"{name}, untrained": [], f"{name}, trained": []}
        for size in sizes:
            network = build_network(name, size, CLASSES, width=0.5)
            images, labels = blobs(16, size), torch.arange(16) % CLASSES
            reflections = (False, True) if network.group.startswith(("D", "O")) else (False,)
            step = train_step(recalibrate_batch_norm(network, images), images, labels)
            for state in ("untrained", "trained"):
                if state == "trained":
                    for _ in range(steps):
                        step()
                errors = [invariance_error(network, images, 90, reflect) for reflect in reflections]
                table[f"{name}, {state}"].append(max(errors))
    return table


def blobs(count: int, size: int, seed: int = 0) -> Tensor:
    """Smooth images that differ: a few bright spots on a little noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    images = 0.02 * torch.randn(count, 1, size, size, generator=generator)
    for _ in range(3):
        centre = torch.rand(count, 2, 1, 1, generator=generator) - 0.5
        width = 0.05 + 0.1 * torch.rand(count, 1, 1, generator=generator)
        images[:, 0] += torch.exp(-((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) / width**2)
    return images


def digits(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits at 24 pixels, each rotated by any angle: `count` of them, drawn with `seed`, and labels."""
    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data.target), generator=generator)[:count]
    images = torch.tensor(data.images[rows], dtype=torch.float32)[:, None] / 16
    images = F.pad(F.interpolate(images, scale_factor=2, mode="bicubic"), (4, 4, 4, 4))
    return rotate(images, 360 * torch.rand(count, generator=generator), padding="zeros"), torch.tensor(
        data.target[rows]
    )


def digits_error(name: str, seed: int, epochs: int = 15, width: float = 0.5) -> float:
    """Error of the network `name` on 1,197 rotated digits after `epochs` over 600 others."""
    images, labels = digits(seed, 1797)
    network = build_network(name, 24, 10, width=width, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=epochs * 10)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(600, generator=generator).split(60):
            optimizer.zero_grad()
            F.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return (network.eval()(images[600:]).argmax(1) != labels[600:]).float().mean().item()


if __name__ == "__main__":
    for record in run():
        print(
            "{name}: {value:.0f} {unit}, {baseline} {baseline_value:.0f}, ratio {ratio:.2f} +/- {spread:.2f}".format(
                **record
            )
        )
    for name, errors in invariance_table().items():
        print(name, *(f"{error:.1e}" for error in errors))
    for name in ("plain-cnn", "c4-steerable-cnn", "c8-steerable-cnn"):
        print(name, *(f"{digits_error(name, seed):.1%}" for seed in range(3)))
