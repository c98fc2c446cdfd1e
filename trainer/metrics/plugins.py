"""Metrics that other installed packages bring."""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

from trainer.metrics.table import Metric

GROUP = "lora_studio.metrics"  # the entry points under which they are named


def plugged_in() -> dict[str, Metric]:
    """The metrics of other packages, by name. One that cannot be used is warned of: the others must not miss it."""
    found = {}
    for entry in entry_points(group=GROUP):
        try:
            metric = entry.load()
        except Exception as error:  # whatever somebody else's module raises
            warnings.warn(f"The metric {entry.name} ({entry.value}) cannot be loaded: {error}", stacklevel=2)
            continue
        if isinstance(metric, Metric):
            found[entry.name] = metric
        else:
            warnings.warn(f"The metric {entry.name} ({entry.value}) is no trainer.metrics.Metric.", stacklevel=2)
    return found
