"""One step of SPARS-AMS on one machine against the steps that it replaces."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from flower_compress.optim import SparsAMS

from .markdown import Column, columns
from .measure import Row, medians
from .suite import Settings, Suite

WIDTHS = (784, 512, 512, 10)
FRACTIONS = (0.01, 0.001)


def _measure(settings: Settings, fraction: float) -> list[Row]:
    """One row for each way, on the network 784-512-512-10.

    All in turns, in one process: SparsAMS, and torch's Adam with amsgrad (the faster of
    its two implementations) followed by torch.topk of the whole gradient.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(2026)
    models = [_network() for _ in range(3)]
    gradients = [
        torch.randn(p.shape, generator=generator) for p in models[0].parameters()
    ]
    for model in models:
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.grad = g
    magnitudes = torch.cat([g.reshape(-1) for g in gradients]).abs()
    dim = magnitudes.numel()
    ours = SparsAMS(models[0].parameters(), fraction=fraction)
    loop, foreach = (
        torch.optim.Adam(model.parameters(), amsgrad=True, foreach=foreach)
        for model, foreach in zip(models[1:], (False, True), strict=True)
    )
    seconds = medians(
        {
            "SparsAMS": ours.step,
            "Adam, loop": loop.step,
            "Adam, foreach": foreach.step,
            "topk": partial(torch.topk, magnitudes, math.ceil(fraction * dim)),
        },
        settings.repeats,
    )
    adam = min(seconds["Adam, loop"], seconds["Adam, foreach"])
    ways = {
        "`flower_compress.optim.SparsAMS`": seconds["SparsAMS"],
        "`torch.optim.Adam(amsgrad=True)` and `torch.topk`": adam + seconds["topk"],
        "`torch.optim.Adam(amsgrad=True)` alone": adam,
    }
    return [
        {
            "way": way,
            "dim": dim,
            "fraction": fraction,
            "ms": 1e3 * time,
            "times_ours": time / seconds["SparsAMS"],
        }
        for way, time in ways.items()
    ]


def _network() -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
    return nn.Sequential(*layers)


SUITE = Suite(
    "optimizer",
    lambda _: [(fraction,) for fraction in FRACTIONS],
    _measure,
    columns(
        1,
        Column("one step", "way"),
        Column("d", "dim", ","),
        Column("k/d", lambda row: f"{100 * row['fraction']:g} %"),
        Column("ms", "ms", ".1f"),
        Column("times ours", "times_ours", ".2f"),
    ),
)
