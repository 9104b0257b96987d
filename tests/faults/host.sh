#!/bin/bash
# A machine on this machine: its own address, processes, host name, /tmp/ray and /dev/shm; files are shared, as on a cluster with a shared folder.
#   host.sh network BRIDGE ADDRESS                        makes the network that machines are on, where this machine has ADDRESS (with /LENGTH)
#   host.sh boot BRIDGE NAME ADDRESS FOLDER COMMAND...    is the machine: runs COMMAND again whenever it ends, as its init; ends when it is killed
#   host.sh gone BRIDGE NAMES...                          removes machines that have ended, and the network
set -eu
case "$1" in
network)
  ip link add "$2" type bridge
  ip addr add "$3" dev "$2"
  ip link set "$2" up
  ;;
boot)
  bridge=$2 name=$3 address=$4 folder=$5
  shift 5
  if ! ip netns list | grep -qw "$bridge-$name"; then
    ip netns add "$bridge-$name"
    ip link add "$bridge-$name" type veth peer name eth0 netns "$bridge-$name"
    ip link set "$bridge-$name" master "$bridge" up
    ip -n "$bridge-$name" addr add "$address" dev eth0
    ip -n "$bridge-$name" link set eth0 up
    ip -n "$bridge-$name" link set lo up
  fi
  ip link set "$bridge-$name" up
  rm -rf "$folder"
  mkdir -p "$folder/ray" "$folder/home"
  # As process 1 bash reaps what its children leave. ("ip netns exec" would mount /sys anew.)
  exec nsenter --net="/run/netns/$bridge-$name" unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c '
    hostname "$0"
    mkdir -p /tmp/ray
    mount --bind "$1/ray" /tmp/ray
    mount -t tmpfs -o size=1g tmpfs /dev/shm
    export HOME=$1/home
    shift
    while true; do "$@" & wait $!; sleep 1; done' "$name" "$folder" "$@"
  ;;
gone)
  bridge=$2
  shift 2
  for name in "$@"; do ip netns del "$bridge-$name" 2>/dev/null || true; done
  ip link del "$bridge" 2>/dev/null || true
  ;;
*)
  echo "usage: host.sh network|boot|gone ..." >&2
  exit 2
  ;;
esac
