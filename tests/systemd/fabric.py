"""The metadata service in a network of its own behind the machine's interface, as on a VM, and a container on a bridge, which is
a network namespace behind another interface."""

from service import installed

NETWORK = """#!/bin/sh
set -e
ip netns add fabric
ip link add eth0 type veth peer name eth0 netns fabric
ip address add 10.0.0.4/24 dev eth0
ip link set eth0 up
in_fabric() { nsenter --net=/run/netns/fabric "$@"; }
in_fabric ip link set lo up
in_fabric ip address add 169.254.169.254/32 dev lo
in_fabric ip address add 10.0.0.1/24 dev eth0
in_fabric ip link set eth0 up
in_fabric ip route add 172.17.0.0/16 via 10.0.0.4
ip route add 169.254.169.254 via 10.0.0.1
ip link add docker0 type bridge
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
ip netns add box
ip link add box type veth peer name eth0 netns box
ip link set box master docker0 up
nsenter --net=/run/netns/box ip address add 172.17.0.2/16 dev eth0
nsenter --net=/run/netns/box ip link set eth0 up
nsenter --net=/run/netns/box ip route add default via 172.17.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
"""


def add_network(machine):
    machine.write("/usr/local/lib/fabric", NETWORK, mode=0o755)
    machine.write("/etc/systemd/system/fabric.service",
                  "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/lib/fabric\n")
    machine.write("/etc/systemd/system/emulator.service.d/fabric.conf",
                  "[Unit]\nRequires=fabric.service\nAfter=fabric.service\n"
                  "[Service]\nExecStartPre=\nNetworkNamespacePath=/run/netns/fabric\n")
    machine.run("systemctl", "daemon-reload")


def installed_behind(machine):
    add_network(machine)
    installed(machine)
