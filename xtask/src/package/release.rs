//! What is packaged: the binary of a commit, which file is installed where, and the packages made of
//! them by cargo-deb, cargo-generate-rpm and tar.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{image, licences};
use crate::{
    build::{static_flags, static_triple},
    files,
    reproducible::{check_names, registries, remap},
    step::{Step, cargo, run, step},
    toolchain::{Tool, tool},
    workspace::Workspace,
};

const CARGO_DEB: Tool = ("cargo-deb", "3.8.0");
const CARGO_GENERATE_RPM: Tool = ("cargo-generate-rpm", "0.21.1");
const CARGO_CYCLONEDX: Tool = ("cargo-cyclonedx", "0.5.9");
pub(super) const TOOLS: [Tool; 3] = [CARGO_DEB, CARGO_GENERATE_RPM, CARGO_CYCLONEDX];

/// The package's name everywhere.
const NAME: &str = "tcp-status";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Of the package, while its version stays the same.
pub(super) const REVISION: u32 = 1;
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const MAINTAINER: &str = "The tcp-status authors <tcp-status@users.noreply.github.com>";
const MANIFEST: &str = include_str!("manifest.toml");
const LAYOUT: &str = include_str!("layout.txt");

/// Is installed elsewhere than the folder that it is in.
const NOT_IN_FOLDERS: &str = "templates/systemd";

/// What is packaged.
pub(super) struct Release<'a> {
    workspace: &'a Workspace,
    commit: String,
    /// The commit's time, in seconds since 1970: the time of every file.
    epoch: String,
    triple: String,
}

/// What was made of a release.
pub(super) struct Made {
    /// The committed sources, as they were built.
    pub(super) source: PathBuf,
    /// A folder with a tree of installed files for each kind of package.
    pub(super) staged: PathBuf,
    /// The .deb, the .rpm, the tarball, the image, the bill of materials and install.sh.
    pub(super) files: [PathBuf; 6],
}

impl<'a> Release<'a> {
    pub(super) fn of_commit(workspace: &'a Workspace, target: Option<&str>) -> Result<Self> {
        let git = |args: &str| {
            let read = step!("git", args).folder(&workspace.root).read();
            read.context("packages are made of a commit; run this in a git checkout")
        };
        let changed = git("status --porcelain")?;
        if !changed.is_empty() {
            eprintln!("warning: not committed, and so not packaged:\n{changed}");
        }
        let release = Self {
            workspace,
            commit: git("rev-parse HEAD")?,
            epoch: git("log -1 --format=%ct HEAD")?,
            triple: target.map_or_else(|| static_triple(workspace), str::to_owned),
        };
        release.architecture()?;
        Ok(release)
    }

    /// RPM's and the kernel's name for the machine.
    fn machine(&self) -> &str {
        self.triple.split('-').next().unwrap_or_default()
    }

