//! Writes an archive in cpio's `newc` format, which the kernel unpacks as its first root file
//! system: Documentation/driver-api/early-userspace/buffer-format.rst. Regular files and folders.

use anyhow::{Context as _, Result};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive being written. Everything belongs to root; all times are zero, so that the same
/// input makes the same bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a folder; its parent must come before it.
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(path, FOLDER, &[])
    }

    /// Adds a file with permissions `mode`, as in 0o755.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, FILE | mode, content)
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len())
            .with_context(|| format!("{path} is too long for a cpio archive"))?;
        let name = u32::try_from(path.len() + 1).context("a name is too long")?;
        let links = if mode == FOLDER { 2 } else { 1 };
        // inode, mode, uid, gid, links, time, size, device and represented device (major and
        // minor of both), length of the name with its NUL, checksum (not used).
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(bytes: &[u8], index: usize) -> u32 {
        let start = 6 + 8 * index;
        let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
        u32::from_str_radix(text, 16).unwrap()
    }

    #[test]
    fn entries_are_aligned_and_told_in_hexadecimal() {
        let mut archive = Archive::default();
        archive.folder("bin").unwrap();
        archive.file("bin/a", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        // A header of 110 bytes, then the name, filled up.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!((field(&bytes, 1), field(&bytes, 6)), (0o040_755, 0));
        assert_eq!(&bytes[110..116], b"bin\0\0\0");

        let file = &bytes[116..];
        assert_eq!((field(file, 0), field(file, 1)), (2, 0o100_755));
        assert_eq!((field(file, 6), field(file, 11)), (5, 6));
        assert_eq!(&file[110..124], b"bin/a\0hello\0\0\0");

        let trailer = &file[124..];
        assert_eq!(field(trailer, 11), 11);
        assert_eq!(&trailer[110..121], b"TRAILER!!!\0");
    }
}
