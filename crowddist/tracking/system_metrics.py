"""What the driver's machine does while a run is tracked: processor, memory, disk, network and GPUs, under MLflow's own
names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

PREFIX = "system/"
"""MLflow shows metrics that are called like this on a page of their own."""
INTERVAL_S = 10.0
"""As MLflow's own monitor; $MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is another."""
LAST_WAIT_S = 5.0
"""ours: how long the end of a run waits for the last point, which may hang at a server that is away."""


class SystemMetrics:
    """A thread that hands over a point of every system metric each INTERVAL_S, and a last one when it is stopped.

    MLflow's monitors measure, but its SystemMetricsMonitor does not run: that one gives up for good at the first call
    the store does not answer, logs past our tracker, which allows one call at a time, and lets the end of a run wait
    for as long as a server hangs. $MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns it off.

    Args:
        tell: takes the values by name; what it raises is told once, and harms nobody.
        say: takes a line for people.
    """

    def __init__(self, tell: Callable[[Mapping[str, float]], None], say: Callable[[str], None]) -> None:
        self.tell, self.say = tell, say
        self._stop = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begins, unless it is turned off."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("false", "0"):
            self._thread.start()

    def stop(self) -> None:
        """Tells the last point and ends; waits LAST_WAIT_S at most. Does nothing the second time, nor where it never
        began.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WAIT_S)

    def _run(self) -> None:
        try:
            interval_s, monitors = _interval_s(), _monitors()
        except Exception as error:
            self._complain(error)
            return
        ended = False
        while not ended:
            ended = self._stop.wait(interval_s)
            try:
                self.tell(_point(monitors))
            except Exception as error:  # nothing that a run needs, and the next one may come through
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            self.say(f"system metrics are missing: {type(error).__name__}: {' '.join(str(error).split())}")


def _interval_s() -> float:
    from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

    return MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S


def _point(monitors: Sequence[BaseMetricsMonitor]) -> dict[str, float]:
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {PREFIX + name: round(float(value), 3) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _monitors() -> list[BaseMetricsMonitor]:
    """MLflow's monitors of what this machine has, ready for a first point."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
            break
        # MLflow's way to say that there is no such GPU, or no library (nvidia-ml-py, pyrsmi) that could ask it
        except Exception:
            continue
    # The load is that since it was asked for last, by the same thread; the first answer is always 0.
    monitors[0].collect_metrics()
    monitors[0].clear_metrics()
    return monitors
