"""Which launcher a run has, by the names of the options."""

from __future__ import annotations

from dataclasses import dataclass

from lewm_bench.core.errors import UserError, unknown
from lewm_bench.run.launch.launch import Launcher
from lewm_bench.run.launch.on_devices import devices_launcher
from lewm_bench.run.launch.on_ray import ray_launcher
from lewm_bench.run.launch.on_slurm import slurm_launcher


@dataclass(frozen=True)
class Elsewhere:
    """What the options say of where cells run."""

    name: str = ""
    ray_address: str = ""
    storage: str = ""
    devices: str = ""

    def launcher(self) -> Launcher | None:
        """What starts workers; None where the cells run in this process.

        Raises:
            UserError: there is no such launcher, or options of another one are given.
            NotRun: its package is not installed.
        """
        if self.name not in ("", *LAUNCHERS):
            raise unknown("launcher", self.name, LAUNCHERS)
        if self.ray_address and self.name != "ray":
            raise UserError("--ray-address belongs to --launcher ray; leave one out or name both")
        if self.storage and not self.name:
            raise UserError("--storage is for workers on other machines; name a --launcher")
        if self.devices and self.name:
            raise UserError("--devices are those of this machine, which --launcher does not ask; leave one out")
        if self.devices:
            return devices_launcher(self.devices)
        if self.name == "ray":
            return ray_launcher(self.ray_address)
        if self.name:
            return slurm_launcher()
        return None


LAUNCHERS = ("ray", "slurm")
