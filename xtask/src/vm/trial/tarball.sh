# The life of the tarball by install.sh, in the shell of trial.sh.
installer() { sh /trial/install.sh --yes "$@"; }

files >/run/before
check 'tarball: without consent' eval '! sh /trial/install.sh /trial/*.tar.gz </dev/null'
check 'tarball: install' installer /trial/*.tar.gz
check 'tarball: active' active
check 'tarball: tier full' becomes_full
check 'tarball: modes' modes
check 'tarball: counts equal with sockets in every state' equal

was=$(property MainPID)
check 'tarball: upgrade' installer /trial/*.tar.gz
check 'tarball: counts equal right after the upgrade' equal
check 'tarball: another process' eval '[ "$(property MainPID)" != "$was" ]'

check 'tarball: remove' installer --uninstall
check 'tarball: not active' eval '! systemctl is-active $UNIT'
check 'tarball: nothing in the kernel' eval '! in_kernel'
# As after the .rpm, and its folders are there already.
check 'tarball: nothing left' nothing_left
