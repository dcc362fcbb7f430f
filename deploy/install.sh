#!/bin/sh
# Installs tcp-status from the tarball of a release. It compares the tarball's checksum with
# SHA256SUMS, prints what it will do, and asks first.
#
#   sh install.sh [OPTION]... [FILE.tar.gz]
#
# Without FILE it downloads the release. SHA256SUMS lies beside FILE, or is downloaded with it.
#
#   --dry-run      print what would be done, and change nothing
#   --yes          do not ask
#   --no-start     do not enable and start the service
#   --root FOLDER  install below FOLDER, as for an image: needs no root, starts nothing
#   --uninstall    remove what was installed
set -eu

version=0.1.0
releases=https://github.com/tcp-status/tcp-status/releases/download
unit=tcp-status.service
# Below the root: every file that was installed, one a line.
list=usr/share/tcp-status/installed

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

exists() { command -v "$1" >/dev/null 2>&1; }

# Whether this host's own service manager runs.
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

confirm() {
    if [ $dry_run = 1 ]; then
        echo 'dry run: nothing was changed'
        exit 0
    fi
    [ $yes = 1 ] && return
    [ -t 0 ] || fail "cannot ask: standard input is no terminal; add --yes"
    printf 'Continue? [y/N] '
    read -r answer
    case $answer in y | Y | yes) ;; *) fail 'stopped; nothing was changed' ;; esac
}

# What another package manager owns is not ours to change.
refuse_packages() {
    [ -z "$root" ] || return 0
    if exists dpkg && dpkg -S /usr/bin/tcp-status >/dev/null 2>&1; then
        fail "cannot change /usr/bin/tcp-status: the .deb owns it; run: apt remove tcp-status"
    # Debian's rpm makes a database in HOME.
    elif exists rpm && HOME=$work rpm -qf /usr/bin/tcp-status >/dev/null 2>&1; then
        fail "cannot change /usr/bin/tcp-status: the .rpm owns it; run: dnf remove tcp-status"
    fi
}

fetch() {
    echo "download $1"
    [ $dry_run = 0 ] || return 0
    if exists curl; then
        curl --proto '=https' --fail --location --silent --show-error --output "$2" "$1"
    elif exists wget; then
        wget -q -O "$2" "$1"
    else
        false
    fi || fail "cannot download $1: see above; or download it and SHA256SUMS, and name the file"
}

# Finds the tarball, or downloads it, and compares its checksum.
provide() {
    if [ -z "$tarball" ]; then
        machine=$(uname -m)
        case $machine in
        x86_64 | aarch64) ;;
        *) fail "cannot install on $machine: there are releases for x86_64 and aarch64" ;;
        esac
        tarball=$work/tcp-status-$version-$machine-linux.tar.gz
        for name in SHA256SUMS "${tarball##*/}"; do
            fetch "$releases/v$version/$name" "$work/$name"
        done
        if [ $dry_run = 1 ]; then
            echo 'compare the checksum, list the files, and ask'
            confirm
        fi
    fi
    [ -f "$tarball" ] || fail "cannot read $tarball: no such file"
    case $tarball in */*) sums=${tarball%/*}/SHA256SUMS ;; *) sums=SHA256SUMS ;; esac
    [ -f "$sums" ] || fail "cannot read $sums: no such file; download it from the release"
    # Two spaces, or a space and an asterisk, stand before the name.
    wanted=$(while read -r sum name; do
        [ "${name#\*}" != "${tarball##*/}" ] || echo "$sum"
    done <"$sums")
    found=$(sha256sum <"$tarball")
    [ "${found%% *}" = "$wanted" ] ||
        fail "cannot install $tarball: its SHA-256 is ${found%% *}, not ${wanted:-in $sums}; download it again"
    echo "SHA-256 as in $sums: ${found%% *}"
}

