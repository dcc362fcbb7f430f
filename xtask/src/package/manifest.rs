//! The words of the packages: descriptions, dependencies and scripts, as cargo-deb and
//! cargo-generate-rpm want them. Pure.

use std::fmt::Write as _;

use anyhow::Result;

use super::{
    layout::Format,
    release::{NAME, Release},
    stage::Stage,
};
use crate::step::Step;

const SUMMARY: &str = "exact TCP connection counts by state, kept by eBPF";
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const MAINTAINER: &str = "The tcp-status authors <tcp-status@users.noreply.github.com>";

const DESCRIPTION: &str = "\
tcp-status counts TCP state changes in the kernel and answers how many
connections are in which state, at any moment and whatever their number. It
feeds Zabbix, Prometheus, scripts and people.";

/// `systemd-sysusers` makes the user that the tracker runs as.
const DEB_DEPENDS: &str = "systemd | systemd-standalone-sysusers | systemd-sysusers";

const RPM_POST_INSTALL: &str = "\
systemd-sysusers tcp-status.conf || :
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ $1 -eq 1 ]; then systemctl preset tcp-status.service || :; fi
fi";

const RPM_PRE_UNINSTALL: &str = "\
if [ $1 -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now tcp-status.service || :
fi";

const RPM_POST_UNINSTALL: &str = "\
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ $1 -ge 1 ]; then systemctl try-restart tcp-status.service || :; fi
fi
# The package owns files only.
if [ $1 -eq 0 ]; then
    for folder in /usr/share/tcp-status /usr/share/doc/tcp-status /usr/share/licenses/tcp-status; do
        find $folder -depth -type d -empty -delete 2>/dev/null || :
    done
fi";

/// A manifest that belongs to the staged files only; both programs read it.
pub(super) fn text(release: &Release, stage: &Stage) -> String {
    let Release {
        version, revision, ..
    } = release;
    let mut text = format!(
        r#"[package]
name = "{NAME}"
version = "{version}"
edition = "2024"
description = "{SUMMARY}"
license = "MIT OR Apache-2.0"
repository = "{REPOSITORY}"

[lib]
path = "lib.rs"

[workspace]

[package.metadata.deb]
maintainer = "{MAINTAINER}"
revision = "{revision}"
section = "net"
priority = "optional"
depends = "{DEB_DEPENDS}"
recommends = ""
extended-description = """{DESCRIPTION}"""
maintainer-scripts = "scripts"
# It starts after the installation and is restarted after an upgrade, as Debian does it.
systemd-units = {{ enable = true, start = true, restart-after-upgrade = true }}
assets = [
"#
    );
    // Writing to a string cannot fail.
    for file in stage.of(Format::Deb) {
        let _ = writeln!(
            text,
            "    [{:?}, {:?}, \"{:o}\"],",
            file.from, file.to, file.mode
        );
    }
    let _ = write!(
        text,
        r#"]

[package.metadata.generate-rpm]
summary = "{SUMMARY}"
release = "{revision}"
auto-req = "no"
post_install_script = """{RPM_POST_INSTALL}"""
pre_uninstall_script = """{RPM_PRE_UNINSTALL}"""
post_uninstall_script = """{RPM_POST_UNINSTALL}"""
requires = {{ systemd = "*" }}
assets = [
"#
    );
    for file in stage.of(Format::Rpm) {
        let doc = file.to.starts_with("usr/share/doc/") || file.to.starts_with("usr/share/man/");
        let _ = writeln!(
            text,
            "    {{ source = {:?}, dest = \"/{}\", mode = \"{:o}\", doc = {doc} }},",
            file.from, file.to, file.mode
        );
    }
    text.push_str("]\n");
    text
}

/// Debian wants to know of each version of the package; what is new stands in the other one.
pub(super) fn debian_changelog(release: &Release) -> Result<String> {
    let date = Step::new("date")
        .args(["--utc", "--rfc-email"])
        .arg(format!("--date=@{}", release.epoch))
        .env("LC_ALL", "C")
        .read()?;
    Ok(format!(
        "{NAME} ({}-{}) unstable; urgency=medium\n\n  * Version {} of tcp-status: see \
         changelog.gz.\n\n -- {MAINTAINER}  {date}",
        release.version, release.revision, release.version
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::release::example, super::stage::Staged, *};

    #[test]
    fn each_format_gets_its_files() {
        let file = |to: &str, formats| Staged {
            from: format!("/stage/{to}").into(),
            to: to.into(),
            mode: 0o755,
            formats,
        };
        let stage = Stage {
            folder: "/stage".into(),
            files: vec![
                file("usr/bin/tcp-status", &[Format::Deb, Format::Rpm]),
                file("usr/share/doc/only-deb", &[Format::Deb]),
            ],
            bill: "/bill".into(),
        };
        let text = text(&example("x86_64-unknown-linux-gnu"), &stage);
        let (deb, rpm) = text.split_once("generate-rpm").unwrap();
        assert!(
            deb.contains(r#"["/stage/usr/bin/tcp-status", "usr/bin/tcp-status", "755"],"#),
            "{deb}"
        );
        assert!(deb.contains("only-deb") && !rpm.contains("only-deb"));
        assert!(rpm.contains(r#"dest = "/usr/bin/tcp-status", mode = "755", doc = false"#));
    }

    #[test]
    fn debians_changelog_names_the_package() {
        let text = debian_changelog(&example("x86_64-unknown-linux-gnu")).unwrap();
        assert!(
            text.starts_with("tcp-status (0.1.0-1) unstable; urgency=medium\n"),
            "{text}"
        );
        assert!(
            text.ends_with(">  Tue, 14 Nov 2023 22:13:20 +0000\n"),
            "{text}"
        );
    }
}
