# Units and a container beside each other, counted in all namespaces, in the shell of trial.sh.
ID=$(printf %064d 7)
SCOPE=docker-$ID.scope

# The states of one cgroup that ss lists, in the namespace of process $1; $2 is its path. Half-open
# sockets have no cgroup there.
listed() {
    nsenter --target "$1" --net ss -tanH --cgroup | awk -v "of=cgroup:$2" '
        $NF == of && $1 != "UNCONN" && $1 != "SYN-RECV" {
            state = tolower($1); gsub("-", "", state); sub("^estab$", "established", state); n[state]++ }
        END { for (state in n) print state, n[state] }' | sort
}
row() { tcp-status cgroups --all --json | jq -r --arg of "$1" ".cgroups[] | select(.path == \$of) | $2"; }
counted() {
    row "$1" '.states | to_entries[] | select(.value > 0 and .key != "closed" and .key != "synrecv")
        | "\(.key) \(.value)"' | sort
}

# Whether a cgroup has the states that ss lists, in namespace of process $1, and a name: $3 is NAME of FIELD $4.
cgroup_is() {
    seen=$(listed "$1" "$2")
    echo "$2 $3:" $seen
    [ -n "$seen" ] && is "$(counted "$2")" "$seen" && is "$(row "$2" ".$4")" "$3" &&
        is "$(row "$2" '.netns[]')" "$(stat -Lc %i /proc/"$1"/ns/net)" &&
        is "$(tcp-status get established --cgroup "$2")" "$(echo "$seen" | awk '/^established/ { n = $2 } END { print n + 0 }')"
}
gone() { is "$(row "$1" .path)" ""; }
pid_of() { systemctl show --property=MainPID --value "$1"; }
listening() { is "$(ss -tanH --cgroup "sport = :$1" | awk '{ print $NF }' | sort -u)" "cgroup:/system.slice/$2"; }

# Standard input that never ends.
systemd-run --quiet --unit=trial-leaks sh -c 'sleep infinity | /trial/tcp-traffic hold 2 7'
systemd-run --quiet --unit=trial-holds sh -c 'sleep infinity | /trial/tcp-traffic bulk 20'
# activated NAME PORT COMMAND: a service that gets its listener from systemd.
activated() {
    printf '[Socket]\nListenStream=127.0.0.1:%s\n' "$2" >"/run/systemd/system/trial-$1.socket"
    printf '[Service]\nExecStart=%s\n' "$3" >"/run/systemd/system/trial-$1.service"
}
activated activated 7100 '/lib/systemd/systemd-socket-proxyd 127.0.0.1:7101'
activated behind 7101 'sleep infinity'
systemctl daemon-reload
systemctl start trial-activated.socket trial-behind.socket
systemd-run --quiet --unit=trial-client bash -c \
    'exec 3<>/dev/tcp/127.0.0.1/7100 4<>/dev/tcp/127.0.0.1/7100 5<>/dev/tcp/127.0.0.1/7100; sleep infinity'
mkdir -p /run/bundle/rootfs
cp /trial/tcp-traffic /run/bundle/rootfs
(cd /run/bundle && crun spec && jq --arg id "$ID" '.process.args = ["/tcp-traffic", "hold", "2", "7"]
    | .process.terminal = false | .linux.cgroupsPath = "system.slice:docker:" + $id' config.json >new &&
    mv new config.json)
sleep infinity | crun --systemd-cgroup run --bundle /run/bundle "$ID" >/run/contained 2>&1 &
check 'a container runs' within 30 grep held /run/contained
contained=$(crun state "$ID" | jq .pid)
# crun makes one below the scope.
CGROUP=$(sed -n 's/^0:://p' /proc/"$contained"/cgroup)
check 'a container' within 10 cgroup_is "$contained" "$CGROUP" "$ID" container
check 'its scope' within 10 cgroup_is "$contained" "$CGROUP" "$SCOPE" unit
for unit in trial-leaks.service trial-holds.service trial-client.service trial-activated.socket \
    trial-activated.service trial-behind.socket; do
    check "$unit" within 10 cgroup_is 1 /system.slice/$unit $unit unit
done
check 'accepted sockets are of the .socket' listening 7100 trial-activated.socket
check 'cgroups of units and a container' tcp-status cgroups
check 'counts equal with a container' equal
crun delete --force "$ID"
check 'the container is gone' within 10 gone "$CGROUP"

# The drop-in of the manual: a stop waits for the last connection.
activated drained 8080 '/lib/systemd/systemd-socket-proxyd 127.0.0.1:7101'
mkdir -p /run/systemd/system/trial-drained.service.d
sed -n '/^```ini/,/^```/{//!p}' /trial/reference.md >/run/systemd/system/trial-drained.service.d/drain.conf
systemctl daemon-reload
systemctl start trial-drained.socket
systemd-run --quiet --unit=trial-caller bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 4<>/dev/tcp/127.0.0.1/8080; sleep infinity'
called() { is "$(tcp-status get established --port 8080)" 2; }
state_is() { is "$(systemctl is-active trial-drained)" "$1"; }
drained() {
    cat /run/systemd/system/trial-drained.service.d/drain.conf
    systemctl stop --no-block trial-drained
    sleep 3
    state_is deactivating && called || return 1
    systemctl stop trial-caller
    closed=$(date +%s%3N)
    until [ "$(systemctl is-active trial-drained)" = inactive ]; do
        [ $(($(date +%s%3N) - closed)) -lt 10000 ] || return 1
        sleep 0.02
    done
    echo "inactive $(($(date +%s%3N) - closed)) ms after the last connection was closed"
    is "$(systemctl show --property=Result --value trial-drained)" success
}
check 'two connections to be drained' within 10 called
check 'a stop waits for the last connection' drained
systemctl stop trial-drained.socket trial-leaks trial-holds trial-client trial-activated.socket trial-activated trial-behind.socket trial-behind
rm -r /run/bundle /run/contained /run/systemd/system/trial-*
systemctl daemon-reload
check 'counts equal without the units' within 10 equal
