//! `tcp-status zabbix` by the real binary, on directories that stand for a host's root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const CONFIGURATION: &str = include_str!("../../../templates/zabbix/userparameter_tcp_status.conf");

/// A host with the agents that are named, configured as Debian does it.
struct Root(TempDir);

impl Root {
    fn new(agents: &[(&str, &str)]) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for (configuration, includes) in agents {
            fs::create_dir_all(root.path("etc/zabbix")).unwrap();
            fs::create_dir_all(root.path(includes)).unwrap();
            let text = format!("Server=127.0.0.1\n# Include=\nInclude=/{includes}/*.conf\n");
            fs::write(root.path(configuration), text).unwrap();
        }
        root
    }

    fn both() -> Self {
        Self::new(&[
            (
                "etc/zabbix/zabbix_agentd.conf",
                "etc/zabbix/zabbix_agentd.conf.d",
            ),
            (
                "etc/zabbix/zabbix_agent2.conf",
                "etc/zabbix/zabbix_agent2.d",
            ),
        ])
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tcp-status"))
            .arg("zabbix")
            .args(arguments)
            .arg("--root")
            .arg(self.0.path())
            .output()
            .unwrap()
    }

    fn targets(&self) -> [PathBuf; 2] {
        ["zabbix_agentd.conf.d", "zabbix_agent2.d"].map(|folder| {
            self.path("etc/zabbix")
                .join(folder)
                .join("userparameter_tcp_status.conf")
        })
    }
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.as_slice(), &output.stderr].concat()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn nothing_changes_without_consent() {
    let root = Root::both();
    let output = root.run(&["install"]);
    assert_eq!(code(&output), 1, "{output:?}");
    let text = said(&output);
    assert!(text.contains("+UserParameter=tcp.status[*],"), "{text}");
    assert!(text.contains("nothing changed; --yes"), "{text}");
    for target in root.targets() {
        assert!(!target.exists(), "{}", target.display());
    }
    assert_eq!(code(&root.run(&["check"])), 1);
}

#[test]
fn both_agents_get_the_file_once_and_lose_it_again() {
    let root = Root::both();
    let output = root.run(&["install", "--yes"]);
    assert_eq!(code(&output), 0, "{output:?}");
    for target in root.targets() {
        assert_eq!(fs::read_to_string(&target).unwrap(), CONFIGURATION);
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        let folder = fs::read_dir(target.parent().unwrap()).unwrap();
        assert_eq!(folder.count(), 1, "no other file is left");
    }
    assert_eq!(code(&root.run(&["check"])), 0);
    let again = root.run(&["install"]);
    assert_eq!(code(&again), 0, "{again:?}");
    assert!(said(&again).contains("in place and current"), "{again:?}");

    let output = root.run(&["uninstall"]);
    assert_eq!(code(&output), 1, "{output:?}");
    assert!(root.targets()[0].exists());
    let output = root.run(&["uninstall", "--yes"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(!root.targets().iter().any(|target| target.exists()));
    assert_eq!(code(&root.run(&["uninstall"])), 0);
}

#[test]
fn an_older_file_is_replaced_with_a_diff() {
    let root = Root::both();
    let target = &root.targets()[0];
    fs::write(
        target,
        "UserParameter=tcp.status[*],exec tcp-status get \"$1\"\n",
    )
    .unwrap();
    let text = said(&root.run(&["check"]));
    assert!(text.contains("FAIL"), "{text}");
    let output = root.run(&["install", "--yes"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let text = said(&output);
    assert!(text.contains("-UserParameter=tcp.status[*],exec"), "{text}");
    assert_eq!(fs::read_to_string(target).unwrap(), CONFIGURATION);
}

#[test]
fn the_same_key_in_another_file_is_named_and_nothing_changes() {
    let root = Root::both();
    let old = root.path("etc/zabbix/zabbix_agent2.d/old.conf");
    fs::write(
        &old,
        "# of old\nUserParameter=tcp.status[*],/etc/zabbix/scripts/x $1\n",
    )
    .unwrap();
    let output = root.run(&["install", "--yes"]);
    assert_eq!(code(&output), 2, "{output:?}");
    let text = said(&output);
    for part in [old.to_str().unwrap(), "line 2", "tcp.status[*]", "remove"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!root.targets().iter().any(|target| target.exists()));
    assert_eq!(code(&root.run(&["check"])), 1);
}

#[test]
fn the_folder_is_that_of_the_agents_own_include() {
    let root = Root::new(&[("etc/zabbix/zabbix_agentd.conf", "opt/own")]);
    assert_eq!(code(&root.run(&["install", "--yes"])), 0);
    assert!(root.path("opt/own/userparameter_tcp_status.conf").exists());
}

#[test]
fn without_an_agent_or_a_folder_it_says_what_is_missing() {
    let root = Root::new(&[]);
    let output = root.run(&["install", "--yes"]);
    assert_eq!(code(&output), 2, "{output:?}");
    assert!(said(&output).contains("run --zabbix"), "{output:?}");
    fs::create_dir_all(root.path("etc/zabbix")).unwrap();
    fs::write(root.path("etc/zabbix/zabbix_agentd.conf"), "Server=x\n").unwrap();
    let output = root.run(&["install", "--yes"]);
    assert!(said(&output).contains("Include="), "{output:?}");
    assert_ne!(code(&output), 0);
}

#[test]
fn links_are_not_followed_out_of_the_root() {
    let elsewhere = tempfile::tempdir().unwrap();
    let root = Root::both();
    let folder = root.path("etc/zabbix/zabbix_agentd.conf.d");
    fs::remove_dir(&folder).unwrap();
    symlink(elsewhere.path(), &folder).unwrap();
    let output = root.run(&["install", "--yes"]);
    assert_ne!(code(&output), 0);
    assert!(said(&output).contains("out of the root"), "{output:?}");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    let root = Root::both();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "mine\n").unwrap();
    symlink(&victim, &root.targets()[1]).unwrap();
    let output = root.run(&["install", "--yes"]);
    assert_ne!(code(&output), 0);
    assert!(said(&output).contains("symbolic link"), "{output:?}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine\n");
}