# Replaces a file in one step: a running program keeps the old one.
place() {
    mkdir -p "$root/${1%/*}"
    placing=$root/$1.new
    cp "$work/tree/$1" "$root/$1.new"
    case $1 in usr/bin/*) chmod 755 "$root/$1.new" ;; *) chmod 644 "$root/$1.new" ;; esac
    mv -f "$root/$1.new" "$root/$1"
}

remove_files() {
    while read -r file; do
        rm -f "$root/$file"
    done
    for folder in usr/share/tcp-status usr/share/doc/tcp-status usr/share/licenses/tcp-status; do
        [ ! -d "$root/$folder" ] || find "$root/$folder" -depth -type d -exec rmdir {} + 2>/dev/null || :
    done
}

install() {
    provide
    mkdir "$work/tree"
    # The tree lies in one folder, with usr/ in it.
    gzip -dc "$tarball" | (cd "$work" && tar -xf -)
    mv "$work"/tcp-status-*/usr "$work/tree/" || fail "cannot install $tarball: it holds no tcp-status"
    mkdir -p "$work/tree/${list%/*}"
    (cd "$work/tree" && : >$list && find usr -type f | sort) >"$work/files"
    cp "$work/files" "$work/tree/$list"

    echo "install $(wc -l <"$work/files") files below $root/:"
    sed 's,^,  /,' "$work/files"
    if [ -z "$root" ] && exists systemd-sysusers; then
        echo 'create user and group tcp-status, if they do not exist'
    fi
    if has_systemd && [ $start = 1 ]; then echo "enable and start $unit, or restart it"; fi
    confirm

    # What the version before had, and this one has not.
    if [ -f "$root/$list" ]; then
        grep -vxF -f "$work/files" "$root/$list" | remove_files
    fi
    # First, so that what was interrupted can be removed.
    place $list
    while read -r file; do
        place "$file"
    done <"$work/files"
    [ -z "$root" ] || return 0
    if exists systemd-sysusers; then systemd-sysusers tcp-status.conf; fi
    if has_systemd; then
        systemctl daemon-reload
        if [ $start = 1 ]; then
            systemctl enable $unit
            systemctl restart $unit
        fi
        echo 'installed; next: tcp-status show'
    else
        echo 'installed; no systemd runs here; next: tcp-status run'
    fi
}

uninstall() {
    [ -f "$root/$list" ] || fail "cannot uninstall: no $root/$list, so install.sh installed nothing"
    if has_systemd; then echo "stop and disable $unit"; fi
    echo "remove $(wc -l <"$root/$list") files below $root/:"
    sed 's,^,  /,' "$root/$list"
    echo 'keep user and group tcp-status, and drop-ins in /etc/systemd/system'
    confirm
    if has_systemd; then systemctl disable --now $unit; fi
    # The list goes last, so that what was interrupted can be repeated.
    grep -vxF $list "$root/$list" >"$work/files"
    remove_files <"$work/files"
    echo $list | remove_files
    if has_systemd; then systemctl daemon-reload; fi
    echo 'removed'
}

main() {
    action=install dry_run=0 yes=0 start=1 root='' tarball=''
    arguments=$*
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry_run=1 ;;
        --yes) yes=1 ;;
        --no-start) start=0 ;;
        --uninstall) action=uninstall ;;
        --root)
            [ -d "${2-}" ] || fail "cannot use --root ${2-}: not a folder"
            root=$(cd "$2" && pwd)
            root=${root%/}
            shift
            ;;
        -*) fail "cannot read $1: no such option; the options are in install.sh" ;;
        *) tarball=$1 ;;
        esac
        shift
    done
    if [ -z "$root" ] && [ $dry_run = 0 ] && [ "$(id -u)" != 0 ]; then
        fail "cannot $action below /: not root; run: sudo sh install.sh $arguments"
    fi
    umask 022
    work=$(mktemp -d)
    placing=
    trap 'rm -rf "$work" ${placing:+"$placing"}' EXIT
    trap 'exit 1' INT TERM HUP
    refuse_packages
    $action
}

# Last, so that a download that was cut short does nothing.
main "$@"
