"""The network interface of a training group: the one by which Ray's machines know each other."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from typing import Any

from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


class GroupConfig(TorchConfig):
    """Ray's configuration, correct also if a machine's own name resolves to a loopback address or to nothing: Gloo
    gives that address to its peers, and they would look for the worker on their own machines.
    """

    @property
    def backend_cls(self) -> Any:
        """Ray's backend, which first sets the interface."""
        base: Any = super().backend_cls

        class Backend(base):
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(use_ray_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def use_ray_interface() -> None:
    """Sets Gloo's interface to that of Ray's address, if Gloo needs it and the user has set none."""
    import ray

    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = "127.0.0.1"
    name = needed_interface(ray.util.get_node_ip_address(), own)
    if name:
        os.environ.setdefault(INTERFACE, name)


def needed_interface(ray_address: str, name_address: str) -> str:
    """The interface to set for Gloo; "" if Gloo finds one that other machines reach, or if there is none. Other
    machines know this one by `ray_address`; its own name resolves to `name_address`.
    """
    needed = ip_address(name_address).is_loopback and not ip_address(ray_address).is_loopback
    return interface_of(ray_address) if needed else ""


def interface_of(address: str) -> str:
    """The network interface with an IP address; "" if none has it."""
    import psutil

    return next((name for name, addresses in psutil.net_if_addrs().items()
                 if any(each.address == address for each in addresses)), "")
