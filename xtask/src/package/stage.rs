//! Which file of a package is installed where, and the packages made of them: by cargo-deb,
//! cargo-generate-rpm and tar.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{
    licences,
    release::{CARGO_DEB, CARGO_GENERATE_RPM, NAME, Release, VERSION},
};
use crate::{files, step::Step};

const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const MAINTAINER: &str = "The tcp-status authors <tcp-status@users.noreply.github.com>";
const MANIFEST: &str = include_str!("manifest.toml");

/// The kinds of trees; the tarball has that of the .rpm.
const BOTH: &[&str] = &["deb", "rpm"];
const DEB: &[&str] = &["deb"];
const RPM: &[&str] = &["rpm"];

/// What is printed or computed, below this name; everything else is of the repository.
const MADE: &str = "made/";

/// Where each file, or everything in a folder, is installed, below /usr. A name that ends in .gz is
/// compressed.
const LAYOUT: &[(&str, &str, &[&str])] = &[
    ("made/tcp-status", "bin/tcp-status", BOTH),
    (
        "templates/systemd/tcp-status.service",
        "lib/systemd/system/tcp-status.service",
        BOTH,
    ),
    (
        "templates/systemd/tcp-status.sysusers",
        "lib/sysusers.d/tcp-status.conf",
        BOTH,
    ),
    (
        "templates/systemd/tcp-status.tmpfiles",
        "lib/tmpfiles.d/tcp-status.conf",
        BOTH,
    ),
    ("made/man", "share/man/man8/tcp-status.8.gz", BOTH),
    (
        "made/bash",
        "share/bash-completion/completions/tcp-status",
        BOTH,
    ),
    ("made/zsh", "share/zsh/vendor-completions/_tcp-status", DEB),
    ("made/zsh", "share/zsh/site-functions/_tcp-status", RPM),
    (
        "made/fish",
        "share/fish/vendor_completions.d/tcp-status.fish",
        BOTH,
    ),
    // What is connected to the tracker lies here until somebody connects it.
    ("templates", "share/tcp-status", BOTH),
    ("README.md", "share/doc/tcp-status/README.md", BOTH),
    ("SECURITY.md", "share/doc/tcp-status/SECURITY.md", BOTH),
    ("docs", "share/doc/tcp-status/docs", BOTH),
    ("CHANGELOG.md", "share/doc/tcp-status/CHANGELOG.md", RPM),
    ("CHANGELOG.md", "share/doc/tcp-status/changelog.gz", DEB),
    (
        "made/changelog",
        "share/doc/tcp-status/changelog.Debian.gz",
        DEB,
    ),
    ("made/notices", "share/doc/tcp-status/NOTICES.gz", BOTH),
    ("made/bill", "share/doc/tcp-status/sbom.cdx.json.gz", BOTH),
    (
        "xtask/src/package/copyright",
        "share/doc/tcp-status/copyright",
        DEB,
    ),
    (
        "xtask/src/package/lintian-overrides",
        "share/lintian/overrides/tcp-status",
        DEB,
    ),
    ("LICENSE-MIT", "share/licenses/tcp-status/LICENSE-MIT", RPM),
    (
        "LICENSE-APACHE",
        "share/licenses/tcp-status/LICENSE-APACHE",
        RPM,
    ),
    (
        "LICENSE-GPL2",
        "share/licenses/tcp-status/LICENSE-GPL2",
        RPM,
    ),
];

/// Has a place of its own.
const NOT_IN_FOLDERS: &str = "templates/systemd";

/// A folder with a tree of installed files for each kind of package.
pub(super) struct Stage {
    folder: PathBuf,
}

