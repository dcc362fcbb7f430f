//! `cargo xtask package`: a .deb, a .rpm and a tarball of the committed sources, the same bytes
//! wherever they are made, and the checks that they have to pass.

mod check;
mod licences;
mod release;
mod stage;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use xtask::object::digest;

use self::{
    release::{CARGO_CYCLONEDX, CARGO_DEB, CARGO_DENY, CARGO_GENERATE_RPM, NAME, Release, VERSION},
    stage::{Made, Stage},
};
use crate::{
    build::{static_flags, static_triple},
    files,
    reproducible::{check_names, registries, remap},
    step::Step,
    test_totals::{Outcome, TestTotals},
    toolchain::apt_install,
    tools,
    vm::{Version, trial},
    workspace::Workspace,
};

/// Programs of the system: without them, the checks that need them are skipped.
const PROGRAMS: [&str; 2] = ["lintian", "rpm"];

/// Arguments of `package`.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// Install what is missing (Debian, as root, and by cargo below its target folder)
    #[arg(long)]
    install: bool,
    /// For another machine, like aarch64-unknown-linux-gnu [default: this one]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Revision of the package: 2 if it was wrong the first time
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    revision: u32,
    /// Build a second time, in another folder and from nothing, and compare
    #[arg(long)]
    reproduce: bool,
    /// A clone of github.com/RustSec/advisory-db, where there is no network to fetch it
    #[arg(long, value_name = "FOLDER")]
    advisories: Option<PathBuf>,
    /// Install, upgrade and remove: in a scratch root, and in a virtual machine with systemd
    #[arg(long = "try")]
    trial: bool,
    /// The kernel of that machine
    #[arg(long, value_name = "VERSION", default_value = trial::KERNEL, requires = "trial")]
    kernel: Version,
}

pub(crate) fn run(workspace: &Workspace, args: &PackageArgs) -> Result<ExitCode> {
    let needed = [CARGO_DEB, CARGO_GENERATE_RPM, CARGO_CYCLONEDX, CARGO_DENY];
    tools::provide(workspace, &needed, args.install)?;
    if args.install {
        apt_install(&PROGRAMS)?;
    }
    let release = release(workspace, args.target.as_deref())?;
    let folder = workspace.target.join("package");
    let work = folder.join("work");
    let made = make(&release, args.revision, &work)?;
    let mut sums = String::new();
    for path in &made.files {
        let name = path.file_name().unwrap_or_default();
        files::copy(path, folder.join(name))?;
        sums += &format!("{}  {}\n", digest(&files::read(path)?), name.display());
    }
    files::write(folder.join("SHA256SUMS"), sums)?;

    let mut totals = TestTotals::default();
    check::contents(&made, &mut totals);
    check::dependencies(
        &release,
        &made.source,
        args.advisories.as_deref(),
        &mut totals,
    );
    if args.reproduce {
        totals.check("reproduced", || {
            let again = folder.join("again");
            let second = make(&release, args.revision, &again)?;
            for (one, other) in made.files.iter().zip(&second.files) {
                ensure!(
                    files::read(one)? == files::read(other)?,
                    "{} and {} differ; `diffoscope` shows where",
                    one.display(),
                    other.display()
                );
                eprintln!("the same: {}", other.display());
            }
            files::remove(&again)?;
            Ok(Outcome::Passed)
        });
    }
    if args.trial {
        let upgrade = work.join("upgrade");
        files::create_folder(&upgrade)?;
        let [deb, rpm, ..] = made.files.clone();
        let packages = trial::Packages {
            deb,
            rpm,
            next_deb: made.stage.deb(&release, args.revision + 1, &upgrade)?,
            next_rpm: made.stage.rpm(&release, args.revision + 1, &upgrade)?,
        };
        trial::run(
            workspace,
            &packages,
            &args.kernel,
            args.install,
            &mut totals,
        )?;
    }
    for path in &made.files {
        let path = folder.join(path.file_name().unwrap_or_default());
        println!("{}", path.display());
    }
    println!("{totals}");
    Ok(totals.exit_code())
}

fn release<'a>(workspace: &'a Workspace, target: Option<&str>) -> Result<Release<'a>> {
    let git = |args: &[&str]| {
        let step = workspace.at_root(Step::new("git").args(args.iter().copied()));
        let read = step
            .read()
            .context("packages are made of a commit; run this in a git checkout");
        read.map(|line| line.trim_end().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain"])?;
    if !changed.is_empty() {
        eprintln!("warning: not committed, and so not packaged:\n{changed}");
    }
    let release = Release {
        workspace,
        epoch: git(&["log", "-1", "--format=%ct", &commit])?,
        commit,
        triple: target.map_or_else(|| static_triple(workspace), str::to_owned),
    };
    release.architecture()?;
    Ok(release)
}

/// Makes all packages below `work`. Only what cargo built before may be there.
fn make(release: &Release<'_>, revision: u32, work: &Path) -> Result<Made> {
    let (source, target) = (work.join("source"), work.join("target"));
    let (staged, packages) = (work.join("stage"), work.join("packages"));
    for folder in [&source, &staged, &packages] {
        files::remove(folder)?;
        files::create_folder(folder)?;
    }
    let archive = work.join("source.tar");
    let export = Step::new("git")
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive);
    release
        .workspace
        .at_root(export.arg(&release.commit))
        .run()?;
    Step::new("tar")
        .args(["--extract", "--file"])
        .arg(&archive)
        .folder(&source)
        .run()?;
    let binary = build(&release.triple, &source, &target)?;
    // A binary that runs here, for what only the binary can print.
    let host = static_triple(release.workspace);
    let printer = if host.split('-').next() == Some(release.machine()) {
        binary.clone()
    } else {
        build(&host, &source, &target)?
    };
    let bill = bill(release, &source, &packages)?;
    let stage = Stage::fill(
        release, revision, &source, &binary, &printer, &bill, &staged,
    )?;
    Ok(Made {
        files: [
            stage.deb(release, revision, &packages)?,
            stage.rpm(release, revision, &packages)?,
            stage.tarball(release, &packages)?,
            bill,
        ],
        source,
        stage,
    })
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
    let mut flags = static_flags();
    for flag in [OsString::from("-Cstrip=symbols")]
        .into_iter()
        .chain(remap(&folders))
    {
        flags.push("\x1f");
        flags.push(flag);
    }
    Step::cargo()
        .args(["build", "--locked", "--release", "--package", NAME])
        .args(["--target", triple, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .folder(source)
        .run()?;
    let binary = target.join(triple).join("release").join(NAME);
    check_names(&binary, &folders)?;
    Ok(binary)
}

/// Writes the bill of materials (CycloneDX) of the binary into `folder`.
fn bill(release: &Release<'_>, source: &Path, folder: &Path) -> Result<PathBuf> {
    let package = source.join(NAME);
    // It leaves a bill beside every manifest of the workspace, in this copy of it.
    release
        .tool(CARGO_CYCLONEDX)
        .args(["cyclonedx", "--format", "json", "--describe", "binaries"])
        .args(["--no-build-deps", "--target", &release.triple, "--quiet"])
        .folder(&package)
        .run()?;
    let text = files::read_text(package.join(format!("{NAME}_bin.cdx.json")))?;
    let bill = folder.join(format!("{NAME}-{VERSION}-{}.cdx.json", release.machine()));
    files::write(
        &bill,
        text.replace(&*source.to_string_lossy(), "/tcp-status"),
    )?;
    Ok(bill)
}
