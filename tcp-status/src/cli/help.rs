//! Texts that help prints after the options of a command.

pub(super) const EXIT: &str = "\
Exit status: 0 success; 1 the answer is no (verify differs); 2 bad usage or argument; \
3 no tracker reachable; 4 refused by the kernel or by permission. \
An error is one line on standard error; standard output stays empty. \
Without a command, this help goes to standard error, with status 2.

Times are a number and a unit, as in 500ms, 90s, 20m or 2h; without a unit, seconds.";

pub(super) const GET: &str = "\
One number a line, in the order of the arguments. all stands for established, synsent, synrecv, \
finwait1, finwait2, timewait, closed, closewait, lastack, listen, closing. Several numbers are one \
consistent reading.";

pub(super) const CGROUPS: &str = "\
Rows: each cgroup that has connections, by pod, unit or container, with its path; the other \
cgroups together; other, cgroups beyond --max-cgroups; unattributed, TIME_WAIT and the like, \
which have no cgroup. Accepted sockets belong to the cgroup that created the listener. At rest \
their sums are the totals of show, with run --netns all those of show --all-netns.";

pub(super) const LISTENERS: &str = "\
Columns: queue is the accept queue, limit its limit (the kernel admits one more), peak the \
longest accept queue within the window, syn the half-open connections, of their limit. Marks: \
FULL, the accept queue is full; was full, it was full within the window; SYN FULL, the SYN queue \
is full; syn, it holds more than 256. Sockets that share an address by SO_REUSEPORT have \
one row with their sums, and one row each beneath it.";

pub(super) const TOP: &str = "\
Enter leads from a problem to its unit, remotes and processes; the key ? lists all keys. NO_COLOR turns \
colours off; a locale without UTF-8 turns graphs into ASCII. With TERM=dumb, a table is printed each time. \
Without a terminal, use show or listeners.";

pub(super) const PORTS: &str = "\
Rows: each port that has or had a listener and has connections; the other listening ports \
together; outgoing, connections whose local port has no listener; other, ports beyond \
--max-ports. At rest their sums are the totals of show. Above them, aborted: the ports with the most \
connections that were reset or timed out, since start.";

pub(super) const WAIT: &str = "\
Draining a service before a restart: tcp-status wait established --port 8080 --below 1 --timeout 60s. \
The tracker wakes the waiting client; nothing polls.";

pub(super) const HISTORY: &str = "\
The tracker samples its namespace every 100 ms and keeps minimum, maximum and mean of each minute \
for 24 hours, until it ends. Times are UTC. A plot runs from left to right and from 0 to the \
maximum; a dash is a time without samples. Marked minutes: partial, the tracker did not sample all \
of it; degraded, a count may be off.";

pub(super) const WHO: &str = "\
Walks the kernel's tables itself, like ss, and needs no tracker: about 1 us per socket. Remotes and \
destinations are of connections; a destination's last column is the part of the ephemeral ports \
that it uses up, TIME_WAIT included. A socket that several processes have open belongs to the \
oldest; others than root see their own processes. Accepted sockets belong to the cgroup \
that created the listener; TIME_WAIT and half-open connections have none.";

pub(super) const DISCOVER: &str = "\
One object per listening port, with the macros {#PORT}, {#ADDRESSES} and {#FAMILIES} \
(separated by commas), {#LIMIT} (sum of the limits of its accept queues) and {#NETNS} (inode \
number); with --cgroups one object per cgroup: {#CGROUP} (path), {#NAME}, {#UNIT}, {#CONTAINER} and \
{#POD}. For Zabbix 4.2 and later.";

pub(super) const CHECK: &str = "\
The self-test takes seconds. It opens sockets on loopback, in a network namespace of its own where it \
may (CAP_SYS_ADMIN), else in that of the caller, where some stay in TIME_WAIT for a minute. \
Half of them are there when the programs are loaded, half come later; the kernel's listing is \
/proc/net/tcp and tcp6.";
