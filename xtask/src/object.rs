//! The eBPF object: built from source, the same bytes wherever it is built, and kept in the
//! repository with a record of its sources, its bytes and its compiler.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{
    files,
    reproducible::{check_names, registries, remap},
    step::{Step, Words as _, cargo, run, step},
    toolchain::{BPF_TARGET, Toolchain},
    workspace::Workspace,
};

/// The kept object, from the root of the repository.
pub(crate) const OBJECT: &str = "tcp-status/bpf/tcp-status.bpf.o";
const RECORD: &str = "tcp-status/bpf/sources.sha256";

/// Files and folders that the object is built from.
const SOURCES: &str = "\
    tcp-status-common/Cargo.toml tcp-status-common/src tcp-status-ebpf/Cargo.toml \
    tcp-status-ebpf/src";

/// Beginnings of the names of the packages whose code ends up in the object.
const PACKAGES: &str = "aya-ebpf aya-log-common aya-log-ebpf tcp-status-common tcp-status-ebpf";

/// What [`RECORD`] says of the kept object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// See [`sources_digest`].
    sources: String,
    pub(crate) object: String,
    /// Another compiler makes other bytes from the same sources.
    pub(crate) compiler: String,
}

impl Record {
    /// Reads the record of the repository at `root`; fails unless the kept object is the recorded
    /// one and belongs to the sources as they are now.
    pub(crate) fn read_valid(root: &Path) -> Result<Self> {
        const HINT: &str = "`cargo xtask build` builds it anew";
        let record = Self::parse(&files::read_text(root.join(RECORD))?)
            .with_context(|| format!("cannot use {RECORD}: not a record; {HINT}"))?;
        let (sources, object) = (
            sources_digest(root)?,
            digest(&files::read(root.join(OBJECT))?),
        );
        for (recorded, now, problem) in [
            (&record.sources, sources, "was built from other sources"),
            (&record.object, object, "is not the recorded one"),
        ] {
            ensure!(
                *recorded == now,
                "{OBJECT} {problem} (recorded {recorded}, now {now}); {HINT}"
            );
        }
        Ok(record)
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(|value| value.trim().to_owned())
        };
        Some(Self {
            sources: line("sources")?,
            object: line("object")?,
            compiler: line("compiler")?,
        })
    }

    fn to_text(&self) -> String {
        let Self {
            sources,
            object,
            compiler,
        } = self;
        format!("sources {sources}\nobject {object}\ncompiler {compiler}\n")
    }
}

