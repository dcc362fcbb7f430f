//! `cargo xtask package`: a .deb, a .rpm, a tarball and an image of the committed sources, the same bytes
//! wherever they are made, and the checks that they have to pass before anybody installs one.

mod image;
mod licences;
mod release;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::release::{Made, REVISION, Release};
use crate::{
    files,
    object::digest,
    step::{Step, cargo, run, step},
    test_totals::{Outcome, TestTotals},
    toolchain::{Tool, apt_install, exists, provide_tools},
    vm::trial,
    workspace::Workspace,
};

/// Programs of the system: without them, the checks that need them are skipped.
const PROGRAMS: &str = "lintian rpm";

/// What containers are tried with.
const RUNTIME: &str = "podman runc";

const CARGO_DENY: Tool = ("cargo-deny", "0.20.2");

/// What cargo-deny prints when it cannot look for known vulnerabilities.
const NO_DATABASE: &str = "failed to fetch advisory database";

/// Where cargo-deny fetches them from, by git.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// Install what is missing (Debian, as root, and by cargo below its target folder)
    #[arg(long)]
    install: bool,
    /// For another machine, like aarch64-unknown-linux-gnu [default: this one]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Build a second time, in another folder and from nothing, and compare
    #[arg(long)]
    reproduce: bool,
    /// A clone of github.com/RustSec/advisory-db, where there is no network to fetch it
    #[arg(long, value_name = "FOLDER")]
    advisories: Option<PathBuf>,
    /// Install, upgrade and remove: in a scratch root, and in a virtual machine with systemd
    #[arg(long = "try")]
    trial: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &PackageArgs) -> Result<ExitCode> {
    provide_tools(workspace, &release::TOOLS, args.install)?;
    provide_tools(workspace, &[CARGO_DENY], args.install)?;
    if args.install {
        apt_install(PROGRAMS)?;
    }
    let release = Release::of_commit(workspace, args.target.as_deref())?;
    let folder = workspace.target.join("package");
    let work = folder.join("work");
    let made = release.make(&work)?;
    let mut sums = String::new();
    for path in &made.files {
        let name = path.file_name().unwrap_or_default();
        files::copy(path, folder.join(name))?;
        sums += &format!("{}  {}\n", digest(&files::read(path)?), name.display());
    }
    files::write(folder.join("SHA256SUMS"), &sums)?;

    let mut totals = TestTotals::default();
    check_contents(&made, &mut totals);
    check_dependencies(
        &release,
        &made.source,
        args.advisories.as_deref(),
        &mut totals,
    );
    totals.check("crates", || {
        step!(
            cargo(),
            "publish --dry-run --locked --package tcp-status-common --package tcp-status --target-dir",
            work.join("crates")
        )
        .folder(&made.source)
        .run()
    });
    if args.reproduce {
        totals.check("reproduced", || {
            let again = folder.join("again");
            let second = release.make(&again)?;
            for (one, other) in made.files.iter().zip(&second.files) {
                ensure!(
                    files::read(one)? == files::read(other)?,
                    "{} and {} differ; `diffoscope` shows where",
                    one.display(),
                    other.display()
                );
            }
            files::remove(&again)
        });
    }
    if args.trial {
        if args.install {
            apt_install(RUNTIME)?;
        }
        totals.check("the image in a container", || {
            let seccomp = made.source.join("deploy/seccomp.json");
            let [_, _, _, image, ..] = &made.files;
            image::attempt(
                image,
                &release::image_name(),
                &seccomp,
                &work.join("podman"),
            )
        });
        let upgrade = work.join("upgrade");
        files::create_folder(&upgrade)?;
        let [deb, rpm, tarball, _, _, installer] = made.files.clone();
        let packages = trial::Packages {
            deb,
            rpm,
            next_deb: release.deb(REVISION + 1, &made.staged, &upgrade)?,
            next_rpm: release.rpm(REVISION + 1, &made.staged, &upgrade)?,
            tarball,
            installer,
            sums: folder.join("SHA256SUMS"),
        };
        trial::run(workspace, &packages, args.install, &mut totals)?;
    }
    println!("in {}:\n{sums}", folder.display());
    Ok(totals.finish())
}

/// Checks each package with what the system has for its kind: it lists the files that were staged.
fn check_contents(made: &Made, totals: &mut TestTotals) {
    let [deb, rpm, tarball, ..] = &made.files;
    for (kind, path, program, args) in [
        ("deb", deb, "dpkg-deb", "--contents"),
        ("rpm", rpm, "rpm", "-q --list --package"),
        ("rpm", tarball, "tar", "--list --file"),
    ] {
        let name = path.file_name().unwrap_or_default().display();
        totals.check(&format!("files of {name}"), || {
            if !exists(program) {
                return Ok(Outcome::Skipped(format!("no {program} here")));
            }
            let listed = step!(program, args, path).read()?;
            let files = release::installed(&made.staged, kind)?;
            for file in &files {
                let end = format!("/{}", file.display());
                let found = listed.lines().any(|line| line.ends_with(&end));
                ensure!(found, "not in the package: {end}");
            }
            Ok(format!("{} files", files.len()).into())
        });
    }
    totals.check("lintian", || {
        if !exists("lintian") {
            return Ok(Outcome::Skipped("no lintian here".into()));
        }
        run!("lintian --fail-on error,warning --allow-root", deb).map(Outcome::from)
    });
}

/// Compares the dependencies with `deny.toml`, and with the known vulnerabilities in `advisories`
/// or, if none are given, in what the network has.
fn check_dependencies(
    release: &Release<'_>,
    source: &Path,
    advisories: Option<&Path>,
    totals: &mut TestTotals,
) {
    let deny = |args: &str| release.tool(CARGO_DENY).with(args).folder(source);
    totals.check("licences and sources of dependencies", || {
        deny("--log-level error --locked check licenses bans sources").run()
    });
    totals.check("known vulnerabilities of dependencies", || {
        let mut step = deny("--locked check advisories");
        if let Some(clone) = advisories {
            step = fetch_from(step, clone)?;
        }
        let output = step.output(Stdio::piped())?;
        let printed = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(().into());
        }
        if printed.contains(NO_DATABASE) {
            return Ok(Outcome::Skipped(
                "no network to fetch the RustSec database; --advisories takes a clone".into(),
            ));
        }
        bail!("`{step}` failed:\n{printed}")
    });
}

/// Makes git read `clone` instead of fetching the database.
fn fetch_from(step: Step, clone: &Path) -> Result<Step> {
    let clone = fs::canonicalize(clone)
        .with_context(|| format!("cannot find the advisories in {}", clone.display()))?;
    let newest = step!("git log -1 --format=%cs main")
        .folder(&clone)
        .read()?;
    eprintln!("the newest advisory: {newest}");
    let key = format!("url.file://{}.insteadOf", clone.display());
    Ok(step
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", key)
        .env("GIT_CONFIG_VALUE_0", DATABASE))
}