    /// Debian's name for it.
    fn architecture(&self) -> Result<&'static str> {
        match self.machine() {
            "x86_64" => Ok("amd64"),
            "aarch64" => Ok("arm64"),
            other => {
                bail!("cannot package for {other}: the eBPF programs are for x86-64 and arm64")
            }
        }
    }

    /// One of cargo's subcommands, which takes the release's time from its environment.
    pub(super) fn tool(&self, name: Tool) -> Step {
        step!(tool(self.workspace, name)).env("SOURCE_DATE_EPOCH", &self.epoch)
    }

    /// Makes all packages below `work`. Only what cargo built before may be there.
    pub(super) fn make(&self, work: &Path) -> Result<Made> {
        let (source, target) = (work.join("source"), work.join("target"));
        let (staged, packages) = (work.join("stage"), work.join("packages"));
        for folder in [&source, &staged, &packages] {
            files::remove(folder)?;
            files::create_folder(folder)?;
        }
        let archive = work.join("source.tar");
        step!("git archive --format=tar --output", &archive, &self.commit)
            .folder(&self.workspace.root)
            .run()?;
        run!("tar --extract --file", archive, "--directory", &source)?;
        let binary = build(&self.triple, &source, &target)?;
        // A binary that runs here, for what only the binary can print.
        let host = static_triple(self.workspace);
        let printer = if host.split('-').next() == Some(self.machine()) {
            binary.clone()
        } else {
            build(&host, &source, &target)?
        };
        let bill = self.bill(&source, &packages)?;

        let made = staged.join("made");
        files::copy(binary, made.join("tcp-status"))?;
        files::copy(&bill, made.join("bill"))?;
        for (name, words) in [
            ("man", "man"),
            ("bash", "completions bash"),
            ("zsh", "completions zsh"),
            ("fish", "completions fish"),
        ] {
            let printed = step!(&printer, words).bytes()?;
            ensure!(!printed.is_empty(), "{words} printed nothing");
            files::write(made.join(name), printed)?;
        }
        let notices = licences::notices(&source, NAME, &self.triple)?;
        files::write(made.join("notices"), notices)?;
        files::write(made.join("changelog"), self.changelog()?)?;
        for (from, to, kinds) in layout() {
            let root = if from.starts_with("made/") {
                &staged
            } else {
                &source
            };
            for kind in kinds {
                install(&root.join(from), &staged.join(kind).join("usr").join(to))?;
            }
        }
        Ok(Made {
            files: [
                self.deb(REVISION, &staged, &packages)?,
                self.rpm(REVISION, &staged, &packages)?,
                self.tarball(&staged, &packages)?,
                self.image(&staged, &packages)?,
                bill,
                source.join("deploy/install.sh"),
            ],
            source,
            staged,
        })
    }

    /// Writes the bill of materials (CycloneDX) of the binary into `folder`.
    fn bill(&self, source: &Path, folder: &Path) -> Result<PathBuf> {
        let package = source.join(NAME);
        // It leaves a bill beside every manifest of the workspace, in this copy of it.
        self.tool(CARGO_CYCLONEDX)
            .with("cyclonedx --format json --describe binaries --no-build-deps --quiet --target")
            .with(&self.triple)
            .folder(&package)
            .run()?;
        let text = files::read_text(package.join(format!("{NAME}_bin.cdx.json")))?;
        let bill = folder.join(format!("{NAME}-{VERSION}-{}.cdx.json", self.machine()));
        files::write(
            &bill,
            text.replace(&*source.to_string_lossy(), "/tcp-status"),
        )?;
        Ok(bill)
    }

    /// Debian's own, which names the package's version; what is new stands in the other one.
    fn changelog(&self) -> Result<String> {
        let date = step!("date --utc --rfc-email", format!("--date=@{}", self.epoch));
        let date = date.env("LC_ALL", "C").read()?;
        Ok(format!(
            "{NAME} ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  * Version {VERSION} of \
             tcp-status: see changelog.gz.\n\n -- {MAINTAINER}  {date}\n"
        ))
    }

    pub(super) fn deb(&self, revision: u32, staged: &Path, to: &Path) -> Result<PathBuf> {
        let architecture = self.architecture()?;
        let deb = to.join(format!("{NAME}_{VERSION}-{revision}_{architecture}.deb"));
        self.tool(CARGO_DEB)
            .with("--quiet --no-build --no-strip --target")
            .with(&self.triple)
            .with("--output")
            .with(&deb)
            .folder(manifest(revision, staged)?)
            .run()?;
        Ok(deb)
    }

    pub(super) fn rpm(&self, revision: u32, staged: &Path, to: &Path) -> Result<PathBuf> {
        let machine = self.machine();
        let rpm = to.join(format!("{NAME}-{VERSION}-{revision}.{machine}.rpm"));
        self.tool(CARGO_GENERATE_RPM)
            .with("generate-rpm --arch")
            .with(machine)
            .with("--output")
            .with(&rpm)
            .folder(manifest(revision, staged)?)
            .run()?;
        Ok(rpm)
    }

    /// Everything below one folder, with `usr/` in it.
    fn tarball(&self, staged: &Path, to: &Path) -> Result<PathBuf> {
        let name = format!("{NAME}-{VERSION}-{}-linux", self.machine());
        let tar = to.join(format!("{name}.tar"));
        self.tar(&tar)
            .with(format!("--transform=s,^rpm,{name},"))
            .with("rpm")
            .folder(staged)
            .run()?;
        run!("gzip -9 -n -f", &tar)?;
        Ok(tar.with_extension("tar.gz"))
    }

    /// An OCI layout in a tar archive, as `podman load` takes it.
    fn image(&self, staged: &Path, to: &Path) -> Result<PathBuf> {
        let (root, layout) = (staged.join("image"), staged.join("oci"));
        let layer = staged.join("layer.tar");
        self.tar(&layer).with("usr").folder(root).run()?;
        let labels = [
            ("title", NAME),
            ("version", VERSION),
            ("revision", &self.commit),
            ("source", REPOSITORY),
            ("licenses", env!("CARGO_PKG_LICENSE")),
        ];
        image::write(
            &image_name(),
            &layer,
            self.architecture()?,
            &labels,
            &layout,
        )?;
        let image = to.join(format!("{NAME}-{VERSION}-{}.oci.tar", self.machine()));
        self.tar(&image)
            .with("blobs index.json oci-layout")
            .folder(layout)
            .run()?;
        Ok(image)
    }

    /// Makes an archive whose bytes depend on the names and the contents of files only.
    fn tar(&self, archive: &Path) -> Step {
        step!("tar --create --sort=name --format=gnu --mode=go=rX,u+rw,a-s")
            .with("--owner=0 --group=0 --numeric-owner")
            .with(format!("--mtime=@{}", self.epoch))
            .with("--file")
            .with(archive)
    }
}

