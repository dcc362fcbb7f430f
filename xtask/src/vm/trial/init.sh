#!/bin/busybox sh
# The first process: unpacks the Debian into memory, puts the trial into it, and hands over.
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module"
done
mount -t tmpfs -o size=90% root /new
tar -xf /debian.tar -C /new
rm /debian.tar
mv /trial /new/trial
cat >/new/etc/systemd/system/trial.service <<UNIT
[Unit]
Description=trial of the packages
[Service]
Type=oneshot
ExecStart=/bin/sh /trial/trial.sh
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
UNIT
mkdir -p /new/etc/systemd/system/multi-user.target.wants
ln -s ../trial.service /new/etc/systemd/system/multi-user.target.wants/
ln -sf /dev/null /new/etc/systemd/system/getty.target
umount /proc
exec switch_root /new /sbin/init
