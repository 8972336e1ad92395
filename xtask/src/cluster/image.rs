//! Container images of one layer, written without any container engine: the archive that `docker save` writes, which
//! containerd, kind, docker and podman load.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use redir_rig::namespace::checked;
use serde_json::json;

/// Writes the image `reference` (`NAME:TAG`) to `archive`: nothing but `program`, a static one, which it starts.
pub(crate) fn write(reference: &str, program: &Path, archive: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let parent = archive.parent().context("an archive lies in a folder")?;
    let workshop =
        tempfile::tempdir_in(parent).with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    let (root, folder) = (workshop.path().join("root"), workshop.path().join("image"));
    fs::create_dir_all(&root).and_then(|()| fs::create_dir_all(&folder)).context("cannot make the image's folders")?;
    fs::copy(program, root.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    let layer = folder.join("layer.tar");
    pack(&root, &layer)?;
    let entry = Path::new("/").join(name);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": [entry] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer)?)] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    for (file, value) in [("config.json", config), ("manifest.json", manifest)] {
        serde_json::to_writer(
            File::create(folder.join(file)).context("cannot write the image's description")?,
            &value,
        )?;
    }
    pack(&folder, archive)
}

/// The same bytes for the same content.
fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=a+rX"]);
    checked(command.arg("--file").arg(archive).arg("--directory").arg(folder).arg("."), None).map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    let output = checked(Command::new("sha256sum").arg("--binary").arg(file), None)?;
    output.split(' ').next().map(str::to_owned).context("sha256sum gave nothing")
}

/// This machine's, by the name that images have for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_layer_by_its_hash_and_starts_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let (program, archive) = (folder.path().join("app"), folder.path().join("app.tar"));
        fs::write(&program, "a program").unwrap();
        write("redir.test/app:1", &program, &archive).unwrap();

        let part =
            |name: &str| checked(Command::new("tar").arg("-xOf").arg(&archive).arg(format!("./{name}")), None).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&part("manifest.json")).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["redir.test/app:1"]));
        let config: serde_json::Value = serde_json::from_str(&part("config.json")).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/app"]));

        let layer = folder.path().join("layer.tar");
        fs::write(&layer, part("layer.tar")).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer).unwrap())]));
        let content = checked(Command::new("tar").arg("-xOf").arg(&layer).arg("./app"), None).unwrap();
        assert_eq!(content, "a program");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else is left behind");
    }
}
