"""Makes pictures of `top`: a full accept queue, a CLOSE_WAIT leak and a SYN flood in a network namespace.

    sudo unshare -n python3 docs/images/incident.py BINARY OUT.svg [COLUMNSxROWS [KEYS...]]

A picture before any key, and one after each of KEYS (names as of tmux send-keys): OUT.svg, OUT-1.svg and so on.
Needs a cgroup2 hierarchy and tmux. Takes two minutes.
"""

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from svg import svg

NETWORK = """ip link set lo up
ip addr add 10.0.0.1/32 dev lo
ip link add v0 type veth peer name v1
ip link set v0 arp off up
ip link set v1 arp off up
ip addr add 10.9.255.254/16 dev v0
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lo.rp_filter=0 net.ipv4.conf.v0.rp_filter=0
sysctl -qw net.ipv4.tcp_synack_retries=8"""
ROLES = [("postgresql.service", "db"), ("orders.service", "orders"), ("nginx.service", "web"),
         ("batch.service", "clients"), ("attack.scope", "flood")]
held = []


def listener(port, backlog, address="0.0.0.0"):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((address, port))
    one.listen(backlog)
    return one


def accept(one, most):
    while True:
        connection = one.accept()[0]
        if len(held) < most:
            held.append(connection)
            continue
        connection.settimeout(1)
        try:
            connection.recv(1)
        except OSError:
            pass
        connection.close()


def connect_often():
    while True:
        one = socket.create_connection(("10.0.0.1", 443))
        time.sleep(0.02)
        one.close()


def clients():
    for _ in range(300):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("10.0.0.1", 5432))
        held.append(one)
    for _ in range(847):
        socket.create_connection(("10.0.0.1", 7001)).close()
    held.extend(socket.create_connection(("10.0.0.1", 443)) for _ in range(1020))
    for _ in range(3):
        threading.Thread(target=connect_often, daemon=True).start()


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def flood():
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    to = socket.inet_aton("10.0.0.1")
    while True:
        source = bytes([10, 9, random.randrange(250), random.randrange(1, 255)])
        port, number = random.randrange(1024, 65535), random.getrandbits(32)
        syn = struct.pack("!HHLLBBHHH", port, 8080, number, 0, 0x50, 2, 64240, 0, 0)
        syn = syn[:16] + struct.pack("!H", checksum(source + to + struct.pack("!BBH", 0, 6, 20) + syn)) + syn[18:]
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, source, to)
        raw.sendto(header + syn, ("10.0.0.1", 0))
        time.sleep(0.05)


def play(role):
    if role == "db":
        held.append(listener(5432, 128, "10.0.0.1"))
    elif role == "orders":
        threading.Thread(target=accept, args=(listener(7001, 4096, "10.0.0.1"), 10_000), daemon=True).start()
    elif role == "web":
        held.append(listener(8080, 4096))
        threading.Thread(target=accept, args=(listener(443, 511), 1021), daemon=True).start()
    else:
        {"clients": clients, "flood": flood}[role]()
    signal.pause()


def main(binary, target, size="132x40", *keys):
    columns, rows = map(int, size.split("x"))
    subprocess.run(["sh", "-ec", NETWORK], check=True)
    with open("/proc/mounts") as mounts:
        root = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        started = [subprocess.Popen([binary, "run", "--socket", path])]
        tmux = ["tmux", "-S", f"{folder}/tmux"]
        try:
            for unit, role in ROLES:
                cgroup = f"{root}/system.slice/{unit}"
                os.makedirs(cgroup, exist_ok=True)
                enter = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
                started.append(subprocess.Popen(["sh", "-c", enter, "sh", sys.executable, __file__, role]))
                time.sleep(1)
            time.sleep(110)
            top = f"LANG=C.UTF-8 TERM=xterm {binary} top --socket {path}"
            subprocess.run([*tmux, "new-session", "-d", "-x", str(columns), "-y", str(rows), top], check=True)
            time.sleep(10)
            for number, key in enumerate(["", *keys]):
                if key:
                    subprocess.run([*tmux, "send-keys", *key.split()], check=True)
                    time.sleep(8)
                screen = subprocess.run([*tmux, "capture-pane", "-peN"], check=True, capture_output=True, text=True)
                with open(target if number == 0 else target.replace(".svg", f"-{number}.svg"), "w") as file:
                    file.write(svg(screen.stdout))
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)
            for one in started:
                one.kill()
                one.wait()
            for unit, _ in ROLES:
                os.rmdir(f"{root}/system.slice/{unit}")


if len(sys.argv) == 2:
    play(sys.argv[1])
main(*sys.argv[1:])
