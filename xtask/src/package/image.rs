//! An OCI image of one layer, made without a daemon: an image layout, whose files are named by their
//! SHA-256. The format: <https://github.com/opencontainers/image-spec>.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{files, object::digest, step::run};

/// Writes the layout of an image into `folder`, whose files are those of the archive `layer`.
pub(super) fn write(
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
