# The life of the .rpm, in the shell of trial.sh. The program is Debian's rpm: it knows nothing of
# what dpkg installed, hence --nodeps, and runs the scripts of the package as any rpm does.
RPM="rpm --dbpath /run/rpm"

rpm_version_is() { is "$($RPM -q --qf '%{RELEASE}' tcp-status)" "$1"; }

# This package has to make its user itself.
userdel tcp-status
files >/run/before

check 'rpm: install' $RPM -i --nodeps /trial/first.rpm
check 'rpm: user and group' eval 'getent passwd tcp-status && getent group tcp-status'
# Fedora starts nothing by itself.
check 'rpm: start' systemctl enable --now $UNIT
check 'rpm: active' active
check 'rpm: tier full' becomes_full
check 'rpm: modes' modes
check 'rpm: capabilities dropped' capabilities
check 'rpm: counts equal with sockets in every state' equal

was=$(property MainPID)
check 'rpm: upgrade' $RPM -U --nodeps /trial/upgrade.rpm
check 'rpm: counts equal right after the upgrade' equal
check 'rpm: of the new version' rpm_version_is 2
check 'rpm: another process' eval '[ "$(property MainPID)" != "$was" ]'
check 'rpm: active after the upgrade' active
check 'rpm: enabled after the upgrade' systemctl is-enabled $UNIT

check 'rpm: remove' $RPM -e tcp-status
check 'rpm: not active' eval '! systemctl is-active $UNIT'
check 'rpm: nothing in the kernel' eval '! in_kernel'
check 'rpm: no folder' eval '! ls -d /run/tcp-status'
# Folders that belong to the shells and to the distribution, none of which Debian has.
check 'rpm: nothing left' nothing_left '/usr/share/(zsh/site-functions|fish(/vendor_completions.d)?|licenses)'
check 'rpm: but the user' getent passwd tcp-status