/// The name of the image, as in `ghcr.io/OWNER/NAME:VERSION`.
pub(super) fn image_name() -> String {
    let owner = REPOSITORY.trim_start_matches("https://github.com/");
    format!("ghcr.io/{owner}:{VERSION}")
}

/// Builds the binary with every folder of this machine under another name, so that the bytes are
/// the same elsewhere.
fn build(triple: &str, source: &Path, target: &Path) -> Result<PathBuf> {
    eprintln!(
        "building {NAME}, static, for {triple}, of {}",
        source.display()
    );
    let mut folders = registries()?;
    folders.push((source.to_owned(), "/tcp-status"));
    let mut flags = vec![static_flags(), OsString::from("-Cstrip=symbols")];
    flags.extend(remap(&folders));
    step!(cargo(), "build --locked --release --package", NAME)
        .with("--target")
        .with(triple)
        .with("--target-dir")
        .with(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f".as_ref()))
        .folder(source)
        .run()?;
    let binary = target.join(triple).join("release").join(NAME);
    check_names(&binary, &folders)?;
    Ok(binary)
}

/// The lines of [`LAYOUT`]: from, to, kinds of packages.
fn layout() -> impl Iterator<Item = (&'static str, &'static str, Vec<&'static str>)> {
    let lines = LAYOUT.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?, words.collect()))
    })
}

/// The installed files of a kind of package, below its root.
pub(super) fn installed(staged: &Path, kind: &str) -> Result<Vec<PathBuf>> {
    let root = staged.join(kind);
    let below = files::walk(&root)?
        .into_iter()
        .filter(|path| path.is_file());
    let inside = |path: PathBuf| Some(path.strip_prefix(&root).ok()?.to_owned());
    Ok(below.filter_map(inside).collect())
}

/// The folder of a manifest that lists the installed files.
fn manifest(revision: u32, staged: &Path) -> Result<PathBuf> {
    let assets = |kind: &str, line: fn(&Path, &Path, &str) -> String| -> Result<String> {
        let line = |to: &PathBuf| {
            let mode = if to.starts_with("usr/bin") {
                "755"
            } else {
                "644"
            };
            line(&staged.join(kind).join(to), to, mode)
        };
        Ok(installed(staged, kind)?.iter().map(line).collect())
    };
    let deb = assets("deb", |from, to, mode| {
        format!("    [{from:?}, {to:?}, {mode:?}],\n")
    })?;
    let rpm = assets("rpm", |from, to, mode| {
        let doc = to.starts_with("usr/share/doc") || to.starts_with("usr/share/man");
        let to = Path::new("/").join(to);
        format!("    {{ source = {from:?}, dest = {to:?}, mode = {mode:?}, doc = {doc} }},\n")
    })?;
    let revision = revision.to_string();
    let words = [
        ("@VERSION@", VERSION),
        ("@REVISION@", &revision),
        ("@REPOSITORY@", REPOSITORY),
        ("@MAINTAINER@", MAINTAINER),
        ("@DEB_ASSETS@", &deb),
        ("@RPM_ASSETS@", &rpm),
    ];
    let text = files::fill(MANIFEST, &words);
    let folder = staged.join("manifest");
    files::create_folder(folder.join("scripts"))?;
    files::write(folder.join("Cargo.toml"), text)?;
    files::write(
        folder.join("lib.rs"),
        "//! Empty: everything is built already.\n",
    )?;
    Ok(folder)
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
        run!("gzip -9 -n", plain)?;
    } else {
        files::copy(from, to)?;
    }
    let is_program = to.parent().is_some_and(|folder| folder.ends_with("bin"));
    files::set_mode(to, if is_program { 0o755 } else { 0o644 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_the_repository_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (from, to, kinds) in layout() {
            assert!(
                from.starts_with("made/") || root.join(from).exists(),
                "{from}"
            );
            assert!(
                !kinds.is_empty()
                    && kinds
                        .iter()
                        .all(|kind| ["deb", "rpm", "image"].contains(kind)),
                "{to}"
            );
        }
        assert!(root.join(NOT_IN_FOLDERS).is_dir());
    }

    #[test]
    fn folders_are_installed_whole_but_for_what_has_a_place_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let staged = root.path().join("stage");
        for path in ["zabbix/b.xml", "zabbix/a/c.conf", "systemd/x.service"] {
            let path = root.path().join("templates").join(path);
            files::create_folder(path.parent().unwrap()).unwrap();
            files::write(path, "").unwrap();
        }
        install(&root.path().join("templates"), &staged.join("deb")).unwrap();
        let found = installed(&staged, "deb").unwrap();
        assert_eq!(found, ["zabbix/a/c.conf", "zabbix/b.xml"].map(Path::new));
    }
}
