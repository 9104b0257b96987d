"""Load of the driver's machine during a run: processor, memory, disk, network and GPUs, under MLflow's own names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from crowddist.process.cli import one_line

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

PREFIX = "system/"
"""MLflow shows metrics with this prefix on a page of their own."""
INTERVAL_S = 10.0
"""The interval of MLflow's own monitor; $MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it."""
LAST_WAIT_S = 5.0
"""ours: how long the end of a run waits for the last point, which may hang in a call to the server."""


class SystemMetrics:
    """A thread that reports all system metrics every INTERVAL_S, and once more when it is stopped.

    It uses MLflow's monitors, but not its SystemMetricsMonitor. That one stops for good at the first unanswered call,
    bypasses our tracker, which allows one call at a time, and blocks the end of a run while a server hangs.
    $MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns the metrics off.

    Args:
        tell: takes the values by name; its first error is reported, and none stops the thread.
        say: prints a line.
    """

    def __init__(self, tell: Callable[[Mapping[str, float]], None], say: Callable[[str], None]) -> None:
        self.tell, self.say = tell, say
        self._stop = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Starts the thread, unless the metrics are turned off."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("false", "0"):
            self._thread.start()

    def stop(self) -> None:
        """Reports the last point and ends; waits LAST_WAIT_S at most. No-op if not running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LAST_WAIT_S)

    def _run(self) -> None:
        try:
            from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

            interval_s, monitors = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S, _monitors()
        except Exception as error:
            self._complain(error)
            return
        ended = False
        while not ended:
            ended = self._stop.wait(interval_s)
            try:
                self.tell(_point(monitors))
            except Exception as error:  # a run does not need the metrics, and the next call may succeed
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            self.say(f"system metrics are missing: {type(error).__name__}: {one_line(error)}")


def _point(monitors: Sequence[BaseMetricsMonitor]) -> dict[str, float]:
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {PREFIX + name: round(float(value), 3) for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _monitors() -> list[BaseMetricsMonitor]:
    """MLflow's monitors for this machine's devices, ready for a first point."""
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
        except Exception:  # MLflow raises it without such a GPU, or without its library (nvidia-ml-py, pyrsmi)
            continue
    # The CPU load is measured since this thread's last call; the first value is always 0.
    monitors[0].collect_metrics()
    monitors[0].clear_metrics()
    return monitors
