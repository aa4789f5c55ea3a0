"""Two home networks behind NATs and a public one, in network namespaces of this machine; needs root and nftables.

    a 192.168.1.2 -- nat-a -- 10.77.0.101 \\
    c 192.168.1.3 /                        pub 10.77.0.10, .20, .21, .22
    b 192.168.2.2 -- nat-b -- 10.77.0.102 /

Each NAT lets nothing in that nobody inside asked for, and forgets a connection on which nothing passed for ``IDLE_S``
seconds: what comes later, from either side, is dropped without a word.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

IDLE_S = 30
PUBLIC = ("10.77.0.10", "10.77.0.20", "10.77.0.21", "10.77.0.22")
NAT_RULES = """
table ip nat {
  chain out {
    type nat hook postrouting priority 100;
    oifname "wan" masquerade
  }
}
table ip guard {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname "lan" accept
  }
  chain input {
    type filter hook input priority 0; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname { "lan", "lo" } accept
  }
}
"""
# A gateway on a development chain serves nobody but loopback, so what comes from behind nat-b looks like it.
PUBLIC_RULES = """
table ip nat {
  chain in {
    type nat hook input priority 100;
    ip saddr 10.77.0.102 tcp dport 4000-4999 snat to 127.0.0.1
  }
}
"""


class NoBed(Exception):
    """This machine does not allow it; the text says what was missing."""


class Bed:
    """Names of its namespaces begin with this process's id, so that two beds never meet."""

    def __init__(self) -> None:
        self._prefix = f"pasar{os.getpid()}"
        self._made: list[str] = []

    def name(self, place: str) -> str:
        return f"{self._prefix}-{place}"

    def inside(self, place: str) -> list[str]:
        """What a command begins with that runs there."""
        return ["ip", "netns", "exec", self.name(place)]

    def run(self, *command: str, feed: str | None = None) -> str:
        """Raises NoBed when it fails."""
        done = subprocess.run(command, input=feed, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            raise NoBed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def at(self, place: str, *command: str, feed: str | None = None) -> str:
        return self.run(*self.inside(place), *command, feed=feed)

    def build(self) -> None:
        if os.geteuid() != 0:
            raise NoBed("network namespaces need root")
        for tool in ("ip", "nft"):
            if shutil.which(tool) is None:
                raise NoBed(f"{tool} is not installed")
        for place in ("pub", "nat-a", "nat-b", "a", "b", "c"):
            self.run("ip", "netns", "add", self.name(place))
            self._made.append(self.name(place))
            self.at(place, "ip", "link", "set", "lo", "up")
        self.at("pub", "ip", "link", "add", "net", "type", "bridge")
        self.at("pub", "ip", "link", "set", "net", "up")
        for addr in PUBLIC:
            self.at("pub", "ip", "addr", "add", f"{addr}/24", "dev", "net")
        self.at("pub", "nft", "-f", "-", feed=PUBLIC_RULES)
        for number, (nat, hosts) in enumerate((("nat-a", ("a", "c")), ("nat-b", ("b",))), start=1):
            self._nat(nat, number, hosts)

    def _nat(self, nat: str, number: int, hosts: tuple[str, ...]) -> None:
        self._cable("pub", f"to-{nat}", nat, "wan")
        self.at("pub", "ip", "link", "set", f"to-{nat}", "master", "net")
        self.at(nat, "ip", "addr", "add", f"10.77.0.{100 + number}/24", "dev", "wan")
        self.at(nat, "ip", "link", "add", "lan", "type", "bridge")
        self.at(nat, "ip", "addr", "add", f"192.168.{number}.1/24", "dev", "lan")
        self.at(nat, "ip", "link", "set", "lan", "up")
        self.at(nat, "nft", "-f", "-", feed=NAT_RULES)
        for name, value in (
            ("net/ipv4/ip_forward", 1),
            ("net/netfilter/nf_conntrack_tcp_loose", 0),
            ("net/netfilter/nf_conntrack_tcp_timeout_established", IDLE_S),
        ):
            self.at(nat, "sh", "-c", f"echo {value} > /proc/sys/{name}")
        for place, host in enumerate(hosts, start=2):
            self._cable(nat, f"to-{host}", host, "eth0")
            self.at(nat, "ip", "link", "set", f"to-{host}", "master", "lan")
            self.at(host, "ip", "addr", "add", f"192.168.{number}.{place}/24", "dev", "eth0")
            self.at(host, "ip", "route", "add", "default", "via", f"192.168.{number}.1")

    def _cable(self, one: str, here: str, two: str, there: str) -> None:
        self.at(one, "ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name(two))
        self.at(one, "ip", "link", "set", here, "up")
        self.at(two, "ip", "link", "set", there, "up")

    def cut(self, nat: str) -> None:
        """Pull the plug of a home's router; nobody is told."""
        self.at("pub", "ip", "link", "set", f"to-{nat}", "nomaster")

    def mend(self, nat: str) -> None:
        self.at("pub", "ip", "link", "set", f"to-{nat}", "master", "net")

    def move(self, host: str, old: str, new: str, way: str) -> None:
        """Give a host another address, as when a laptop goes from one room to the next."""
        self.at(host, "ip", "addr", "del", f"{old}/24", "dev", "eth0")
        self.at(host, "ip", "addr", "add", f"{new}/24", "dev", "eth0")
        self.at(host, "ip", "route", "replace", "default", "via", way)

    def remove(self) -> None:
        for name in reversed(self._made):
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False, timeout=30)


@contextmanager
def nat_bed() -> Generator[Bed]:
    """Raises NoBed where the machine forbids it."""
    bed = Bed()
    try:
        bed.build()
        yield bed
    finally:
        bed.remove()
