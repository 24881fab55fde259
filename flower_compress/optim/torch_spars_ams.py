"""SPARS-AMS on one machine: AMSGrad on the largest entries, with error feedback.

Source: "Sparsified distributed adaptive learning with error feedback" (draft),
algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

from ..compressors.arrays import array_ops
from ..compressors.checks import require_finite
from ..errors import MissingExtraError

try:
    import torch
    from torch import Tensor
    from torch.optim.optimizer import ParamsT
except ModuleNotFoundError as error:
    # A torch that is there but lacks a dependency of its own is another mistake.
    if error.name != "torch":
        raise
    raise MissingExtraError("torch", "torch") from error

__all__ = ["SparsAMS"]

_NAMES = ("error", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class SparsAMS(torch.optim.Optimizer):
    """Algorithm 2, an optimizer as those of ``torch.optim``.

        g~ = TopK(g_t + e_t, k),   e_{t+1} = e_t + g_t - g~
        m_t = beta1 m_{t-1} + (1 - beta1) g~
        v_t = beta2 v_{t-1} + (1 - beta2) g~^2
        vhat_t = max(v_t, vhat_{t-1})
        theta_t = theta_{t-1} - eta m_t / sqrt(vhat_t + eps)

    There is no bias correction, and eps is inside the root. As in the paper, theta is
    the whole model: TopK takes the largest entries of all parameters of a group
    together, k = ceil(fraction * d), of equal magnitudes the first. A layer with small
    gradients may wait for many steps until its error is large enough; in a group of its
    own it moves its share of the entries in every step.

    A parameter without a gradient is left out of the step, and of d. All parameters of
    a group have one device and one dtype. Error and moments of half-precision ones are
    float32: in float16 eps would be 0, and so would the squares of small gradients.

    Parameters
    ----------
    params : iterable
        Parameters, or dictionaries of groups.
    lr : float (default: 0.001)
        eta; a scheduler may change it.
    betas : tuple[float, float] (default: (0.9, 0.999))
        beta1 and beta2, in [0, 1).
    eps : float (default: 1e-8)
        Positive: an entry that was never among the largest has m = vhat = 0.
    fraction : float (default: 0.01)
        k / d, in (0, 1]. With 1 it is AMSGrad.
    maximize : bool (default: False)
        Ascend instead.

    Raises
    ------
    ValueError
        If a parameter of the optimizer is out of its range, or the parameters of a
        group differ in device or dtype.

    Examples
    --------
    >>> model = torch.nn.Linear(100, 10)
    >>> optimizer = SparsAMS(model.parameters(), lr=0.01, fraction=0.05)
    >>> model(torch.ones(1, 100)).sum().backward()
    >>> optimizer.step()
    >>> int(torch.count_nonzero(optimizer.state[model.weight]["exp_avg"]))
    51
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        fraction: float = 0.01,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "fraction": fraction,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        self._flat: dict[int, _Flat] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, as unpickling does."""
        super().__setstate__(state)
        self._flat = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; see :class:`torch.optim.Optimizer`."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; see :class:`torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        # torch has made the state as narrow as its parameters.
        saved = [n for group in state_dict["param_groups"] for n in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(saved, params, strict=True):
            if (dtype := _state_dtype(p)) != p.dtype:
                for name, value in state_dict["state"].get(number, {}).items():
                    self.state[p][name] = value.to(p.device, dtype, copy=True)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step.

        Parameters
        ----------
        closure : Callable[[], float], optional
            Evaluates the model again and returns the loss, which is returned.

        Raises
        ------
        RuntimeError
            If a gradient is sparse.
        NonFiniteError
            If the gradients of a group hold NaN or infinity, which would stay in its
            error for ever. Nothing of that group has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            trained = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in trained):
                raise RuntimeError("SparsAMS does not support sparse gradients")
            if trained:
                self._step(index, group, trained)
        return loss

    def _step(self, index: int, group: dict[str, Any], trained: list[Tensor]) -> None:
        gradient = torch.cat(
            [p.grad.reshape(-1) for p in trained if p.grad is not None]
        )
        gradient = gradient.to(_state_dtype(gradient))
        ops = array_ops(gradient)
        require_finite(gradient, ops)
        flat = self._flat.get(index)
        if flat is None or not flat.holds(trained, self.state):
            flat = self._flat[index] = _Flat(trained, self.state)
        error, m, v, v_hat = flat.vectors
        (beta1, beta2), eps = group["betas"], group["eps"]

        error.add_(gradient, alpha=-1 if group["maximize"] else 1)
        kept = _largest(error, math.ceil(group["fraction"] * error.numel()))
        sent = error[kept]
        error[kept] = 0.0
        m.mul_(beta1)
        m[kept] += (1.0 - beta1) * sent
        v.mul_(beta2)
        v[kept] += (1.0 - beta2) * sent.square()
        torch.maximum(v_hat, v, out=v_hat)
        update = torch.div(m, (v_hat + eps).sqrt_(), out=gradient).mul_(-group["lr"])
        torch._foreach_add_(trained, flat.split(update))


class _Flat:
    """The state of some parameters, each vector in one piece.

    ``state[p]`` holds views of them, in the shape of p.
    """

    def __init__(self, trained: list[Tensor], state: dict[Tensor, Any]) -> None:
        self.trained = trained
        self.vectors = [
            torch.cat(
                [
                    state[p][name].reshape(-1)
                    if name in state[p]
                    else torch.zeros_like(p, dtype=_state_dtype(p)).reshape(-1)
                    for p in trained
                ]
            )
            for name in _NAMES
        ]
        for name, vector in zip(_NAMES, self.vectors, strict=True):
            for p, view in zip(trained, self.split(vector), strict=True):
                state[p][name] = view
        self._errors = [state[p]["error"] for p in trained]

    def holds(self, trained: list[Tensor], state: dict[Tensor, Any]) -> bool:
        """Whether these are the parameters, and `state` has not been replaced."""
        return len(trained) == len(self.trained) and all(
            p is own and state[p].get("error") is error
            for p, own, error in zip(trained, self.trained, self._errors, strict=True)
        )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return views of the parts of a vector, in the shapes of the parameters."""
        parts = torch.split(vector, [p.numel() for p in self.trained])
        return [part.view(p.shape) for part, p in zip(parts, self.trained, strict=True)]


def _state_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.element_size() < 4 else tensor.dtype


def _largest(vector: Tensor, k: int) -> Tensor:
    """Return the positions of the k largest magnitudes, ascending."""
    if k >= vector.numel():
        return torch.arange(vector.numel(), device=vector.device)
    positions: Tensor = array_ops(vector).top_k(vector.reshape(1, -1), k)
    return positions


def _check(group: dict[str, Any]) -> None:
    lr, betas, eps, fraction = (
        group[name] for name in ("lr", "betas", "eps", "fraction")
    )
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    if not eps > 0.0:
        raise ValueError(f"Invalid epsilon value: {eps}")
    for index in range(2):
        if not 0.0 <= betas[index] < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {betas[index]}")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"Invalid fraction value: {fraction}")
    if any(p.is_complex() for p in group["params"]):
        raise ValueError("SparsAMS does not support complex parameters")
    kinds = sorted({f"{p.device} {p.dtype}" for p in group["params"]})
    if len(kinds) > 1:
        raise ValueError(
            f"expected one device and one dtype in a group, got {', '.join(kinds)}: "
            "give each its own group"
        )
