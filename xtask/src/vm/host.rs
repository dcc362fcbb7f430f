//! What every machine is made of: the kernels, a static busybox, QEMU, and KVM where it works.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    kernels::{self, Kernel, SUITES, Version},
    machine::{self, Accel, Machine},
};
use crate::{
    apt::{self, Apt},
    files,
    toolchain::exists,
    workspace::Workspace,
};

/// Programs beside Debian's own, and the packages that contain them.
const PROGRAMS: [(&str, &str); 2] = [(machine::PROGRAM, "qemu-system-x86"), ("xz", "xz-utils")];

/// How long each test binary may take: the longest needs 15 minutes, emulated on a host that is idle.
pub(super) const TEST_LIMIT: Duration = Duration::from_mins(45);

/// Tests report only when they end. Emulated, on a host that is idle, the longest takes a minute.
const SILENCE: Duration = Duration::from_mins(5);

/// What a machine may take beside its longest test binary, which is killed when its time is over.
pub(super) const REST: Duration = Duration::from_mins(5);

/// Of a machine that is suspended: QEMU 10.0 does not wake an emulated one that has more, whose
/// processors leave the firmware's code on their way.
pub(super) const SUSPENDED_PROCESSORS: u32 = 1;

/// Of all other machines: so interrupts and processes are truly at the same time.
pub(super) const PROCESSORS: u32 = 2;

/// In MiB: enough for any of the tests.
const MEMORY: u32 = 1024;

pub(super) const INIT: &str = include_str!("init.sh");

/// The last line of [`INIT`].
const DONE: &str = "##vm done";

/// A machine with KVM that works needs two seconds.
const KVM_LIMIT: Duration = Duration::from_secs(20);

/// What every machine is made of.
pub(super) struct Host {
    /// For everything that is kept and logged.
    pub(super) folder: PathBuf,
    kernels: Vec<Kernel>,
    busybox: PathBuf,
}

impl Host {
    /// Gets the kernels, and what else is needed, unless it is there already.
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
        let mut device = fs::File::options();
        if device.read(true).write(true).open("/dev/kvm").is_err() {
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
                let mut machine = self.machine(kernel, "kvm", INIT)?;
                machine.accel = Accel::Kvm;
                (machine.silence, machine.limit) = (KVM_LIMIT, KVM_LIMIT);
                machine.write("plan", "NAME=kvm TESTS=")?;
                machine.pack()?;
                let mut works = false;
                machine.run(|line, _| {
                    works |= line == DONE;
                    works
                })?;
                let word = if works { "works" } else { "hangs" };
                eprintln!("KVM {word}");
                files::write(&answer, format!("{boot}{word}"))?;
                works
            }
        };
        Ok(if works { Accel::Kvm } else { Accel::Tcg })
    }

    /// A machine whose initramfs has busybox, the kernel's modules and the first process, a shell
    /// script; more can be added before it is packed. `name` is that of its files.
    pub(super) fn machine(&self, kernel: &Kernel, name: &str, init: &str) -> Result<Machine> {
        let machine = Machine {
            tree: tempfile::tempdir().context("cannot create a temporary folder")?,
            busybox: self.busybox.clone(),
            image: kernel.image.clone(),
            initramfs: self.folder.join(format!("{name}.initramfs")),
            log: self.folder.join(format!("{name}.log")),
            cpus: PROCESSORS,
            hotplug_cpus: 0,
            memory: MEMORY,
            accel: Accel::Tcg,
            silence: SILENCE,
            limit: TEST_LIMIT + REST,
        };
        machine.write("init", init)?;
        files::set_mode(&machine.tree.path().join("init"), 0o755)?;
        machine.copy(&self.busybox, "bin/busybox")?;
        for (number, module) in kernel.modules.iter().enumerate() {
            machine.copy(module, &format!("modules/{number}.ko"))?;
        }
        Ok(machine)
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
    let packages = packages.join(" ");
    ensure!(
        install || packages.is_empty(),
        "cannot find programs of {packages}; add --install, or run: apt-get install {packages}"
    );
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
    if !path.is_file() {
        let versions = apt.versions(PACKAGE)?;
        let version = versions.first().context("no package busybox-static")?;
        let tree = folder.join("tree");
        apt.fetch(PACKAGE, version, &tree)?;
        // In /bin or, since Debian 13, in /usr/bin.
        let unpacked = ["usr/bin/busybox", "bin/busybox"].map(|place| tree.join(place));
        let unpacked = unpacked.iter().find(|path| path.is_file());
        files::rename(unpacked.context("busybox-static holds no busybox")?, &path)?;
        files::remove(&tree)?;
    }
    Ok(path)
}
