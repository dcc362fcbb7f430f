//! Everything that goes into the packages, in one folder. Which file goes where is
//! [`super::layout`]'s.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    layout::{ELSEWHERE, Entry, Format, LAYOUT, Origin},
    licences, manifest,
    release::Release,
    source, supply,
    tools::Tools,
    write,
};
use crate::step::Step;

/// A file to be packaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    /// Where it lies.
    pub(super) from: PathBuf,
    /// Where it is installed, below the root.
    pub(super) to: String,
    pub(super) mode: u32,
    pub(super) formats: &'static [Format],
}

/// The folder.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) files: Vec<Staged>,
    /// The bill of materials, which is handed out beside the packages as well.
    pub(super) bill: PathBuf,
}

impl Stage {
    pub(super) fn of(&self, format: Format) -> impl Iterator<Item = &Staged> {
        self.files
            .iter()
            .filter(move |file| file.formats.contains(&format))
    }
}

/// What files are made from.
struct Sources<'a> {
    release: &'a Release,
    source: &'a Path,
    binary: &'a Path,
    /// A binary that runs here.
    printer: PathBuf,
    bill: &'a Path,
}

/// Makes every file of the layout below `folder`.
pub(super) fn fill(
    release: &Release,
    tools: &Tools,
    source: &Path,
    binary: &Path,
    folder: &Path,
) -> Result<Stage> {
    write::fresh(folder)?;
    let bill = supply::bill(release, tools, source, folder)?;
    let sources = Sources {
        release,
        source,
        binary,
        printer: printer(release, source, binary)?,
        bill: &bill,
    };
    let mut files = Vec::new();
    for entry in LAYOUT {
        if let Origin::Folder(from) = entry.from {
            for path in below(&source.join(from), source)? {
                let rest = path
                    .strip_prefix(from)
                    .context("a file outside its folder")?;
                let to = format!("{}/{}", entry.to, rest.display());
                let bytes = read(&source.join(&path))?;
                files.push(put(folder, entry, to, &bytes)?);
            }
        } else {
            let bytes = sources.bytes(entry.from)?;
            files.push(put(folder, entry, entry.to.to_owned(), &bytes)?);
        }
    }
    Ok(Stage {
        folder: folder.to_owned(),
        files,
        bill,
    })
}

/// The binary itself, or one of the same sources for this machine.
fn printer(release: &Release, source: &Path, binary: &Path) -> Result<PathBuf> {
    if release.native {
        return Ok(binary.to_owned());
    }
    let target = source.with_file_name("target");
    source::build_native(&release.host, source, &target)
}

impl Sources<'_> {
    fn bytes(&self, origin: Origin) -> Result<Vec<u8>> {
        match origin {
            Origin::Binary => read(self.binary),
            Origin::Printed(words) => {
                let printed = Step::new(&self.printer)
                    .args(words.iter().copied())
                    .bytes()?;
                ensure!(!printed.is_empty(), "{words:?} printed nothing");
                Ok(printed)
            }
            Origin::File(path) => read(&self.source.join(path)),
            Origin::Folder(path) => read(Path::new(path)),
            Origin::Notices => {
                Ok(licences::notices(self.source, &self.release.triple)?.into_bytes())
            }
            Origin::Bill => read(self.bill),
            Origin::DebianChangelog => Ok(manifest::debian_changelog(self.release)?.into_bytes()),
        }
    }
}

fn put(folder: &Path, entry: &Entry, to: String, bytes: &[u8]) -> Result<Staged> {
    let path = folder.join("root").join(&to);
    let plain = if entry.packed {
        path.with_extension("")
    } else {
        path.clone()
    };
    let cannot = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().context("a file without a folder")?).with_context(cannot)?;
    fs::write(&plain, bytes).with_context(cannot)?;
    if entry.packed {
        // Without name and time.
        Step::new("gzip").args(["-9", "-n"]).arg(&plain).run()?;
    }
    write::permit(&path, entry.mode())?;
    Ok(Staged {
        from: path,
        to,
        mode: entry.mode(),
        formats: entry.formats,
    })
}

/// Every file below a folder, in order, with its path below `root`.
fn below(folder: &Path, root: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let relative = path.strip_prefix(root).with_context(cannot)?;
        if ELSEWHERE
            .iter()
            .any(|elsewhere| relative == Path::new(elsewhere))
        {
            continue;
        }
        if path.is_dir() {
            found.extend(below(&path, root)?);
        } else {
            found.push(relative.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::below;

    #[test]
    fn folders_are_taken_whole_but_for_what_lies_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        for path in ["zabbix/b.xml", "zabbix/a/c.conf", "systemd/x.service"] {
            let path = root.path().join("templates").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = below(&root.path().join("templates"), root.path()).unwrap();
        let wanted = ["templates/zabbix/a/c.conf", "templates/zabbix/b.xml"];
        assert_eq!(found, wanted.map(Path::new));
    }
}