impl Stage {
    pub(super) fn fill(
        release: &Release<'_>,
        revision: u32,
        source: &Path,
        binary: &Path,
        printer: &Path,
        bill: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let made = folder.join(MADE);
        files::copy(binary, made.join("tcp-status"))?;
        files::copy(bill, made.join("bill"))?;
        for (name, words) in [
            ("man", &["man"][..]),
            ("bash", &["completions", "bash"]),
            ("zsh", &["completions", "zsh"]),
            ("fish", &["completions", "fish"]),
        ] {
            let printed = Step::new(printer).args(words.iter().copied()).bytes()?;
            ensure!(!printed.is_empty(), "{words:?} printed nothing");
            files::write(made.join(name), printed)?;
        }
        files::write(
            made.join("notices"),
            licences::notices(source, &release.triple)?,
        )?;
        files::write(made.join("changelog"), changelog(release, revision)?)?;
        for &(from, to, kinds) in LAYOUT {
            let root = if from.starts_with(MADE) {
                folder
            } else {
                source
            };
            for kind in kinds {
                install(&root.join(from), &folder.join(kind).join("usr").join(to))?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The installed files of a kind of package, below its root.
    pub(super) fn installed(&self, kind: &str) -> Result<Vec<PathBuf>> {
        let root = self.folder.join(kind);
        let below = files::walk(&root)?
            .into_iter()
            .filter(|path| path.is_file());
        Ok(below
            .filter_map(|path| Some(path.strip_prefix(&root).ok()?.to_owned()))
            .collect())
    }

    pub(super) fn deb(&self, release: &Release<'_>, revision: u32, to: &Path) -> Result<PathBuf> {
        let architecture = release.architecture()?;
        let deb = to.join(format!("{NAME}_{VERSION}-{revision}_{architecture}.deb"));
        release
            .tool(CARGO_DEB)
            .args([
                "--quiet",
                "--no-build",
                "--no-strip",
                "--target",
                &release.triple,
            ])
            .arg("--output")
            .arg(&deb)
            .folder(self.manifest(revision)?)
            .run()?;
        Ok(deb)
    }

    pub(super) fn rpm(&self, release: &Release<'_>, revision: u32, to: &Path) -> Result<PathBuf> {
        let machine = release.machine();
        let rpm = to.join(format!("{NAME}-{VERSION}-{revision}.{machine}.rpm"));
        release
            .tool(CARGO_GENERATE_RPM)
            .args(["generate-rpm", "--arch", machine, "--output"])
            .arg(&rpm)
            .folder(self.manifest(revision)?)
            .run()?;
        Ok(rpm)
    }

    /// Everything below one folder, with `usr/` in it.
    pub(super) fn tarball(&self, release: &Release<'_>, to: &Path) -> Result<PathBuf> {
        let name = format!("{NAME}-{VERSION}-{}-linux", release.machine());
        let tar = to.join(format!("{name}.tar"));
        Step::new("tar")
            .args([
                "--create",
                "--sort=name",
                "--format=gnu",
                "--mode=go=rX,u+rw,a-s",
            ])
            .args(["--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", release.epoch))
            .arg(format!("--transform=s,^rpm,{name},"))
            .arg("--file")
            .arg(&tar)
            .arg("rpm")
            .folder(&self.folder)
            .run()?;
        Step::new("gzip").args(["-9", "-n", "-f"]).arg(&tar).run()?;
        Ok(tar.with_extension("tar.gz"))
    }

    /// The folder of a manifest that lists the installed files.
    fn manifest(&self, revision: u32) -> Result<PathBuf> {
        let assets = |kind: &str, line: fn(&Path, &Path, &str) -> String| -> Result<String> {
            let line = |to: &PathBuf| {
                let mode = if to.starts_with("usr/bin") {
                    "755"
                } else {
                    "644"
                };
                line(&self.folder.join(kind).join(to), to, mode)
            };
            Ok(self.installed(kind)?.iter().map(line).collect())
        };
        let deb = assets("deb", |from, to, mode| {
            format!("    [{from:?}, {to:?}, {mode:?}],\n")
        })?;
        let rpm = assets("rpm", |from, to, mode| {
            let doc = to.starts_with("usr/share/doc") || to.starts_with("usr/share/man");
            let to = Path::new("/").join(to);
            format!("    {{ source = {from:?}, dest = {to:?}, mode = {mode:?}, doc = {doc} }},\n")
        })?;
        let text = MANIFEST
            .replace("@VERSION@", VERSION)
            .replace("@REVISION@", &revision.to_string())
            .replace("@REPOSITORY@", REPOSITORY)
            .replace("@MAINTAINER@", MAINTAINER)
            .replace("@DEB_ASSETS@", &deb)
            .replace("@RPM_ASSETS@", &rpm);
        let folder = self.folder.join("manifest");
        files::create_folder(folder.join("scripts"))?;
        files::write(folder.join("Cargo.toml"), text)?;
        files::write(
            folder.join("lib.rs"),
            "//! Empty: everything is built already.\n",
        )?;
        Ok(folder)
    }
}

/// Copies a file, or everything in a folder, and compresses it if its name says so.
fn install(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for path in files::list(from)? {
            let name = path.file_name().context("a file without a name")?;
            if !path.ends_with(NOT_IN_FOLDERS) {
                install(&path, &to.join(name))?;
            }
        }
        return Ok(());
    }
    if to.extension().is_some_and(|extension| extension == "gz") {
        let plain = to.with_extension("");
        files::copy(from, &plain)?;
        // Without name and time.
        Step::new("gzip").args(["-9", "-n"]).arg(&plain).run()?;
    } else {
        files::copy(from, to)?;
    }
    let mode = if to.parent().is_some_and(|folder| folder.ends_with("bin")) {
        0o755
    } else {
        0o644
    };
    files::set_mode(to, mode)
}

/// Debian's own, which names the package's version; what is new stands in the other one.
fn changelog(release: &Release<'_>, revision: u32) -> Result<String> {
    let date = Step::new("date")
        .args(["--utc", "--rfc-email"])
        .arg(format!("--date=@{}", release.epoch))
        .env("LC_ALL", "C")
        .read()?;
    Ok(format!(
        "{NAME} ({VERSION}-{revision}) unstable; urgency=medium\n\n  * Version {VERSION} of \
         tcp-status: see changelog.gz.\n\n -- {MAINTAINER}  {date}"
    ))
}

/// What came out of one building.
pub(super) struct Made {
    /// The committed sources, as they were built.
    pub(super) source: PathBuf,
    pub(super) stage: Stage,
    /// The .deb, the .rpm, the tarball and the bill of materials.
    pub(super) files: [PathBuf; 4],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_repository_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (from, ..) in LAYOUT.iter().filter(|(from, ..)| !from.starts_with(MADE)) {
            assert!(root.join(from).exists(), "{from}");
        }
        assert!(root.join(NOT_IN_FOLDERS).is_dir());
    }

    #[test]
    fn folders_are_installed_whole_but_for_what_has_a_place_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let stage = Stage {
            folder: root.path().join("stage"),
        };
        for path in ["zabbix/b.xml", "zabbix/a/c.conf", "systemd/x.service"] {
            let path = root.path().join("templates").join(path);
            files::create_folder(path.parent().unwrap()).unwrap();
            files::write(path, "").unwrap();
        }
        install(&root.path().join("templates"), &stage.folder.join("deb")).unwrap();
        let found = stage.installed("deb").unwrap();
        assert_eq!(found, ["zabbix/a/c.conf", "zabbix/b.xml"].map(Path::new));
    }
}
