#!/bin/busybox sh
# The first process of a machine of the matrix: mounts, runs the test binaries one after the
# other, and powers off. It talks by lines that begin with "##vm " on the second serial port,
# which no kernel message reaches. /plan sets NAME, TESTS, ARGUMENTS and LIMIT,
# and exports what the tests are to know.
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox --install -s /bin
# This machine is there for the tests: they may set its clock and take its processors away.
# The JSON of the test harness is unstable, and the harness refuses it without this.
export PATH=/bin RUST_BACKTRACE=1 RUSTC_BOOTSTRAP=1 TCP_STATUS_OWN_MACHINE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /run
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
. /plan
hostname "$NAME"
# The tests bring many sockets, and the limit of the first process is low.
echo 200000 >/proc/sys/fs/file-max
ulimit -n 65536
# Says what waits, and where, before the host loses patience.
echo 60 >/proc/sys/kernel/hung_task_timeout_secs

{
    stty raw -echo -F /dev/ttyS1
    ip link set lo up || echo "##vm problem lo stays down"
    # In the order of their numbers: one needs the other.
    for module in /modules/*.ko; do
        [ ! -e "$module" ] || insmod "$module" || echo "##vm problem $module does not load"
    done
    echo "##vm kernel $(uname -r)"
    for test in $TESTS; do
        echo "##vm begin $test"
        timeout -s KILL "$LIMIT" "/tests/$test" $ARGUMENTS
        status=$?
        echo
        echo "##vm end $test $status"
    done
    echo "##vm done"
} >/dev/ttyS1 2>&1 </dev/null
poweroff -f
