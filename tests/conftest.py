"""What the tests do not leave to the machine: how fast it is, how its terminal looks.

Hypothesis draws anew at every run, but the same examples in CI.
"""

from __future__ import annotations

import os

from hypothesis import settings

# A deadline an example would measure the machine, not the code.
settings.register_profile("everywhere", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "everywhere")

# Tests read what commands print: without colours, which these ask for.
for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)
