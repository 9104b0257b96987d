"""A Slurm of its own: a controller, which is the login node too, and two machines made of network namespaces."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults.rig import PROJECT, SCRIPT, wait_for

BRIDGE = "cdsl"
SUBNET = "10.79.0"
HERE = f"{SUBNET}.254"
NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "ip", "nsenter", "unshare")
PARAMETERS = "preempt_send_user_signal"
"""SlurmctldParameters: who is preempted gets the signal that it asked for."""
LONGEST_S = 1500
"""Longest wait for a job: both machines share two cores."""
CONFIGURATION = """
ClusterName=crowddist
SlurmctldHost={host}({here})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort=16917
SlurmdPort=16918
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{line}
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
JobRequeue=1
SchedulerType=sched/backfill
SlurmctldTimeout=30
SlurmdTimeout=300
InactiveLimit=0
KillWait=30
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n1 NodeAddr={subnet}.1 CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeAddr={subnet}.2 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Site:
    """The controller's daemons, and the machines, whose user has one home folder everywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True)
        kept = {name: value for name,
                value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_", "CROWDDIST_", "SLURM_"))}
        # What a user has set; PATH has the environment, which lies in the project's folder elsewhere.
        self.environment = kept | {
            "HOME": str(self.home), "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT), "CROWDDIST_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.machines: dict[str, subprocess.Popen[bytes]] = {}

    def boot(self) -> None:
        """Starts it all, and waits until the machines are up."""
        folder = self.folder
        subprocess.run([SCRIPT, "network", BRIDGE, f"{HERE}/24"], check=True)
        self._configure(PARAMETERS)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        self._start("munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
                    f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
                    f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed")
        self._start("slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            self.machines[name] = self._start(str(SCRIPT), "boot", BRIDGE, name, f"{SUBNET}.{name[1:]}/24",
                                              str(folder / name), "slurmd", "-D", "-N", name,
                                              "-f", str(folder / "slurm.conf"))
        wait_for(lambda: self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%T").split() == ["idle"] * len(NODES), 60,
                 "both machines are idle", said=self.log)

    def _configure(self, parameters: str) -> None:
        line = parameters and f"SlurmctldParameters={parameters}"
        text = CONFIGURATION.format(host=socket.gethostname(), here=HERE, folder=self.folder, subnet=SUBNET, line=line)
        (self.folder / "slurm.conf").write_text(text)

    @contextlib.contextmanager
    def configured(self, parameters: str) -> Iterator[None]:
        """With other SlurmctldParameters within the block."""
        self._configure(parameters)
        self.run("scontrol", "reconfigure")
        try:
            yield
        finally:
            self._configure(PARAMETERS)
            self.run("scontrol", "reconfigure")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "daemons.log").open("ab") as log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log,
                                                 start_new_session=True))
        return self.daemons[-1]

    def log(self) -> str:
        """What the controller has noted."""
        return "\n".join(path.read_text() for path in self.folder.glob("slurm*.log"))

    def run(self, *command: str, check: bool = True) -> str:
        """A command on the login node, in the project's folder. Returns: what it prints."""
        done = subprocess.run(command, env=self.environment, cwd=PROJECT, capture_output=True, text=True,
                              timeout=LONGEST_S, check=False)
        assert (done.returncode == 0
                or not check), f"{command} gave {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def on(self, name: str, *command: str) -> list[str]:
        """The command line that runs a command on a machine in the project's folder, not by Slurm."""
        first = psutil.Process(self.machines[name].pid).children()[0].pid
        return ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", f"--wd={PROJECT}", "--", *command]

    def submit(self, *words: str, **environment: str) -> Batch:
        """Submits a batch job."""
        number = subprocess.run(["sbatch", "--parsable", f"--output={self.folder}/%j.log", *words],
                                env=self.environment | environment, cwd=PROJECT,
                                capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        return Batch(self, number)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.run("scancel", "--user=root", "--signal=KILL", check=False)
            self.run("scancel", "--user=root", check=False)
            wait_for(lambda: not self.run("squeue", "-h"), 60, "all jobs are gone")
        for daemon in reversed(self.daemons):
            with contextlib.suppress(psutil.Error, OSError):
                for child in psutil.Process(daemon.pid).children():  # a machine's process 1: unshare forked it
                    os.kill(child.pid, signal.SIGKILL)
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        subprocess.run([SCRIPT, "gone", BRIDGE, *NODES], check=False)


class Batch:
    """A batch job."""

    def __init__(self, site: Site, number: str) -> None:
        self.site, self.number = site, number

    def said(self) -> str:
        """What it has written."""
        path = self.site.folder / f"{self.number}.log"
        return path.read_text() if path.exists() else ""

    def show(self, field: str) -> str:
        """A field of `scontrol show job`."""
        words = self.site.run("scontrol", "show", "job", self.number).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{field}="))

    def restarts(self) -> int:
        return int(self.show("Restarts"))

    def is_over(self) -> bool:
        return self.show("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def wait(self) -> tuple[str, str]:
        """Waits for its end. Returns: state and exit code."""
        wait_for(self.is_over, LONGEST_S, f"job {self.number} ends", said=self.said)
        time.sleep(1)
        return self.show("JobState"), self.show("ExitCode")


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """The site, as a context."""
    made = Site(folder)
    try:
        made.boot()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder / "cache", ignore_errors=True)
