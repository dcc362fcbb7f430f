#!/bin/sh
# Runs in the machine, as a service: the life of the packages, and what must hold at each stage,
# which a file for each says. It says "##trial ok NAME" or "##trial failed NAME", and shows what was seen.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive
export SYSTEMD_PAGER= SYSTEMD_COLORS=0
UNIT=tcp-status.service

# check NAME COMMAND...
check() {
    name=$1
    shift
    echo "# $*"
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
tier_is() { tcp-status show | grep -A 2 '^tier' && tcp-status show | grep -q "^tier  *$1"; }
# The hooks of the full tier are attached when the counts are there already.
becomes_full() { within 60 tier_is full; }
in_kernel() { grep -E 'bpf_prog_[0-9a-f]+_(set_state|timewait|walk)' /proc/kallsyms; }
files() { find / -xdev -path /trial -prune -o -path /var/lib/dpkg -prune -o \
    -path /var/log -prune -o -name 'systemd-private-*-e2scrub_*' -prune -o -print | sort; }

# Whether the files are those that /run/before lists, but for the copies that are made when users
# change, and for what PATTERN allows beside them.
nothing_left() {
    files >/run/after
    diff /run/before /run/after >/run/changed
    cat /run/changed
    ! grep '^[<>]' /run/changed | grep -vE "^> (/etc/(passwd|group|shadow|gshadow)-${1:+|$1})\$"
}

# Suspends the machine for SECONDS.
suspend() {
    before="$(cat /sys/power/suspend_stats/success) $(cut -d. -f1 /proc/uptime)"
    rtcwake --mode mem --seconds "$1"
    set -- "$1" $before "$(cat /sys/power/suspend_stats/success)" "$(cut -d. -f1 /proc/uptime)"
    echo "suspensions before and after: $2, $4; seconds between: $(($5 - $3))"
    [ "$4" -gt "$2" ] && [ $(($5 - $3 + 1)) -ge "$1" ]
}

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

other_namespace() { is "$(tcp-status get listen --netns other)" 0; }
no_other_namespace() { tcp-status get listen --netns other; is $? 4; }
metrics() {
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/9889
        printf "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9889\r\nConnection: close\r\n\r\n" >&3
        grep "^tcp_status_connections{" <&3'
}

exec 2>&1
cat /proc/version
systemctl --version | head -n 1
. /trial/deb.sh
. /trial/rpm.sh
. /trial/tarball.sh
journalctl --unit=$UNIT --no-pager --output=cat | tail -n 60
echo '##trial done'
systemctl --force --force poweroff
