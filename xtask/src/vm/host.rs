//! What every machine is made of: the kernels, a static busybox, QEMU, and KVM where it works.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    kernels::{self, Kernel, SUITES, Version},
    machine::{self, Accel, Machine, Tree},
    report::Report,
};
use crate::{
    apt::{self, Apt},
    files,
    toolchain::exists,
    workspace::Workspace,
};

/// Programs beside Debian's own, and the packages that contain them.
pub(super) const PROGRAMS: [(&str, &str); 2] =
    [(machine::PROGRAM, "qemu-system-x86"), ("xz", "xz-utils")];

/// How long each test binary may take: the longest needs 15 minutes, emulated on a host that is idle.
pub(super) const TEST_LIMIT: Duration = Duration::from_mins(45);

/// Tests report only when they end. Emulated, on a host that is idle, the longest takes a minute.
pub(super) const SILENCE: Duration = Duration::from_mins(5);

/// What a machine may take beside its longest test binary, which is killed when its time is over.
pub(super) const REST: Duration = Duration::from_mins(5);

/// Of a machine that is suspended: QEMU 10.0 does not wake an emulated one that has more, whose
/// processors leave the firmware's code on their way.
pub(super) const SUSPENDED_PROCESSORS: u32 = 1;

/// Of all other machines: so interrupts and processes are truly at the same time.
pub(super) const PROCESSORS: u32 = 2;

pub(super) const INIT: &str = include_str!("init.sh");

/// A machine with KVM that works needs two seconds.
const KVM_LIMIT: Duration = Duration::from_secs(20);

/// What every machine is made of.
pub(super) struct Host {
    /// For everything that is kept and logged.
    pub(super) folder: PathBuf,
    pub(super) kernels: Vec<Kernel>,
    pub(super) busybox: PathBuf,
}

impl Host {
    /// Gets the kernels, and what else `command` needs, unless it is there already.
    pub(super) fn new(workspace: &Workspace, versions: &[Version], install: bool) -> Result<Self> {
        provide(workspace, &PROGRAMS, install)?;
        let folder = workspace.target.join("vm");
        files::create_folder(folder.join("runs"))?;
        let apt = Apt::new(folder.join("apt"), &SUITES)?;
        Ok(Self {
            kernels: kernels::get(&apt, &folder.join("kernels"), versions)?,
            busybox: busybox(&apt, &folder.join("busybox"))?,
            folder,
        })
    }

    pub(super) fn kernel(&self, version: &Version) -> Result<&Kernel> {
        let mut kernels = self.kernels.iter();
        let found = kernels.find(|kernel| kernel.version == *version);
        found.with_context(|| format!("no kernel {version}"))
    }

    /// KVM if a machine boots with it, because on some hosts it is there, and hangs. The answer
    /// serves until the host boots again.
    pub(super) fn accel(&self) -> Result<Accel> {
        if fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return Ok(Accel::Tcg);
        }
        let answer = self.folder.join("kvm");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = fs::read_to_string(&answer).unwrap_or_default();
        let works = match known.strip_prefix(&boot) {
            Some(known) => known == "works",
            None => {
                eprintln!("trying KVM, for at most {} s", KVM_LIMIT.as_secs());
                let kernel = self.kernels.first().context("no kernel")?;
                let initramfs = self.folder.join("kvm.initramfs");
                let tree = Tree::new(&self.busybox, kernel, INIT)?;
                tree.write("plan", "NAME=kvm TESTS=")?;
                tree.pack(&initramfs)?;
                let mut report = Report::default();
                let log = self.folder.join("kvm.log");
                Machine {
                    accel: Accel::Kvm,
                    silence: KVM_LIMIT,
                    limit: KVM_LIMIT,
                    ..self.machine(kernel, &initramfs, &log)
                }
                .run(|line, now| {
                    report.line(line, now);
                    report.done
                })?;
                files::remove(&initramfs)?;
                let word = if report.done { "works" } else { "hangs" };
                eprintln!("KVM {word}");
                files::write(&answer, format!("{boot}{word}"))?;
                report.done
            }
        };
        Ok(if works { Accel::Kvm } else { Accel::Tcg })
    }

    pub(super) fn machine<'a>(
        &self,
        kernel: &'a Kernel,
        initramfs: &'a Path,
        log: &'a Path,
    ) -> Machine<'a> {
        Machine {
            kernel,
            initramfs,
            log,
            cpus: PROCESSORS,
            room: 0,
            memory: machine::MEMORY,
            accel: Accel::Tcg,
            silence: SILENCE,
            limit: TEST_LIMIT + REST,
        }
    }
}

/// Makes sure of the programs that are needed.
pub(super) fn provide(
    workspace: &Workspace,
    programs: &[(&str, &str)],
    install: bool,
) -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "virtual machines run on x86-64 only: tests and kernels are for the machine they run on"
    );
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        ensure!(
            exists(program),
            "cannot get kernels: no {program}; run this on Debian or in its container"
        );
    }
    let missing = programs.iter().filter(|(program, _)| !exists(program));
    let packages: Vec<_> = missing.map(|&(_, package)| package).collect();
    if !install && !packages.is_empty() {
        let packages = packages.join(" ");
        bail!(
            "cannot find programs of {packages}; add --install, or run: apt-get install {packages}"
        );
    }
    if packages.is_empty() {
        return Ok(());
    }
    let release = apt::host_release().context("cannot install packages: not Debian")?;
    let backports = format!("{release}-backports");
    Apt::new(
        workspace.target.join("vm/apt-host"),
        &[&release, &backports],
    )?
    .install(&packages)
}

/// A static busybox, from its package: the host's own may be missing or not static.
fn busybox(apt: &Apt, folder: &Path) -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let path = folder.join("busybox");
    if path.is_file() {
        return Ok(path);
    }
    let tree = folder.join("tree");
    files::create_folder(&tree)?;
    let versions = apt.versions(PACKAGE)?;
    let version = versions.first().context("no package busybox-static")?;
    let deb = apt.download(PACKAGE, version, folder)?;
    apt::unpack(&deb, &tree)?;
    // In /bin or, since Debian 13, in /usr/bin.
    let unpacked = ["usr/bin/busybox", "bin/busybox"].map(|place| tree.join(place));
    let unpacked = unpacked.iter().find(|path| path.is_file());
    files::rename(unpacked.context("busybox-static holds no busybox")?, &path)?;
    files::remove(&tree)?;
    files::remove(&deb)?;
    Ok(path)
}
