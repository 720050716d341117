"""`hydra/launcher=ray`: the jobs of a sweep run in parallel on the machines of a Ray cluster.

They need this installation and the folder of the sweep, at the same paths. A job that fails is reported at the end, and
the others continue. If its machine is lost, it runs again on another one and resumes from its last checkpoint.

Hydra looks for plugins only in the package `hydra_plugins`, and imports all of them at every start.
"""

import os
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class RayLauncher(Launcher):
    """Runs each job of a sweep as a task of Ray; for its arguments see conf/hydra/launcher/ray.yaml."""

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float | None, max_retries: int):
        self.address, self.num_cpus, self.num_gpus, self.max_retries = address, num_cpus, num_gpus, max_retries

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called once, before `launch`."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and wait for all. After a signal, they save and end."""
        from diffusion.errors import ProcessLost, UserError, first_line, imported
        from diffusion.runs.launch import GRACE

        setup_globals()
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # which leaves out lines that another job has printed, too
        named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        if named or os.path.exists(os.path.expanduser("~/.ray/auth_token")):  # Ray itself does so without an address
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        ray = imported("ray", "hydra/launcher=ray", "ray")
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            host, colon, port = (self.address or "").rpartition(":")
            if colon and "//" not in host:  # by itself, Ray tries for minutes
                socket.create_connection((host, int(port)), timeout=20).close()
            ray.init(self.address, ignore_reinit_error=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"hydra.launcher.address={self.address}: {first_line(error)}; start a cluster with `ray start --head`, "
                "and on each other machine with `ray start --address=HOST:6379`; if it has a token, copy "
                "~/.ray/auth_token from its first machine"
            ) from error
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process at once
        gpus = self.num_gpus
        if gpus is None:
            devices = OmegaConf.select(self.config, "trainer.devices")
            gpus = (devices if isinstance(devices, int) and devices > 0 else 1) * ("GPU" in ray.cluster_resources())
        task = ray.remote(num_cpus=self.num_cpus, num_gpus=gpus, max_retries=self.max_retries)(run)
        here = (os.getcwd(), {**os.environ}, Singleton.get_state(), self.context, self.task)
        jobs = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, [*overrides])
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
            jobs.append(task.options(name=f"job {number}").remote(*here, config))
        returned = []
        try:
            for number, job in enumerate(jobs, initial_job_idx):
                try:
                    returned.append(job.future().result())  # in ray.get, a signal's exception would be lost
                except ray.exceptions.RayError as error:
                    lost = ProcessLost(f"job {number} of the sweep was lost by Ray: {first_line(error)}")
                    returned.append(JobReturn(status=JobStatus.FAILED, _return_value=lost))
        except BaseException:
            for job in jobs:
                ray.cancel(job)  # as Ctrl-C would
            wait([job.future() for job in jobs], GRACE)
            raise
        return returned


def run(
    folder: str, environment: dict[str, str], state: Any, context: HydraContext, task: TaskFunction, config: DictConfig
) -> JobReturn:
    """A job in a worker of Ray, in the folder of the command and with its variables that the machine has not set."""
    from diffusion.errors import Interrupted
    from diffusion.runs import naming

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which Ray blocks, and the job's process would inherit
    os.chdir(folder)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    naming.register()
    setup_globals()
    Singleton.set_state(state)
    try:
        return run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    except Interrupted as stop:
        if stop.number == signal.SIGINT:  # the sweep ends
            raise KeyboardInterrupt from stop
        os._exit(stop.status)  # such as of a machine that leaves the cluster: Ray runs the job again
