#!/bin/bash
# rados.sh up DIR PORT MON_PORT MON_PORT_V1 | down DIR: a RADOS Gateway on loopback, with one monitor and one OSD in memory; all of it lies in DIR.
# Two users: AKIDTEST / SECRETTEST, and a stranger, AKIDSTRANGER / SECRETSTRANGER.
set -euo pipefail
D=$2
if [ "$1" = down ]; then
    for part in radosgw osd mon; do
        if [ -f "$D/$part.pid" ]; then kill "$(cat "$D/$part.pid")" 2>/dev/null || true; fi
    done
    exit 0
fi
PORT=$3 MON_PORT=$4 MON_PORT_V1=$5 IP=127.0.0.1
FSID=$(cat /proc/sys/kernel/random/uuid)
mkdir -p "$D"/{mon,osd,rgw,run,log}
cat > "$D/ceph.conf" <<C
[global]
fsid = $FSID
mon host = [v2:$IP:$MON_PORT,v1:$IP:$MON_PORT_V1]
public addr = $IP
cluster addr = $IP
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
run dir = $D/run
admin socket = $D/run/\$name.asok
log file = $D/log/\$name.log
keyring = $D/keyring
ms bind ipv6 = false
[mon]
mon data = $D/mon
mon data avail crit = 1
mon data avail warn = 1
[osd]
osd data = $D/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd class load list = *
osd class default list = *
[client]
rgw data = $D/rgw
rgw frontends = beast endpoint=$IP:$PORT tcp_nodelay=1
rgw thread pool size = 16
rgw enable usage log = false
rgw gc max objs = 3
rgw lc max objs = 3
rgw usage max shards = 1
C
export CEPH_CONF=$D/ceph.conf CEPH_ARGS=
key() { ceph-authtool "$D/keyring" --gen-key -n "$@" > /dev/null; }
ceph-authtool --create-keyring "$D/keyring" --gen-key -n mon. --cap mon 'allow *' > /dev/null
key client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
monmaptool --create --addv a "[v2:$IP:$MON_PORT,v1:$IP:$MON_PORT_V1]" --fsid "$FSID" "$D/monmap" > /dev/null
ceph-mon --mkfs -i a --monmap "$D/monmap" --keyring "$D/keyring"
setsid ceph-mon -f -i a > "$D/log/mon.out" 2>&1 & echo $! > "$D/mon.pid"
OSD=$(timeout 60 ceph osd create)
key "osd.$OSD" --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key client.rgw --cap mon 'allow *' --cap osd 'allow *'
timeout 60 ceph auth import -i "$D/keyring" 2> /dev/null
ceph-osd -i "$OSD" --mkfs > /dev/null 2>&1
timeout 60 ceph osd crush add "osd.$OSD" 1.0 root=default host=h0 2> /dev/null
setsid ceph-osd -f -i "$OSD" > "$D/log/osd.out" 2>&1 & echo $! > "$D/osd.pid"
timeout 120 radosgw-admin user create --uid=crowd --display-name=crowd --access-key=AKIDTEST --secret=SECRETTEST > /dev/null
timeout 120 radosgw-admin user create --uid=stranger --display-name=stranger --access-key=AKIDSTRANGER --secret=SECRETSTRANGER > /dev/null
setsid radosgw -f -n client.rgw > "$D/log/rgw.out" 2>&1 & echo $! > "$D/radosgw.pid"
for _ in $(seq 60); do
    if (exec 3<> "/dev/tcp/$IP/$PORT") 2> /dev/null; then exit 0; fi
    sleep 1
done
echo "the gateway did not come up; see $D/log" >&2
exit 1
