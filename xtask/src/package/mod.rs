//! `cargo xtask package`: a .deb, a .rpm and a tarball of the committed sources, the same bytes
//! wherever they are made, and the checks that they have to pass.

mod check;
mod layout;
mod licences;
mod manifest;
mod release;
mod source;
mod stage;
mod supply;
mod tools;
mod write;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::{release::Release, stage::Stage, tools::Tools};
use crate::{
    tally::{Outcome, Tally},
    vm::{Version, trial},
    workspace::Workspace,
};

/// Arguments of `package`.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// Install what is missing (Debian, as root, and by cargo below its target folder)
    #[arg(long)]
    install: bool,
    /// For another machine, like aarch64-unknown-linux-gnu [default: this one]
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Of the same version: 2 if the package was made wrongly the first time
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
    let tools = Tools::provide(workspace, args.install)?;
    let release = Release::new(workspace, args.target.as_deref(), args.revision)?;
    let folder = workspace.target.join("package");
    let work = folder.join("work");
    let made = make(&release, &tools, &work)?;
    let mut kept = Vec::new();
    for path in made.files() {
        kept.push(copy_into(path, &folder)?);
    }
    write::sums(&folder, &kept)?;

    let mut tally = Tally::default();
    check::all(&kept, &mut tally);
    supply::check(&tools, &made.source, args.advisories.as_deref(), &mut tally);
    if args.reproduce {
        tally.check("reproduced", || {
            let again = folder.join("again");
            let second = make(&release, &tools, &again)?;
            let outcome = compare(&made.files(), &second.files());
            fs::remove_dir_all(&again)
                .with_context(|| format!("cannot remove {}", again.display()))?;
            outcome
        });
    }
    if args.trial {
        let upgrade = work.join("upgrade");
        write::fresh(&upgrade)?;
        let next = release.next();
        let packages = trial::Packages {
            deb: trial::Pair {
                first: &made.deb,
                upgrade: &write::deb(&next, &tools, &made.stage, &upgrade)?,
            },
            rpm: trial::Pair {
                first: &made.rpm,
                upgrade: &write::rpm(&next, &tools, &made.stage, &upgrade)?,
            },
        };
        trial::run(workspace, packages, &args.kernel, args.install, &mut tally)?;
    }
    for path in &kept {
        println!("{}", path.display());
    }
    println!("{tally}");
    Ok(tally.exit_code())
}

/// What came out of one building.
struct Made {
    /// The committed sources, as they were built.
    source: PathBuf,
    stage: Stage,
    deb: PathBuf,
    rpm: PathBuf,
    tarball: PathBuf,
    bill: PathBuf,
}

impl Made {
    fn files(&self) -> [&PathBuf; 4] {
        [&self.deb, &self.rpm, &self.tarball, &self.bill]
    }
}

/// Makes all packages below `work`. Only what cargo built before may be there.
fn make(release: &Release, tools: &Tools, work: &Path) -> Result<Made> {
    let source = work.join("source");
    source::export(release, &source)?;
    let binary = source::build(release, &source, &work.join("target"))?;
    let stage = stage::fill(release, tools, &source, &binary, &work.join("stage"))?;
    let packages = work.join("packages");
    write::fresh(&packages)?;
    Ok(Made {
        deb: write::deb(release, tools, &stage, &packages)?,
        rpm: write::rpm(release, tools, &stage, &packages)?,
        tarball: write::tarball(release, &stage, &packages)?,
        bill: copy_into(&stage.bill, &packages)?,
        source,
        stage,
    })
}

fn copy_into(file: &Path, folder: &Path) -> Result<PathBuf> {
    let name = file.file_name().context("a file without a name")?;
    let to = folder.join(name);
    fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(to)
}

/// Whether two buildings made the same bytes.
fn compare(first: &[&PathBuf], second: &[&PathBuf]) -> Result<Outcome> {
    ensure!(first.len() == second.len(), "another number of packages");
    for (one, other) in first.iter().zip(second) {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        ensure!(
            read(one)? == read(other)?,
            "{} and {} differ; `diffoscope` shows in what",
            one.display(),
            other.display()
        );
        eprintln!("the same: {}", other.display());
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_byte_is_a_difference() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let (one, same, other) = (file("1", "ab"), file("2", "ab"), file("3", "aB"));
        compare(&[&one], &[&same]).unwrap();
        let error = compare(&[&one], &[&other]).unwrap_err();
        assert!(error.to_string().ends_with("shows in what"), "{error}");
        compare(&[&one], &[]).unwrap_err();
    }
}
