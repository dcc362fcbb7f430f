#!/bin/sh
# Runs in the machine, as a service: the life of the packages, and what must hold at each stage.
# It says "##trial ok NAME" or "##trial failed NAME", and shows what was seen.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive
export SYSTEMD_PAGER= SYSTEMD_COLORS=0
UNIT=tcp-status.service

# check NAME COMMAND...
check() {
    name=$1
    shift
    if "$@" >/run/said 2>&1; then verdict=ok; else verdict=failed; fi
    cat /run/said
    echo "##trial $verdict $name"
}

# Whether COMMAND succeeds within SECONDS.
within() {
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "not within the time: $*"; "$@"; return 1; }
        sleep 1
    done
    "$@"
}

is() { [ "$1" = "$2" ] || { echo "is $1, not $2"; return 1; }; }
property() { systemctl show --property="$1" --value $UNIT; }
restarts_are() { is "$(property NRestarts)" "$1"; }
active() { systemctl is-active $UNIT && is "$(property Type)" notify; }
equal() { tcp-status verify; }
tier_is() { tcp-status show | sed -n 1,4p; tcp-status show | grep -q "^tier  *$1"; }
in_kernel() { grep -E 'bpf_prog_[0-9a-f]+_(set_state|timewait|walk)' /proc/kallsyms; }
files() { find / -xdev -path /trial -prune -o -path /var/lib/dpkg -prune -o \
    -path /var/log -prune -o -print | sort; }
version_is() { is "$(dpkg-query -W -f '${Version}' tcp-status | sed 's/.*-//')" "$1"; }

modes() {
    stat -c '%A %U:%G %n' /usr/bin/tcp-status /run/tcp-status /run/tcp-status/*
    is "$(stat -c '%a %U:%G' /run/tcp-status)" "755 tcp-status:tcp-status" &&
        is "$(stat -c '%a %U:%G' /run/tcp-status/tcp-status.sock)" "660 tcp-status:tcp-status"
}

as_nobody() { setpriv --reuid=nobody --regid=nogroup "$@" tcp-status get listen; }
denied() { as_nobody --clear-groups; is $? 4; }
allowed() { as_nobody --groups=tcp-status; }

# BPF is number 39, PERFMON 38.
capabilities() {
    pid=$(property MainPID)
    for thread in /proc/"$pid"/task/*; do
        echo "$(cat "$thread/comm") $(grep -E 'CapEff|CapBnd' "$thread/status" | tr '\n\t' '  ')"
    done
    is "$(sed -n 's/^CapEff:\t//p' /proc/"$pid"/task/*/status | sort -u)" 0000008000000000
}

# The unit with what standard input adds to it, until the next one.
drop_in() {
    mkdir -p /run/systemd/system/$UNIT.d
    tee /run/systemd/system/$UNIT.d/trial.conf
    systemctl daemon-reload
    systemctl restart $UNIT
}

# The drop-in that the unit's comments show below a line that begins so.
shown() {
    awk -v head="# $1" 'index($0, head) == 1 { on = 1; next } /^# [A-Z]/ { on = 0 }
        on && /^#   / { print substr($0, 5) }' /usr/lib/systemd/system/$UNIT
}

other_namespace() {
    tcp-status show --all-netns | grep netns
    is "$(tcp-status get listen --netns other)" 0 && is "$(tcp-status show --all-netns | grep -c ^netns)" 2
}
no_other_namespace() { tcp-status get listen --netns other; is $? 4; }
metrics() {
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/9889
        printf "GET /metrics HTTP/1.1\r\nHost: trial\r\nConnection: close\r\n\r\n" >&3
        grep "^tcp_status_connections{" <&3'
}

exec 2>&1
cat /proc/version
systemctl --version | head -n 1
files >/run/before

check 'install' dpkg -i /trial/first.deb
check 'active after the installation' active
check 'tier full' tier_is full
check 'counts equal' equal
mkfifo /run/hold
/trial/tcp-traffic hold 3 7 </run/hold >/run/held &
exec 9>/run/hold
within 60 grep -q held /run/held
check 'counts equal with sockets in every state' equal
check 'programs in the kernel' in_kernel
check 'modes' modes
check 'capabilities dropped' capabilities
check 'a stranger is refused' denied
check 'the group is let in' allowed
check 'another namespace is refused' eval 'ip netns add other; no_other_namespace'
check 'man page' sh -c 'zcat /usr/share/man/man8/tcp-status.8.gz | head -n 3'
check 'exposure at most 2.0' systemd-analyze security --threshold=20 $UNIT
check 'the unit is sound' systemd-analyze verify --man=no /usr/lib/systemd/system/$UNIT

check 'restart' systemctl restart $UNIT
check 'counts equal after the restart' equal

kill -9 "$(property MainPID)"
check 'restarted after kill -9' within 30 restarts_are 1
check 'active again' within 30 active
check 'counts equal after kill -9' equal

drop_in <<EOF
[Service]
WatchdogSec=10s
TimeoutAbortSec=2s
EOF
sleep 25
check 'the watchdog is fed' restarts_are 0
kill -STOP "$(property MainPID)"
check 'the watchdog restarts what hangs' within 60 restarts_are 1
check 'counts equal after the watchdog' within 30 equal

shown 'Other network namespaces' | drop_in
check 'another namespace with the drop-in' within 30 other_namespace
check 'counts equal with all namespaces' equal
shown 'Metrics' | drop_in
check 'metrics with the drop-in' metrics
drop_in <<EOF
[Service]
CapabilityBoundingSet=
AmbientCapabilities=
EOF
check 'tier scan without capabilities' tier_is scan
check 'counts equal by scan' equal
rm -r /run/systemd/system/$UNIT.d
systemctl daemon-reload
systemctl restart $UNIT
ip netns del other

was=$(property MainPID)
check 'upgrade' dpkg -i /trial/upgrade.deb
check 'counts equal right after the upgrade' equal
check 'of the new version' version_is 2
check 'another process' eval '[ "$(property MainPID)" != "$was" ]'
check 'active after the upgrade' active
check 'tier full after the upgrade' tier_is full

check 'remove' dpkg -r tcp-status
check 'not active' eval '! systemctl is-active $UNIT'
check 'no program, no folder' eval '! ls /usr/bin/tcp-status /run/tcp-status'
check 'install again' dpkg -i /trial/upgrade.deb
check 'active again after all' active
check 'counts equal again' equal
check 'purge' dpkg -P tcp-status
check 'nothing in the kernel' eval '! in_kernel'
check 'no folder' eval '! ls -d /run/tcp-status'
files >/run/after
diff /run/before /run/after >/run/changed
# The user stays, as Debian wants it, and with it the copies that are made when users change.
check 'nothing left' eval 'cat /run/changed; ! grep "^[<>]" /run/changed | grep -vE "^> /etc/(passwd|group|shadow|gshadow)-\$"'
check 'but the user' getent passwd tcp-status
journalctl --unit=$UNIT --no-pager --output=cat | tail -n 60
echo '##trial done'
systemctl --force --force poweroff
