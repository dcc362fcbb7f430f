//! Whether KVM works: a machine is booted with it, because on some hosts it is there, and hangs.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    initramfs::{self, Content},
    kernels::Kernel,
    plan::PROCESSORS,
    qemu::{Accel, MEMORY, Machine, Next, Port},
    report::Reader,
};

/// A machine with KVM that works needs two seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The faster way that works. The answer serves until the host boots again.
pub(super) fn best(folder: &Path, kernel: &Kernel, content: &Content<'_>) -> Result<Accel> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accel::Tcg);
    }
    let answer = folder.join("kvm");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if let Ok(known) = fs::read_to_string(&answer)
        && let Some(known) = known.strip_prefix(&boot)
    {
        return Ok(if known == "works" {
            Accel::Kvm
        } else {
            Accel::Tcg
        });
    }
    eprintln!(
        "looking whether KVM works, for at most {} s",
        LIMIT.as_secs()
    );
    let works = works(folder, kernel, content)?;
    let word = if works { "works" } else { "hangs" };
    eprintln!("KVM {word}");
    fs::write(&answer, format!("{boot}{word}"))
        .with_context(|| format!("cannot write {}", answer.display()))?;
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

fn works(folder: &Path, kernel: &Kernel, content: &Content<'_>) -> Result<bool> {
    let initramfs = folder.join("probe.initramfs");
    let nothing = Content {
        tests: &[],
        ..*content
    };
    initramfs::write(&initramfs, kernel, &nothing)?;
    let machine = Machine {
        kernel: &kernel.image,
        initramfs: &initramfs,
        cpus: PROCESSORS,
        room: 0,
        memory: MEMORY,
        accel: Accel::Kvm,
        silence: LIMIT,
        limit: LIMIT,
    };
    let mut reader = Reader::default();
    machine.run(|port, bytes, now| {
        if port == Port::Report {
            reader.take(bytes, now);
        }
        if reader.is_done() {
            Next::Finish
        } else {
            Next::Continue
        }
    })?;
    fs::remove_file(&initramfs)
        .with_context(|| format!("cannot remove {}", initramfs.display()))?;
    Ok(reader.is_done())
}
