# The life of the .deb, in the shell of trial.sh.
files >/run/before
check 'install' dpkg -i /trial/first.deb
check 'active after the installation' active
check 'tier full' becomes_full
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
check 'suspended for longer than the watchdog waits' suspend 20
check 'counts equal right after the suspension' equal
check 'the watchdog does not mind' restarts_are 0
kill -STOP "$(property MainPID)"
check 'the watchdog restarts what hangs' within 60 restarts_are 1
check 'counts equal after the watchdog' within 30 equal

shown 'Other network namespaces' | drop_in
check 'another namespace with the drop-in' within 30 other_namespace
check 'counts equal with all namespaces' equal
. /trial/units.sh
shown 'Metrics' | drop_in
check 'metrics with the drop-in' within 10 metrics
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
check 'of the new version' is "$(dpkg-query -W -f '${Version}' tcp-status | sed 's/.*-//')" 2
check 'another process' eval '[ "$(property MainPID)" != "$was" ]'
check 'active after the upgrade' active
check 'tier full after the upgrade' becomes_full

check 'remove' dpkg -r tcp-status
check 'not active' eval '! systemctl is-active $UNIT'
check 'no program, no folder' eval '! ls /usr/bin/tcp-status /run/tcp-status'
check 'install again' dpkg -i /trial/upgrade.deb
check 'active again after all' active
check 'counts equal again' equal
check 'purge' dpkg -P tcp-status
check 'nothing in the kernel' eval '! in_kernel'
check 'no folder' eval '! ls -d /run/tcp-status'
# The user stays, as Debian wants it.
check 'nothing left' nothing_left
check 'but the user' getent passwd tcp-status
