"""The network that the workers of a training group meet on: the one that Ray's machines know each other by."""

from __future__ import annotations

import os
import socket
from typing import Any

from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


class GroupConfig(TorchConfig):
    """Ray's, for machines whose own names lead to themselves as well.

    Gloo tells its peers the address that a machine's name stands for. On many machines that is a loopback address, or
    none: then workers of other machines look for it on their own.
    """

    @property
    def backend_cls(self) -> Any:
        """Ray's backend, which first says which interface to use."""
        base: Any = super().backend_cls

        class Backend(base):
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(use_ray_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def use_ray_interface() -> None:
    """Has Gloo use the interface of Ray's address where this machine's name leads nowhere else, and nobody has chosen
    one.
    """
    import ray

    name = needed_interface(ray.util.get_node_ip_address(), _address_of_name())
    if name and INTERFACE not in os.environ:
        os.environ[INTERFACE] = name


def needed_interface(ray_address: str, name_address: str) -> str:
    """The interface that Gloo has to be told; "" where it finds one that other machines reach, or where there is none.

    Args:
        ray_address: the IP address that other machines know this one by.
        name_address: the one that this machine's own name stands for.
    """
    return interface_of(ray_address) if _is_loopback(name_address) and not _is_loopback(ray_address) else ""


def interface_of(address: str) -> str:
    """The network interface that has an IP address; "" where none has."""
    import psutil

    return next((name for name,
                 addresses in psutil.net_if_addrs().items() if any(each.address == address for each in addresses)), "")


def _address_of_name() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
