"""Exact lengths of codes for symbols in torch tensors, counted on their device.

What is counted is what :meth:`~flower_compress.coding.Code.num_bits` counts for the
same symbols in NumPy arrays; the codes' own modules define it. The host waits for
numbers only: how many nonzeros there are, the count of each level, the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError, UnknownNameError
from . import CODE_NAMES
from .golomb import golomb_parameter
from .indices import check_alphabet
from .nested_golomb import NESTED
from .support_vector import LevelPlan, plan_levels
from .symbols import Symbols
from .universal import gamma_num_bits, omegas_num_bits

__all__ = ["DEVICE_CODE_NAMES", "num_bits"]

Total = Any
"""A number of bits: an int, or a tensor without dimensions that is not waited for."""


def num_bits(code: str, symbols: Symbols) -> int:
    """Return the exact length of a code in bits, without writing it.

    Parameters
    ----------
    code : str
        One of :data:`DEVICE_CODE_NAMES`.
    symbols : Symbols
        Of torch tensors, on any device.

    Raises
    ------
    UnknownNameError
        If there is no such code.
    ConfigurationError
        If only the host can tell the length, or the code cannot write the symbols.
    """
    if code not in CODE_NAMES:
        raise UnknownNameError("code", code, CODE_NAMES)
    if code not in _LENGTHS:
        raise ConfigurationError(
            f"the length of the code {code!r} is known only after coding on the host: "
            f"expected one of {', '.join(DEVICE_CODE_NAMES)} for symbols on a device; "
            "or bring them to the host with .numpy()"
        )
    return int(_LENGTHS[code](symbols))


def _fixed_width(symbols: Symbols) -> Total:
    if symbols.dim == 0:
        return 0
    smallest, largest = _extremes(symbols)
    full = (symbols.high - symbols.low).bit_length()
    width = (largest - smallest).bit_length()
    return full + full.bit_length() + symbols.dim * width


def _elias(symbols: Symbols) -> Total:
    positions, entries = _sparse(symbols)
    total = gamma_num_bits(len(positions) + 1) + _gammas(_runs(positions) + 1)
    if symbols.low < 0:
        total += len(positions)
    if max(-symbols.low, symbols.high) > 1:
        total += _gammas(entries.abs())
    return total


def _indices(symbols: Symbols) -> Total:
    check_alphabet(symbols)
    return _support(_sparse(symbols)[0], symbols.dim)


def _nested_golomb(symbols: Symbols) -> Total:
    positions, magnitudes = _sparse(symbols)
    total = _support(positions, symbols.dim)
    if symbols.low < 0:
        total += len(positions)
        magnitudes = magnitudes.abs()
    largest = max(-symbols.low, symbols.high)
    for level in range(2, min(largest, NESTED) + 1):
        if not len(magnitudes):
            return total
        above = (magnitudes >= level).nonzero().reshape(-1)
        total += _support(above, len(magnitudes))
        magnitudes = magnitudes[above]
    if largest > NESTED and len(magnitudes):
        excesses = magnitudes.to(torch.int64) - NESTED
        count, excess = len(excesses), int(excesses.sum())
        total += gamma_num_bits(excess + 1)
        if excess:
            total += _golomb(excesses, golomb_parameter(count, count + excess))
    return total


def _support_vector(symbols: Symbols) -> Total:
    entries: Any = symbols.entries
    low, size = symbols.low, symbols.high - symbols.low + 1
    counts = torch.bincount(entries.to(torch.int64) - low, minlength=size).cpu().numpy()
    counts[-low] += symbols.dim - len(entries)
    plan = plan_levels(counts, low, symbols.dim)
    total: Total = omegas_num_bits(counts + 1)
    if symbols.positions is not None:
        positions: Any = symbols.positions
        dense = torch.zeros(symbols.dim, dtype=entries.dtype, device=entries.device)
        dense[positions] = entries
        entries = dense
    for level, _, parameter in plan.common:
        mask = entries == level
        total += _golomb(_runs(mask.nonzero().reshape(-1)), parameter)
        entries = entries[~mask]
    return total + _rare_levels(plan, entries) if plan.levels.size else total


def _elias_levels(symbols: Symbols) -> Total:
    if symbols.dim == 0:
        return 0
    entries: Any = symbols.entries
    smallest, _ = _extremes(symbols)
    zeros = symbols.dim - len(entries)
    total = gamma_num_bits(smallest - symbols.low + 1)
    total += _gammas(entries.to(torch.int64) - (smallest - 1))
    return total + zeros * gamma_num_bits(1 - smallest) if zeros else total


_LENGTHS: dict[str, Callable[[Symbols], Total]] = {
    "fixed-width": _fixed_width,
    "elias": _elias,
    "indices": _indices,
    "nested-golomb": _nested_golomb,
    "support-vector": _support_vector,
    "elias-levels": _elias_levels,
}

DEVICE_CODE_NAMES: tuple[str, ...] = tuple(_LENGTHS)
"""The codes whose length is counted on the device."""


def _extremes(symbols: Symbols) -> tuple[int, int]:
    """Return the smallest and the largest of the symbols, of which there are some."""
    entries: Any = symbols.entries
    smallest = largest = 0
    if len(entries):
        smallest, largest = torch.stack(torch.aminmax(entries)).tolist()
    if len(entries) < symbols.dim:
        smallest, largest = min(smallest, 0), max(largest, 0)
    return smallest, largest


def _sparse(symbols: Symbols) -> tuple[Tensor, Tensor]:
    """Return the positions and the values of the nonzero entries."""
    entries: Any = symbols.entries
    positions: Any = symbols.positions
    if positions is not None:
        return positions, entries
    positions = entries.nonzero().reshape(-1)
    return positions, entries[positions]


def _runs(positions: Tensor) -> Tensor:
    """Return how many positions between one and the next are not in the set."""
    return torch.diff(positions, prepend=positions.new_full((1,), -1)) - 1


def _support(positions: Tensor, dim: int) -> Total:
    """Return the length of :func:`~.golomb.put_support`."""
    total = gamma_num_bits(len(positions) + 1)
    if 2 * len(positions) > dim:
        others = torch.ones(dim, dtype=torch.bool, device=positions.device)
        others[positions] = False
        positions = others.nonzero().reshape(-1)
    if not len(positions):
        return total
    return total + _golomb(_runs(positions), golomb_parameter(len(positions), dim))


def _golomb(runs: Tensor, parameter: int) -> Total:
    """Return the length of runs, Golomb-coded with M: sum of b + (r + M - c) // M."""
    b = (parameter - 1).bit_length()
    short = 2 * parameter - (1 << b)
    return len(runs) * b + ((runs + short) // parameter).sum()


def _gammas(numbers: Tensor) -> Total:
    """Return the length of an array in gamma, from the exponents of float64."""
    exponents = (numbers.to(torch.float64).view(torch.int64) >> 52) - 1023
    return 2 * exponents.sum() + len(numbers)


def _rare_levels(plan: LevelPlan, entries: Tensor) -> Total:
    """Return the length of the runs of all levels that have no array of their own."""

    def there(numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.int64, device=entries.device)

    at = (entries != plan.implicit).nonzero().reshape(-1)
    lowest = int(plan.levels.min())
    table = np.zeros(int(plan.levels.max()) - lowest + 1, dtype=np.int64)
    table[plan.levels - lowest] = np.arange(plan.levels.size)
    ranks = there(table)[entries[at].to(torch.int64) - lowest]
    outside = at - torch.arange(len(at), device=at.device)
    before = _split(ranks, outside, plan.levels.size)
    runs = before - torch.cat((before[:1], before[:-1]))
    firsts = there(plan.counts.cumsum() - plan.counts)
    runs[firsts] = before[firsts]
    widths = [(M - 1).bit_length() for M in plan.parameters.tolist()]
    shorts = 2 * plan.parameters - np.left_shift(1, np.array(widths))
    each = torch.stack((there(plan.parameters), there(shorts)))
    each = each.repeat_interleave(there(plan.counts), dim=1, output_size=len(at))
    return int(plan.counts @ np.array(widths)) + ((runs + each[1]) // each[0]).sum()


def _split(ranks: Tensor, outside: Tensor, num_ranks: int) -> Tensor:
    """Return what :func:`~.level_runs.split` returns."""
    before = outside
    for bit in range((num_ranks - 1).bit_length() - 1, -1, -1):
        halves = ranks >> bit
        ones, groups = halves & 1, halves >> 1
        sums = ones.cumsum(0) - ones
        sums -= sums[torch.searchsorted(groups, groups)]
        before = before + sums * (1 - ones)
        order = halves.sort(stable=True).indices
        ranks, before = ranks[order], before[order]
    return before
