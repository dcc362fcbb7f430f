//! Where each file of a package goes. One list for all formats; nothing is read or written here.

/// The kinds of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Deb,
    Rpm,
    Tarball,
}

/// What a file is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The static binary.
    Binary,
    /// What the binary prints when it is called with these words.
    Printed(&'static [&'static str]),
    /// A file of the repository.
    File(&'static str),
    /// Every file below a folder of the repository, with its path below it.
    Folder(&'static str),
    /// The licences of everything that is linked into the binary.
    Notices,
    /// The bill of materials.
    Bill,
    /// Debian's own changelog, which names the package's version.
    DebianChangelog,
}

/// A file of the packages, or a folder of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Below the root of the file system.
    pub(super) to: &'static str,
    pub(super) from: Origin,
    /// Packed by gzip; its name says so.
    pub(super) packed: bool,
    /// In which packages.
    pub(super) formats: &'static [Format],
}

impl Entry {
    pub(super) fn mode(&self) -> u32 {
        if self.from == Origin::Binary {
            0o755
        } else {
            0o644
        }
    }
}

const ALL: &[Format] = &[Format::Deb, Format::Rpm, Format::Tarball];
const DEB: &[Format] = &[Format::Deb];
const NOT_DEB: &[Format] = &[Format::Rpm, Format::Tarball];

/// Everything that is installed.
pub(super) const LAYOUT: &[Entry] = &[
    plain("usr/bin/tcp-status", Origin::Binary, ALL),
    plain(
        "usr/lib/systemd/system/tcp-status.service",
        Origin::File("templates/systemd/tcp-status.service"),
        ALL,
    ),
    plain(
        "usr/lib/sysusers.d/tcp-status.conf",
        Origin::File("templates/systemd/tcp-status.sysusers"),
        ALL,
    ),
    plain(
        "usr/lib/tmpfiles.d/tcp-status.conf",
        Origin::File("templates/systemd/tcp-status.tmpfiles"),
        ALL,
    ),
    packed(
        "usr/share/man/man8/tcp-status.8.gz",
        Origin::Printed(&["man"]),
        ALL,
    ),
    plain(
        "usr/share/bash-completion/completions/tcp-status",
        Origin::Printed(&["completions", "bash"]),
        ALL,
    ),
    plain(
        "usr/share/zsh/vendor-completions/_tcp-status",
        Origin::Printed(&["completions", "zsh"]),
        DEB,
    ),
    plain(
        "usr/share/zsh/site-functions/_tcp-status",
        Origin::Printed(&["completions", "zsh"]),
        NOT_DEB,
    ),
    plain(
        "usr/share/fish/vendor_completions.d/tcp-status.fish",
        Origin::Printed(&["completions", "fish"]),
        ALL,
    ),
    // What is connected to the tracker lies here until somebody connects it.
    plain("usr/share/tcp-status", Origin::Folder("templates"), ALL),
    plain(
        "usr/share/doc/tcp-status/README.md",
        Origin::File("README.md"),
        ALL,
    ),
    plain(
        "usr/share/doc/tcp-status/SECURITY.md",
        Origin::File("SECURITY.md"),
        ALL,
    ),
    plain("usr/share/doc/tcp-status/docs", Origin::Folder("docs"), ALL),
    plain(
        "usr/share/doc/tcp-status/CHANGELOG.md",
        Origin::File("CHANGELOG.md"),
        NOT_DEB,
    ),
    packed(
        "usr/share/doc/tcp-status/changelog.gz",
        Origin::File("CHANGELOG.md"),
        DEB,
    ),
    packed(
        "usr/share/doc/tcp-status/changelog.Debian.gz",
        Origin::DebianChangelog,
        DEB,
    ),
    packed("usr/share/doc/tcp-status/NOTICES.gz", Origin::Notices, ALL),
    packed(
        "usr/share/doc/tcp-status/sbom.cdx.json.gz",
        Origin::Bill,
        ALL,
    ),
    plain(
        "usr/share/doc/tcp-status/copyright",
        Origin::File("xtask/src/package/copyright"),
        DEB,
    ),
    plain(
        "usr/share/lintian/overrides/tcp-status",
        Origin::File("xtask/src/package/lintian-overrides"),
        DEB,
    ),
    plain(
        "usr/share/licenses/tcp-status/LICENSE-MIT",
        Origin::File("LICENSE-MIT"),
        NOT_DEB,
    ),
    plain(
        "usr/share/licenses/tcp-status/LICENSE-APACHE",
        Origin::File("LICENSE-APACHE"),
        NOT_DEB,
    ),
    plain(
        "usr/share/licenses/tcp-status/LICENSE-GPL2",
        Origin::File("LICENSE-GPL2"),
        NOT_DEB,
    ),
];

/// Parts of [`Origin::Folder`] that have a place of their own.
pub(super) const ELSEWHERE: &[&str] = &["templates/systemd"];

const fn plain(to: &'static str, from: Origin, formats: &'static [Format]) -> Entry {
    Entry {
        to,
        from,
        packed: false,
        formats,
    }
}

const fn packed(to: &'static str, from: Origin, formats: &'static [Format]) -> Entry {
    Entry {
        to,
        from,
        packed: true,
        formats,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    #[test]
    fn every_place_is_taken_once_and_within_usr() {
        let places: BTreeSet<_> = LAYOUT.iter().map(|entry| entry.to).collect();
        assert_eq!(places.len(), LAYOUT.len());
        for entry in LAYOUT {
            assert!(entry.to.starts_with("usr/"), "{}", entry.to);
            assert_eq!(entry.packed, entry.to.ends_with(".gz"), "{}", entry.to);
        }
    }

    #[test]
    fn what_comes_from_the_repository_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for entry in LAYOUT {
            match entry.from {
                Origin::File(path) => assert!(root.join(path).is_file(), "{path}"),
                Origin::Folder(path) => assert!(root.join(path).is_dir(), "{path}"),
                _ => {}
            }
        }
        for path in ELSEWHERE {
            assert!(root.join(path).is_dir(), "{path}");
        }
    }
}