/// Puts `object`, made by `compiler` from the sources at `root`, in the place of the kept one.
/// Returns whether that changed a file.
pub(crate) fn keep(root: &Path, object: &[u8], compiler: &str) -> Result<bool> {
    let record = Record {
        sources: sources_digest(root)?,
        object: digest(object),
        compiler: compiler.to_owned(),
    };
    let mut changed = false;
    for (path, content) in [(OBJECT, object), (RECORD, record.to_text().as_bytes())] {
        let path = root.join(path);
        // Untouched files keep their time, so that nothing is built again for their sake.
        if !fs::read(&path).is_ok_and(|kept| kept == content) {
            files::write(&path, content)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hexadecimal = |byte: &u8| format!("{byte:02x}");
    Sha256::digest(bytes).iter().map(hexadecimal).collect()
}

/// SHA-256 over path, length and content of all sources of the object, in the order of their
/// paths, and over the locked versions of the packages that go into it.
fn sources_digest(root: &Path) -> Result<String> {
    let mut paths = Vec::new();
    for source in SOURCES.split(' ').map(|source| root.join(source)) {
        if source.is_dir() {
            paths.extend(
                files::walk(source)?
                    .into_iter()
                    .filter(|path| !path.is_dir()),
            );
        } else {
            paths.push(source);
        }
    }
    paths.sort();
    let mut all = Vec::new();
    for path in &paths {
        let content = files::read(path)?;
        let name = path.strip_prefix(root)?.to_string_lossy();
        all.extend(format!("{name}\0{}\0", content.len()).into_bytes());
        all.extend(content);
    }
    all.extend(locked_packages(&files::read_text(root.join("Cargo.lock"))?).into_bytes());
    Ok(digest(&all))
}

/// The lines of `Cargo.lock` that say which package, which version and which content, for the
/// packages in [`PACKAGES`].
fn locked_packages(lock: &str) -> String {
    let entries = lock.split("[[package]]\n").filter(|entry| {
        let name = entry.strip_prefix("name = \"");
        name.is_some_and(|name| PACKAGES.split(' ').any(|start| name.starts_with(start)))
    });
    let fields = ["name = ", "version = ", "checksum = "];
    let lines = entries.flat_map(str::lines);
    let lines = lines.filter(|line| fields.iter().any(|field| line.starts_with(field)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Builds the object and returns its bytes.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let compiler = &toolchain.compiler;
    let (name, rustc) = (compiler.describe(), compiler.rustc.display());
    eprintln!("building the eBPF object with {name} ({rustc})");
    let own_cargo = compiler.sysroot.join("bin/cargo");
    // Only the cargo of the same toolchain can build its core.
    let cargo = if compiler.builds_core() && own_cargo.is_file() {
        own_cargo.into()
    } else {
        cargo()
    };
    with_bpf_target(workspace, toolchain, step!(cargo, "build"))?.run()?;

    let folder = workspace.target.join("bpf");
    let linked = folder.join(BPF_TARGET).join("bpf/tcp-status-bpf");
    let stripped = folder.join("tcp-status.bpf.o");
    let strip = toolchain.llvm_prefix.join("bin/llvm-strip");
    // DWARF holds paths and is of no use to the kernel; BTF stays.
    run!(strip, "--strip-debug -o", &stripped, linked)?;
    check_names(&stripped, &folders(workspace, toolchain)?)
}

/// Runs clippy for the eBPF crate; `false` if the toolchain has no clippy.
pub(crate) fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<bool> {
    let clippy = toolchain.compiler.sysroot.join("bin/cargo-clippy");
    if !clippy.is_file() {
        return Ok(false);
    }
    with_bpf_target(workspace, toolchain, step!(clippy, "clippy"))?
        // aya's macros pass the context by value.
        .with("-- -D warnings -A clippy::needless_pass_by_value")
        .run()?;
    Ok(true)
}

/// Adds to a cargo command what the BPF target needs.
fn with_bpf_target(workspace: &Workspace, toolchain: &Toolchain, cargo: Step) -> Result<Step> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders_of_path = [toolchain.linker_folder.clone()].into_iter();
    let path = env::join_paths(folders_of_path.chain(env::split_paths(&path)))
        .context("the folder of bpf-linker cannot be part of PATH")?;
    let mut flags: Vec<OsString> = Vec::new();
    // BTF is made from debug information. aya-ebpf requires an architecture: it selects the layout
    // of `pt_regs`, which no program here reads, so that one object serves every 64-bit
    // little-endian machine.
    "-Cdebuginfo=2 -Clink-arg=--btf -Clinker=bpf-linker --cfg bpf_target_arch=\"x86_64\""
        .append_to(&mut flags);
    flags.extend(remap(&folders(workspace, toolchain)?));
    let build_std = toolchain
        .compiler
        .builds_core()
        .then_some("-Zbuild-std=core");
    Ok(cargo
        .folder(&workspace.root)
        .with("--package tcp-status-ebpf --profile bpf --locked --target")
        .with(BPF_TARGET)
        .with(build_std.unwrap_or_default())
        .with("--target-dir")
        .with(workspace.target.join("bpf"))
        // Incremental compilation generates other code.
        .env("CARGO_INCREMENTAL", "0")
        .env("RUSTC", &toolchain.compiler.rustc)
        // aya-ebpf needs unstable features, which a stable compiler has, but hides.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f"))))
}

/// Folders of this machine with sources, and what the object calls them instead.
fn folders(workspace: &Workspace, toolchain: &Toolchain) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = registries()?;
    folders.extend([
        (workspace.root.clone(), "/tcp-status"),
        (toolchain.compiler.sysroot.join("lib/rustlib"), "/rust"),
    ]);
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "# made by cargo\nversion = 4\n\n\
        [[package]]\nname = \"aya\"\nversion = \"0.14.0\"\nchecksum = \"01\"\n\n\
        [[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nsource = \"somewhere\"\n\
        checksum = \"02\"\ndependencies = [\n \"aya-build\",\n]\n\n\
        [[package]]\nname = \"tcp-status-common\"\nversion = \"0.1.0\"\n";

    /// A repository as small as it can be.
    fn repository() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for source in ["tcp-status-common", "tcp-status-ebpf"] {
            let folder = root.path().join(source);
            files::create_folder(folder.join("src/deep")).unwrap();
            files::write(folder.join("Cargo.toml"), "[package]").unwrap();
            files::write(folder.join("src/deep/a.rs"), "//! A.").unwrap();
        }
        files::create_folder(root.path().join("tcp-status/bpf")).unwrap();
        files::write(root.path().join("Cargo.lock"), LOCK).unwrap();
        root
    }

    #[test]
    fn kept_object_belongs_to_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        Record::read_valid(root).unwrap();
    }

    #[test]
    fn only_packages_in_the_object_count() {
        assert_eq!(
            locked_packages(LOCK),
            "name = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"02\"\n\
             name = \"tcp-status-common\"\nversion = \"0.1.0\"\n"
        );
    }

    #[test]
    fn record_reads_what_it_writes() {
        let record = Record {
            sources: "ab".into(),
            object: "cd".into(),
            compiler: "rustc 1.96.0 (LLVM 22.1.8)".into(),
        };
        assert_eq!(Record::parse(&record.to_text()), Some(record));
        assert_eq!(Record::parse("sources ab\n"), None);
    }

    #[test]
    fn kept_object_belongs_until_something_changes() {
        let root = repository();
        let root = root.path();
        assert!(keep(root, b"object", "rustc").unwrap());
        assert!(!keep(root, b"object", "rustc").unwrap());
        Record::read_valid(root).unwrap();

        files::write(root.join(OBJECT), "another").unwrap();
        let error = Record::read_valid(root).unwrap_err().to_string();
        assert!(error.contains("not the recorded one"), "{error}");

        files::write(root.join(OBJECT), "object").unwrap();
        files::write(root.join("tcp-status-ebpf/src/deep/a.rs"), "//! B.").unwrap();
        let error = Record::read_valid(root).unwrap_err().to_string();
        assert!(error.contains("built from other sources"), "{error}");
    }

    #[test]
    fn the_name_of_a_source_counts() {
        let root = repository();
        let before = sources_digest(root.path()).unwrap();
        let folder = root.path().join("tcp-status-ebpf/src");
        files::rename(folder.join("deep/a.rs"), folder.join("deep/b.rs")).unwrap();
        assert_ne!(before, sources_digest(root.path()).unwrap());
    }
}
