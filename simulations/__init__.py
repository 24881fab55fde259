"""Learning problems, runs and reports of flower-compress, from a checkout."""
