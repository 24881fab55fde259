"""Learning problems divided among clients, with the facts that a comparison needs.

A task is the problem  min_w F(w) = (1/N) sum_i F_i(w),  every client with the same
weight however many examples it holds. It gives each client its F_i, and whoever
watches the run F, its smoothness and, where known, its minimum.

====================== ============================================ ================
task                   F_i                                          evaluated on
====================== ============================================ ================
``parity``             logistic regression with an L2 term, even    all examples
                       against odd digits; strongly convex
``breast-cancer``,     the same on tables that scikit-learn has     the same
``wine``
``diabetes``           least squares with an L2 term                the same
``toy``                the same on Gaussian examples                the same
``a9a``, ``phishing``, logistic regression, for superconduct least  the same
``quantum``, ``w8a``,  squares: from a file in a folder, or made-up
``superconduct``       examples that stand in for it
``digits``             ten-class cross entropy of a torch model,    accuracy on the
                       one of :data:`MODELS`; ``softmax`` is        held-out examples
                       convex
``digits28``           the same, images enlarged to MNIST's 28 x 28 the same
``made-up32``          the same, made-up images of CIFAR-10's size  the same
``mnist``,             the same, from files in a folder             the same
``fashion-mnist``,
``emnist``,
``cifar10``
====================== ============================================ ================

``base`` says what a task is, ``registry`` which there are. ``linear`` and ``images``
are the two families, over ``dataset``, ``partition``, and what loads the examples:
``digits``, ``made_up``, ``shipped``, ``tables``, ``files``.
"""

from .base import Evaluation, Task
from .linear import OptimumError
from .logistic import LogisticObjective
from .models import MODELS
from .partition import SCHEMES
from .registry import FILED, OF_TORCH, STANDING_IN, TASKS, make_task

__all__ = [
    "FILED",
    "MODELS",
    "OF_TORCH",
    "SCHEMES",
    "STANDING_IN",
    "TASKS",
    "Evaluation",
    "LogisticObjective",
    "OptimumError",
    "Task",
    "make_task",
]
