//! Every parser that reads what others control, as a function of bytes that must not panic, hang
//! or grow without bound. Each stands beside its parser and says what else must hold; here is only
//! their list. `cargo xtask fuzz` feeds it what cargo-fuzz invents; the test below what was kept.

use crate::{
    bpf, cli, kernel,
    serve::{http, protocol, zabbix},
    track, view,
};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// By name: `fuzz/fuzz_targets/NAME.rs` and `fuzz/corpus/NAME/` belong to each.
pub const TARGETS: [(&str, Target); 10] = [
    ("answer", view::fuzz),
    ("arguments", cli::fuzz),
    ("btf", kernel::layout::fuzz),
    ("http", http::fuzz),
    ("listeners", |bytes| track::fuzz(&bpf::fuzz(bytes))),
    ("namespaces", kernel::netns::list::fuzz),
    ("netlink", kernel::sock_diag::fuzz),
    ("procfs", |bytes| {
        kernel::procfs::fuzz(bytes);
        kernel::facts::fuzz(bytes);
    }),
    ("request", protocol::fuzz),
    ("zabbix", zabbix::wire::fuzz),
];

/// Feeds `bytes` to the target with this name.
///
/// # Panics
/// If there is none, and where the target finds a fault.
pub fn feed(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target in the list").1(bytes);
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::{TARGETS, feed};

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz")
            .join(name)
    }

    fn entries(folder: &Path) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn whatever_was_kept_is_taken() {
        for (name, _) in TARGETS {
            let kept = entries(&folder("corpus").join(name));
            assert!(kept.len() >= 3, "{name}: {kept:?}");
            for path in kept {
                println!("{}", path.display());
                let bytes = fs::read(&path).unwrap();
                // What was cut short, and what has a byte too many.
                for end in 0..bytes.len().min(64) {
                    feed(name, &bytes[..end]);
                }
                feed(name, &[&bytes[..], b"\xff"].concat());
                feed(name, &bytes);
            }
        }
    }

    #[test]
    fn every_target_can_be_fuzzed() {
        let names = TARGETS.map(|(name, _)| name);
        let stems = |of: &str| -> Vec<String> {
            let paths = entries(&folder(of));
            let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            paths.iter().map(stem).collect()
        };
        assert_eq!(stems("fuzz_targets"), names);
        assert_eq!(stems("corpus"), names);
        for name in names {
            let path = folder("fuzz_targets").join(name).with_extension("rs");
            let text = fs::read_to_string(path).unwrap();
            assert!(text.contains(&format!("feed(\"{name}\"")), "{text}");
        }
    }
}
