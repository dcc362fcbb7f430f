"""Makes the picture of `top`: a full accept queue, a CLOSE_WAIT leak and a SYN flood in a network namespace.

    sudo unshare -n python3 docs/images/incident.py BINARY OUT.svg [COLUMNSxROWS]

Needs a cgroup2 hierarchy, tmux and pyte (pip install pyte). Takes two minutes.
"""

import html
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

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
# As pyte calls the colours of a terminal: on a dark page, and on a light one.
COLOURS = {"default": ("#d0d7de", "#1f2328"), "red": ("#ff7b72", "#cf222e"), "brown": ("#d29922", "#9a6700"),
           "cyan": ("#39c5cf", "#1b7c83"), "brightblack": ("#6e7681", "#6e7781"), "page": ("#0d1117", "#f6f8fa")}
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


def svg(text, columns, rows):
    import pyte

    screen = pyte.Screen(columns, rows)
    # It does not know dim text.
    text = text.replace("\x1b[2m", "\x1b[90m").rstrip("\n").replace("\n", "\r\n")
    pyte.Stream(screen).feed(text)
    wide, high = 8.4, 17
    dark, light = ("".join(f".{name}{{fill:{both[page]}}}" for name, both in COLOURS.items()) for page in (0, 1))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * wide + 28:g} {rows * high + 28}" role="img">'
           '<title>tcp-status top</title>'
           f'<style>{dark}@media (prefers-color-scheme:light){{{light}}}</style>'
           '<rect width="100%" height="100%" rx="6" class="page"/>'
           '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" '
           'font-size="13.5" xml:space="preserve">']
    for y in range(rows):
        look = lambda x: (lambda c: (c.fg, c.bold, c.reverse))(screen.buffer[y][x])
        x = 0
        while x < columns:
            start, style = x, look(x)
            while x < columns and look(x) == style:
                x += 1
            part = "".join(screen.buffer[y][at].data for at in range(start, x))
            colour, left, top = style[0], 14 + start * wide, 13 + y * high
            if style[2]:
                out.append(f'<rect x="{left:g}" y="{top}" width="{len(part) * wide:g}" height="{high}" class="{colour}"/>')
                colour = "page"
            bold = ' font-weight="bold"' if style[1] else ""
            for word in re.finditer(r"\S+( \S+)*", part):
                x0, width = left + word.start() * wide, (word.end() - word.start()) * wide
                out.append(f'<text x="{x0:g}" y="{top + 13.5:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs" '
                           f'class="{colour}"{bold}>{html.escape(word[0], quote=False)}</text>')
    return "\n".join([*out, "</g></svg>", ""])


def main(binary, target, size="132x40"):
    columns, rows = map(int, size.split("x"))
    subprocess.run(["sh", "-ec", NETWORK], check=True)
    with open("/proc/mounts") as mounts:
        root = next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        started = [subprocess.Popen([binary, "run", "--socket", path])]
        for unit, role in ROLES:
            cgroup = f"{root}/system.slice/{unit}"
            os.makedirs(cgroup, exist_ok=True)
            enter = f'echo $$ > {cgroup}/cgroup.procs; exec "$@"'
            started.append(subprocess.Popen(["sh", "-c", enter, "sh", sys.executable, __file__, role]))
            time.sleep(1)
        time.sleep(110)
        tmux = ["tmux", "-S", f"{folder}/tmux"]
        top = f"LANG=C.UTF-8 TERM=xterm {binary} top --socket {path}"
        subprocess.run([*tmux, "new-session", "-d", "-x", str(columns), "-y", str(rows), top], check=True)
        time.sleep(10)
        screen = subprocess.run([*tmux, "capture-pane", "-p", "-e"], check=True, capture_output=True, text=True)
        subprocess.run([*tmux, "kill-server"], check=True)
        for one in started:
            one.kill()
    with open(target, "w") as file:
        file.write(svg(screen.stdout, columns, rows))


if len(sys.argv) == 2:
    play(sys.argv[1])
main(*sys.argv[1:])
