//! `deploy/install.sh` with a tarball made for it, below a folder.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install.sh");

/// A folder with a release, and a root to install it below.
struct Sandbox {
    folder: tempfile::TempDir,
    tarball: PathBuf,
    root: PathBuf,
}

impl Sandbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let tarball = folder.path().join("tcp-status-0.1.0-x86_64-linux.tar.gz");
        Self {
            folder,
            tarball,
            root,
        }
    }

    /// Makes the tarball of these files, and its checksum.
    fn release(&self, files: &[&str]) {
        let tree = self.folder.path().join("tcp-status-0.1.0-x86_64-linux");
        for file in files {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-euc", script]).current_dir(&self.folder);
            assert!(command.status().unwrap().success(), "{script}");
        };
        shell("tar -czf tcp-status-0.1.0-x86_64-linux.tar.gz tcp-status-*-linux");
        shell("sha256sum *.tar.gz >SHA256SUMS; rm -r tcp-status-*-linux");
    }

    /// Runs the script without a terminal; returns whether it succeeded, and what it printed.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("sh");
        command.arg(SCRIPT).arg("--root").arg(&self.root);
        finish(command.args(arguments))
    }

    fn install(&self) -> (bool, String) {
        self.run(&["--yes", self.tarball.to_str().unwrap()])
    }

    /// The files below the root.
    fn files(&self) -> Vec<String> {
        let mut command = Command::new("find");
        command.args([".", "-type", "f", "-printf", "%P %m\n"]);
        let output = command.current_dir(&self.root).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn finish(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

#[test]
fn installs_upgrades_and_removes() {
    let sandbox = Sandbox::new();
    sandbox.release(&["usr/bin/tcp-status", "usr/share/doc/tcp-status/a/OLD"]);
    let (ok, printed) = sandbox.install();
    assert!(ok, "{printed}");
    assert!(
        printed.contains("usr/share/doc/tcp-status/a/OLD"),
        "{printed}"
    );
    let list = "usr/share/tcp-status/installed 644";
    let program = "usr/bin/tcp-status 755";
    let old = "usr/share/doc/tcp-status/a/OLD 644";
    assert_eq!(sandbox.files(), [program, old, list]);

    sandbox.release(&["usr/bin/tcp-status", "usr/share/doc/tcp-status/NEW"]);
    assert!(sandbox.install().0);
    let new = "usr/share/doc/tcp-status/NEW 644";
    assert_eq!(sandbox.files(), [program, new, list]);

    fs::write(sandbox.root.join("usr/bin/other"), "").unwrap();
    let (ok, printed) = sandbox.run(&["--uninstall", "--yes"]);
    assert!(ok, "{printed}");
    assert_eq!(sandbox.files(), ["usr/bin/other 644"]);
    assert!(!sandbox.root.join("usr/share/doc/tcp-status").exists());
    let (ok, printed) = sandbox.run(&["--uninstall", "--yes"]);
    assert!(
        !ok && printed.starts_with("install.sh: cannot uninstall: "),
        "{printed}"
    );
}

#[test]
fn an_interrupted_installation_can_be_removed() {
    let sandbox = Sandbox::new();
    sandbox.release(&["usr/bin/tcp-status", "usr/share/man/PAGE"]);
    // Where a folder should be.
    let obstacle = sandbox.root.join("usr/share/man");
    fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    fs::write(&obstacle, "").unwrap();
    assert!(!sandbox.install().0);
    fs::remove_file(&obstacle).unwrap();
    let (ok, printed) = sandbox.run(&["--uninstall", "--yes"]);
    assert!(ok, "{printed}");
    assert_eq!(sandbox.files(), [""; 0]);
}

#[test]
fn changes_nothing_unless_the_checksum_is_right_and_consent_is_given() {
    let sandbox = Sandbox::new();
    sandbox.release(&["usr/bin/tcp-status"]);
    let tarball = sandbox.tarball.to_str().unwrap();
    let (ok, printed) = sandbox.run(&[tarball, "--dry-run"]);
    assert!(
        ok && printed.ends_with("dry run: nothing was changed\n"),
        "{printed}"
    );
    let (ok, printed) = sandbox.run(&[tarball]);
    let refused = "install.sh: cannot ask: standard input is no terminal; add --yes\n";
    assert!(!ok && printed.ends_with(refused), "{printed}");

    let mut bytes = fs::read(&sandbox.tarball).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&sandbox.tarball, bytes).unwrap();
    let (ok, printed) = sandbox.install();
    assert!(!ok && printed.contains("its SHA-256 is"), "{printed}");
    fs::write(sandbox.folder.path().join("SHA256SUMS"), "").unwrap();
    let (ok, printed) = sandbox.install();
    assert!(!ok && printed.contains("not in "), "{printed}");
    assert_eq!(sandbox.files(), [""; 0]);
}

#[test]
fn without_root_it_names_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("install.sh");
    fs::copy(SCRIPT, &script).unwrap();
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), all).unwrap();
    let mut command = Command::new("sh");
    command.arg(&script).args(["--no-start", "x.tar.gz"]);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(65534).gid(65534);
    }
    let (ok, printed) = finish(&mut command);
    let wanted = "install.sh: cannot install below /: not root; run: sudo sh install.sh --no-start \
                  x.tar.gz\n";
    assert_eq!((ok, &*printed), (false, wanted));
}

#[test]
fn everything_installs_this_version() {
    for (file, before) in [
        ("install.sh", "version="),
        ("kubernetes/base/kustomization.yaml", "newTag: "),
        (
            "kubernetes/autoscaling.yaml",
            "image: ghcr.io/tcp-status/tcp-status:",
        ),
        (
            "ansible/roles/tcp_status/defaults/main.yml",
            "tcp_status_version: ",
        ),
    ] {
        let text = fs::read_to_string(Path::new(SCRIPT).with_file_name(file)).unwrap();
        let line = format!("{before}{}", env!("CARGO_PKG_VERSION"));
        assert!(
            text.lines().any(|it| it.trim_start() == line),
            "{file}: {line}"
        );
    }
}
