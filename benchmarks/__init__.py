"""Speed and code length, measured side by side in one process: ``make bench``."""
