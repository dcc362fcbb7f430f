//! An OCI image of one layer, made without a daemon: an image layout, whose files are named by their
//! SHA-256. The format: <https://github.com/opencontainers/image-spec>.

use std::path::Path;

use anyhow::Result;
use nix::unistd::Uid;
use serde_json::{Map, Value, json};

use crate::{
    files,
    object::digest,
    step::{run, step},
    test_totals::Outcome,
    toolchain::exists,
};

/// What docs/kubernetes.md gives a container, so that it counts the sockets of the host. Some hosts
/// allow fewer files and processes than Podman asks for.
const PODMAN_RUN: &str = "run --rm --network host --read-only --user 65532 --cap-drop all \
    --cap-add BPF,PERFMON --security-opt no-new-privileges --ulimit nofile=1024:1024 \
    --ulimit nproc=1024:1024 --security-opt";

/// Writes the layout of an image into `folder`, whose files are those of the archive `layer`.
pub(super) fn write(
    name: &str,
    layer: &Path,
    architecture: &str,
    labels: &[(&str, &str)],
    folder: &Path,
) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    files::create_folder(&blobs)?;
    let blob = |kind: &str, bytes: &[u8]| -> Result<Value> {
        let name = digest(bytes);
        files::write(blobs.join(&name), bytes)?;
        let media = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": media, "digest": format!("sha256:{name}"), "size": bytes.len() }))
    };
    let unpacked = format!("sha256:{}", digest(&files::read(layer)?));
    run!("gzip -9 -n -f", layer)?;
    let layer = blob(
        "layer.v1.tar+gzip",
        &files::read(layer.with_extension("tar.gz"))?,
    )?;

    let labels = labels.iter().map(|(name, value)| {
        let name = format!("org.opencontainers.image.{name}");
        (name, Value::from(*value))
    });
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/tcp-status"],
            "Cmd": ["run"],
            // For `exec` in a container.
            "Env": ["PATH=/usr/bin"],
            "Labels": labels.collect::<Map<_, _>>(),
        },
        "rootfs": { "type": "layers", "diff_ids": [unpacked] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes())?,
        "layers": [layer],
    });
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
    // The first is for Podman, the second for containerd and Docker.
    let names = [
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
    ];
    manifest["annotations"] = names.iter().map(|it| (*it, Value::from(name))).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    files::write(folder.join("index.json"), index.to_string())?;
    files::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
}

/// Runs the self-test of an image in a container, with the least privileges that eBPF takes.
pub(super) fn attempt(image: &Path, name: &str, seccomp: &Path, folder: &Path) -> Result<Outcome> {
    if !exists("podman") || !Uid::effective().is_root() {
        return Ok(Outcome::Skipped("needs podman, runc and root".into()));
    }
    files::create_folder(folder)?;
    let podman = step!(
        "podman --root",
        folder.join("root"),
        "--runroot",
        folder.join("run")
    )
    .with("--storage-driver vfs --cgroup-manager cgroupfs --runtime runc");
    podman.clone().with("load --input").with(image).run()?;
    let seccomp = format!("seccomp={}", seccomp.display());
    let tested = podman.clone().with(PODMAN_RUN).with(&seccomp).with(name);
    tested.with("check --self-test").run()?;
    podman.with("rmi --all").run()?;
    files::remove(folder).map(Outcome::from)
}
