"""From a compressor's omega to memory rates and step sizes, each with its theorem.

An unbiased compressor satisfies E[C(x)] = x and
E||C(x) - x||^2 <= omega ||x||^2 (Philippenko & Dieuleveut 2021, assumption 1).
"MCM" below is that paper (NeurIPS 2021, "Preserved central model for faster
bidirectional compression in distributed settings").
"""

from __future__ import annotations

import math

from .errors import ConfigurationError

__all__ = [
    "max_step_size_diana",
    "max_step_size_dore",
    "max_step_size_mcm",
    "memory_rate",
    "memory_rate_theory",
]


def memory_rate(omega: float) -> float:
    """Return alpha = 1 / (2 (omega + 1)), the rate of every experiment.

    Source: MCM, appendix B (alpha_up = alpha_dwn).
    """
    _check_omega(omega)
    return 1.0 / (2.0 * (omega + 1.0))


def memory_rate_theory(omega: float) -> float:
    """Return alpha_dwn = 1 / (8 omega), the rate of MCM's theorems 1 and 2.

    1 where omega = 0, since nothing is lost there.
    """
    _check_omega(omega)
    return min(1.0, 1.0 / (8.0 * omega)) if omega > 0 else 1.0


def max_step_size_diana(smoothness: float, omega_up: float, num_clients: int) -> float:
    """Return gamma_max = 1 / (2 L (1 + omega_up / N)).

    Source: MCM, section 3 (gamma_max^up, the constraint of one-way compression).
    """
    _check_problem(smoothness, num_clients)
    _check_omega(omega_up)
    return 1.0 / (2.0 * smoothness * (1.0 + omega_up / num_clients))


def max_step_size_dore(
    smoothness: float, omega_up: float, omega_down: float, num_clients: int
) -> float:
    """Return gamma_max = 1 / (8 L (1 + omega_down) (1 + omega_up / N)).

    Holds for degraded two-way compression (Dore, Artemis). Source: MCM, section 3.
    """
    _check_problem(smoothness, num_clients)
    _check_omega(omega_up)
    _check_omega(omega_down)
    factor = (1.0 + omega_down) * (1.0 + omega_up / num_clients)
    return 1.0 / (8.0 * smoothness * factor)


def max_step_size_mcm(
    smoothness: float, omega_up: float, omega_down: float, num_clients: int
) -> float:
    """Return MCM's gamma_max, the least of three limits.

    1 / (2 L (1 + omega_up / N)), 1 / (8 L omega_down) and
    1 / (8 sqrt(2) L omega_down sqrt(8 omega_down + omega_up / N)).
    Source: MCM, section 3; theorem 4 extends it to Rand-MCM.
    """
    limit = max_step_size_diana(smoothness, omega_up, num_clients)
    _check_omega(omega_down)
    if omega_down == 0:
        return limit
    root = math.sqrt(8.0 * omega_down + omega_up / num_clients)
    return min(
        limit,
        1.0 / (8.0 * smoothness * omega_down),
        1.0 / (8.0 * math.sqrt(2.0) * smoothness * omega_down * root),
    )


def _check_omega(omega: float) -> None:
    if not (omega >= 0 and math.isfinite(omega)):
        raise ConfigurationError(
            f"omega must be a finite number >= 0, got {omega}: a biased compressor "
            "has none, give the rate or the step size yourself"
        )


def _check_problem(smoothness: float, num_clients: int) -> None:
    if not (smoothness > 0 and math.isfinite(smoothness)):
        raise ConfigurationError(
            f"the smoothness constant L must be positive, got {smoothness}"
        )
    if num_clients < 1:
        raise ConfigurationError(f"num_clients must be at least 1, got {num_clients}")
