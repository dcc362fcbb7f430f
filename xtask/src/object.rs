//! The kept eBPF object and its record: which sources it was built from, which bytes it has and
//! which compiler made it. Does not build anything.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// The kept object, from the root of the repository.
pub const OBJECT: &str = "tcp-status/bpf/tcp-status.bpf.o";
/// The record of the kept object, from the root of the repository.
pub const RECORD: &str = "tcp-status/bpf/sources.sha256";

/// Files and folders that the object is built from.
const SOURCES: [&str; 4] = [
    "tcp-status-common/Cargo.toml",
    "tcp-status-common/src",
    "tcp-status-ebpf/Cargo.toml",
    "tcp-status-ebpf/src",
];

/// Beginnings of the names of the packages whose code ends up in the object.
const PACKAGES: [&str; 5] = [
    "aya-ebpf",
    "aya-log-common",
    "aya-log-ebpf",
    "tcp-status-common",
    "tcp-status-ebpf",
];

/// What [`RECORD`] says of the kept object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Digest of the sources, see [`sources_digest`].
    pub sources: String,
    /// Digest of the object's bytes.
    pub object: String,
    /// The compiler: another one makes other bytes from the same sources.
    pub compiler: String,
}

impl Record {
    /// Reads the record of the repository at `root`.
    ///
    /// # Errors
    ///
    /// When the file is missing or is not a record.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(RECORD);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read the object's record, {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} is not a record; `cargo xtask build` writes it anew",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .map(|value| value.trim().to_owned())
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

    /// Fails unless the kept object of the repository at `root` is the recorded one and belongs
    /// to the sources as they are now.
    ///
    /// # Errors
    ///
    /// When either digest differs, with both digests and the cure, or a file cannot be read.
    pub fn check(&self, root: &Path) -> Result<()> {
        let sources = sources_digest(root)?;
        ensure!(
            self.sources == sources,
            "{OBJECT} was built from other sources (recorded {}, now {sources}); \
             `cargo xtask build` builds it anew",
            self.sources
        );
        let object = digest(&read(&root.join(OBJECT))?);
        ensure!(
            self.object == object,
            "{OBJECT} is not the recorded one (recorded {}, now {object}); \
             `cargo xtask build` builds it anew",
            self.object
        );
        Ok(())
    }
}

/// Puts `object`, made by `compiler` from the sources at `root`, in the place of the kept one.
/// Says whether that changed a file.
///
/// # Errors
///
/// When a source cannot be read or a file cannot be written.
pub fn keep(root: &Path, object: &[u8], compiler: &str) -> Result<bool> {
    let record = Record {
        sources: sources_digest(root)?,
        object: digest(object),
        compiler: compiler.to_owned(),
    };
    let object_changed = write_if_changed(&root.join(OBJECT), object)?;
    let record_changed = write_if_changed(&root.join(RECORD), record.to_text().as_bytes())?;
    Ok(object_changed || record_changed)
}

/// Untouched files keep their time, so that nothing is built again for their sake.
fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|kept| kept == content) {
        return Ok(false);
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 over path, length and content of all sources of the object, in the order of their
/// paths, and over the locked versions of the packages that go into it.
///
/// # Errors
///
/// When a source or `Cargo.lock` cannot be read.
pub fn sources_digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for path in &files {
        let content = read(path)?;
        let name = path.strip_prefix(root).unwrap_or(path);
        hasher.update(name.to_string_lossy().as_bytes());
        hasher.update(format!("\0{}\0", content.len()));
        hasher.update(&content);
    }
    let lock = root.join("Cargo.lock");
    let lock =
        fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    hasher.update(locked_packages(&lock));
    Ok(hexadecimal(&hasher.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
        collect(&entry.path(), files)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The lines of `Cargo.lock` that say which package, which version and which content, for the
/// packages in [`PACKAGES`].
fn locked_packages(lock: &str) -> String {
    lock.split("\n\n")
        .filter_map(|entry| entry.trim_start().strip_prefix("[[package]]"))
        .filter(|entry| {
            PACKAGES
                .iter()
                .any(|name| entry.trim_start().starts_with(&format!("name = \"{name}")))
        })
        .flat_map(str::lines)
        .filter(|line| {
            ["name = ", "version = ", "checksum = "]
                .iter()
                .any(|field| line.starts_with(field))
        })
        .fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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
            fs::create_dir_all(root.path().join(source).join("src/deep")).unwrap();
            fs::write(root.path().join(source).join("Cargo.toml"), "[package]").unwrap();
            fs::write(root.path().join(source).join("src/deep/a.rs"), "//! A.").unwrap();
        }
        fs::create_dir_all(root.path().join("tcp-status/bpf")).unwrap();
        fs::write(root.path().join("Cargo.lock"), LOCK).unwrap();
        root
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
        let record = Record::read(root).unwrap();
        record.check(root).unwrap();

        fs::write(root.join(OBJECT), "another").unwrap();
        let error = record.check(root).unwrap_err().to_string();
        assert!(error.contains("not the recorded one"), "{error}");

        fs::write(root.join(OBJECT), "object").unwrap();
        fs::write(root.join("tcp-status-ebpf/src/deep/a.rs"), "//! B.").unwrap();
        let error = record.check(root).unwrap_err().to_string();
        assert!(error.contains("built from other sources"), "{error}");
    }

    #[test]
    fn the_name_of_a_source_counts() {
        let root = repository();
        let before = sources_digest(root.path()).unwrap();
        let folder = root.path().join("tcp-status-ebpf/src");
        fs::rename(folder.join("deep/a.rs"), folder.join("deep/b.rs")).unwrap();
        assert_ne!(before, sources_digest(root.path()).unwrap());
    }
}
