//! Writes what is made from other sources: the chart's CRD from `crates/api`, `kustomize/` from the chart. A test compares.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use redir_manifests::{crd_template, kustomizations};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redir-manifests: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(&root.join("chart/templates/crd.yaml"), &crd_template()?)?;
    for (path, text) in kustomizations()? {
        write(&root.join(path), &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    fs::write(path, text)?;
    println!("{}", path.display());
    Ok(())
}
