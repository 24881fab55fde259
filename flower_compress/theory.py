"""From a compressor's omega to memory rates and step sizes, each with its theorem.

An unbiased compressor satisfies E[C(x)] = x and
E||C(x) - x||^2 <= omega ||x||^2 (Philippenko & Dieuleveut 2021, assumption 1).
"MCM" below is that paper (NeurIPS 2021, "Preserved central model for faster
bidirectional compression in distributed settings").

A limit holds under its theorem's conditions, which its docstring names. The experiments
of the papers, and the defaults here, lie outside: memory rates of 1 / (2 (omega + 1))
where the theorems ask for 1 / (8 omega) or less, and a step size of 1 / L. They
converge as measured, not as proved.
"""

from __future__ import annotations

import math

from .arguments import check_number
from .errors import ConfigurationError

__all__ = [
    "choco_consensus_step",
    "gossip_contraction",
    "malcom_consensus_bound",
    "malcom_step_size",
    "max_step_size_diana",
    "max_step_size_dore",
    "max_step_size_ghost",
    "max_step_size_mcm",
    "max_step_size_mcm_heterogeneous",
    "max_step_size_mcm_nonconvex",
    "max_step_size_mcm_quadratic",
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

    For L-smooth, convex F_i that are all alike (F_i = F) and unbiased operators, L that
    of F; where clients differ, L of every F_i, and an uplink memory with
    alpha_up (omega_up + 1) <= 1. Source: MCM, section 3 (gamma_max^up, the constraint
    of one-way compression).
    """
    _check_problem(smoothness, num_clients)
    _check_omega(omega_up)
    return 1.0 / (2.0 * smoothness * (1.0 + omega_up / num_clients))


def max_step_size_dore(
    smoothness: float, omega_up: float, omega_down: float, num_clients: int
) -> float:
    """Return gamma_max = 1 / (8 L (1 + omega_down) (1 + omega_up / N)).

    Holds for degraded two-way compression (Dore, Artemis), as that paper cites it,
    under the conditions of :func:`max_step_size_diana`; for error feedback with the
    fraction 1 / (omega_down + 1). Source: MCM, section 3.
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
    For L-smooth, convex F_i that are all alike (F_i = F, alpha_up = 0), L that of F,
    and alpha_down <= 1 / (8 omega_down), which is not the default rate. Where clients
    differ, appendix G asks for more: :func:`max_step_size_mcm_heterogeneous`. Source:
    MCM, section 3; theorem 4 extends it to Rand-MCM.
    """
    factor = 8.0 * math.sqrt(2.0)
    return _mcm_limit(smoothness, omega_up, omega_down, num_clients, factor)


def _mcm_limit(
    smoothness: float,
    omega_up: float,
    omega_down: float,
    num_clients: int,
    factor: float,
) -> float:
    """Return the least of MCM's limits; theorems differ in the `factor` of the last."""
    limit = max_step_size_diana(smoothness, omega_up, num_clients)
    _check_omega(omega_down)
    if omega_down == 0:
        return limit
    root = math.sqrt(8.0 * omega_down + omega_up / num_clients)
    return min(
        limit,
        1.0 / (8.0 * smoothness * omega_down),
        1.0 / (factor * smoothness * omega_down * root),
    )


def max_step_size_mcm_heterogeneous(
    smoothness: float,
    omega_up: float,
    omega_down: float,
    num_clients: int,
    downlink_rate: float | None = None,
) -> float:
    """Return MCM's gamma_max where the clients' F_i differ.

    The least of :func:`max_step_size_mcm`, N / (16 L omega_up),
    1 / (8 L sqrt(2 omega_down / alpha_down omega_up / N)) and
    1 / (4 L sqrt(omega_down / alpha_down (1 / alpha_down + 4 omega_up / N))). For
    convex F_i that are L-smooth each, alpha_down <= 1 / (8 omega_down) and
    alpha_up (1 + omega_up) <= 1. Source: MCM, appendix G, theorems S15 and S16; the
    definition of gamma_max there leaves out the last limit, which the proof of theorem
    S15 needs.

    Parameters
    ----------
    smoothness : float
        L of every F_i.
    omega_up, omega_down : float
        Of the operators.
    num_clients : int
        N.
    downlink_rate : float, optional
        alpha_down; by default 1 / (8 omega_down), or 1 if that is more.
    """
    limit = max_step_size_mcm(smoothness, omega_up, omega_down, num_clients)
    if omega_up == 0:
        return limit
    rate = memory_rate_theory(omega_down) if downlink_rate is None else downlink_rate
    if not 0 < rate <= memory_rate_theory(omega_down):
        raise ConfigurationError(
            "downlink_rate must lie in (0, 1 / (8 omega_down)], where the theorem "
            f"holds, got {rate}"
        )
    share = omega_up / num_clients
    limit = min(limit, 1.0 / (16.0 * smoothness * share))
    if omega_down == 0:
        return limit
    memory = omega_down / rate
    return min(
        limit,
        1.0 / (8.0 * smoothness * math.sqrt(2.0 * memory * share)),
        1.0 / (4.0 * smoothness * math.sqrt(memory * (1.0 / rate + 4.0 * share))),
    )


def max_step_size_mcm_nonconvex(
    smoothness: float, omega_up: float, omega_down: float, num_clients: int
) -> float:
    """Return MCM's gamma_max where F is not convex.

    The least of 1 / (2 L (1 + omega_up / N)), 1 / (8 L omega_down) and
    1 / (8 L omega_down sqrt(8 omega_down + omega_up / N)). For F_i that are all alike,
    L-smooth, alpha_up = 0 and alpha_down = 1 / (8 omega_down); what it bounds is the
    mean of ||grad F(w_k)||^2. Source: MCM, theorem S11.
    """
    return _mcm_limit(smoothness, omega_up, omega_down, num_clients, 8.0)


def max_step_size_mcm_quadratic(
    smoothness: float,
    omega_up: float,
    omega_down: float,
    num_clients: int,
    num_draws: int = 1,
) -> float:
    """Return gamma_max of MCM and Rand-MCM for a quadratic F.

    With a = 1 / C + omega_up / N and alpha_down = 1 / (8 omega_down), or 1 if that is
    more, the least of 1 / (2 L (1 + omega_up / N)), 1 / (8 L omega_down sqrt(a)) and
    1 / (L cbrt(8 omega_down / alpha_down a (1 / alpha_down + omega_up / N))). For
    convex F_i that are all alike (alpha_up = 0). Source: MCM, theorems 5 and S12; the
    cube root reaches as far as the proof asks for.

    Parameters
    ----------
    smoothness : float
        L of F.
    omega_up, omega_down : float
        Of the operators.
    num_clients : int
        N.
    num_draws : int
        C: 1 for MCM, N for Rand-MCM, the number of groups for Rand-MCM-G.
    """
    limit = max_step_size_diana(smoothness, omega_up, num_clients)
    rate = memory_rate_theory(omega_down)
    if num_draws < 1:
        raise ConfigurationError(f"num_draws must be at least 1, got {num_draws}")
    if omega_down == 0:
        return limit
    share = omega_up / num_clients
    both = 1.0 / num_draws + share
    cube = 8.0 * omega_down / rate * both * (1.0 / rate + share)
    return min(
        limit,
        1.0 / (8.0 * smoothness * omega_down * math.sqrt(both)),
        1.0 / (smoothness * math.cbrt(cube)),
    )


def max_step_size_ghost(
    smoothness: float, omega_up: float, omega_down: float, num_clients: int
) -> float:
    """Return gamma_max of the Ghost algorithm, which no network can run.

    The lesser of 1 / (2 L (1 + omega_up / N)) and
    1 / (2 L sqrt(omega_down (1 + omega_up / N))). For convex F_i that are all alike
    (alpha_up = 0). Source: MCM, theorem S7.
    """
    limit = max_step_size_diana(smoothness, omega_up, num_clients)
    _check_omega(omega_down)
    if omega_down == 0:
        return limit
    root = math.sqrt(omega_down * (1.0 + omega_up / num_clients))
    return min(limit, 1.0 / (2.0 * smoothness * root))


def gossip_contraction(gap: float, tau: float) -> float:
    """Return MALCOM's omega = gap^2 / (82 tau), by which a round contracts consensus.

    sum_i ||x_i - mean x||^2 + ||x_i - y_i||^2 shrinks by the factor 1 - omega at least
    where nodes only average, with the consensus step of :func:`choco_consensus_step`
    and an operator of E||Q(p) - p||^2 <= (1 - 1/tau) ||p||^2. Source: MALCOM-PSGD,
    theorem 1, after Koloskova, Stich & Jaggi, "Decentralized stochastic optimization
    and gossip algorithms with compressed communication" (ICML 2019), theorem 2.

    Parameters
    ----------
    gap : float
        1 - |lambda_2| of the mixing matrix, in (0, 1].
    tau : float
        1 over the operator's contraction, at least 1.
    """
    _check_gossip(gap, tau)
    return gap * gap / (82.0 * tau)


def choco_consensus_step(gap: float, beta: float, tau: float) -> float:
    """Return gamma = g^2 c / (16 g + g^2 + 4 b^2 + 2 g b^2 - 8 g c), c = 1 / tau.

    With g the gap and b = ||I - W||_2. The theorem of :func:`gossip_contraction` asks
    for it; the experiments take 1. Source: Koloskova, Stich & Jaggi (ICML 2019),
    theorem 2.

    Parameters
    ----------
    gap : float
        1 - |lambda_2| of the mixing matrix, in (0, 1].
    beta : float
        Largest |1 - lambda_i|, in [0, 2].
    tau : float
        1 over the operator's contraction, at least 1.
    """
    _check_gossip(gap, tau)
    check_number("beta", beta, "lie in [0, 2]", lambda b: 0 <= b <= 2)
    c, square = 1.0 / tau, beta * beta
    below = 16.0 * gap + gap * gap + 4.0 * square + 2.0 * gap * square - 8.0 * gap * c
    return gap * gap * c / below


def malcom_consensus_bound(
    step_size: float, contraction: float, gradient_bound: float
) -> float:
    """Return 24 eta^2 A / omega^2, which bounds the mean of ||x_i - mean x||^2.

    For a constant eta. Source: MALCOM-PSGD, lemma 5.

    Parameters
    ----------
    step_size : float
        eta.
    contraction : float
        omega, as :func:`gossip_contraction` has it.
    gradient_bound : float
        A = 2 G^2 + 2 sigma^2 + mu^2 d: twice the bounds of a gradient's squared norm
        and of its variance, and that of the threshold's.
    """
    return 24.0 * step_size**2 * gradient_bound / contraction**2


def malcom_step_size(
    smoothness: float,
    contraction: float,
    distance: float,
    variance: float,
    gradient_bound: float,
    num_nodes: int,
    num_rounds: int,
) -> float:
    """Return the constant eta of MALCOM's theorem 1.

    The least of 1 / (4 K), sqrt(r / (b (T + 1))) and cbrt(r / (e (T + 1))), where
    r = 2 (F(x_0) - F*), b = K V / (n omega) and e = 12 K^2 A / omega^2. Source:
    MALCOM-PSGD, eq. (45) and what follows it.

    Parameters
    ----------
    smoothness : float
        K.
    contraction : float
        omega, as :func:`gossip_contraction` has it.
    distance : float
        F(x_0) - F*, positive.
    variance : float
        V = sigma^2 + 4 mu^2 d + G sqrt(A).
    gradient_bound : float
        A = 2 G^2 + 2 sigma^2 + mu^2 d.
    num_nodes : int
        n.
    num_rounds : int
        T.
    """
    _check_problem(smoothness, num_nodes)
    first = 2.0 * distance / (num_rounds + 1)
    b = smoothness * variance / (num_nodes * contraction)
    e = 12.0 * smoothness**2 * gradient_bound / contraction**2
    limit = 1.0 / (4.0 * smoothness)
    if b > 0:
        limit = min(limit, math.sqrt(first / b))
    return min(limit, math.cbrt(first / e)) if e > 0 else limit


def _check_gossip(gap: float, tau: float) -> None:
    check_number("gap", gap, "lie in (0, 1]", lambda g: 0 < g <= 1)
    check_number("tau", tau, "be at least 1", lambda t: 1 <= t < math.inf)


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
