"""The interface that a training group is told to meet on."""

from __future__ import annotations

import socket

import psutil
import pytest

from crowddist.distributed.network import interface_of, needed_interface

OTHERS = [
    (name, address.address)
    for name, addresses in psutil.net_if_addrs().items()
    for address in addresses
    if address.family == socket.AF_INET and not address.address.startswith("127.")
]


def test_the_interface_of_an_address() -> None:
    (loopback,) = {name for name,
                   addresses in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in addresses)}
    assert interface_of("127.0.0.1") == loopback
    assert interface_of("192.0.2.1") == "", "an address for documentation, which no machine has"


@pytest.mark.skipif(not OTHERS, reason="this machine has no network but loopback")
def test_gloo_is_told_where_the_machines_name_leads_to_itself_alone() -> None:
    name, address = OTHERS[0]
    assert needed_interface(address, "127.0.1.1") == name
    assert needed_interface(address, address) == "", "Gloo finds it by itself"
    assert needed_interface("127.0.0.1", "127.0.1.1") == "", "all workers are on this machine"
    assert needed_interface("192.0.2.1",
                            "127.0.1.1") == "", "no interface has Ray's address, as behind a translation of addresses"
