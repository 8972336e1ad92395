//! `cargo xtask book`: the pages of `docs/` as a website. Owns: installing mdbook and building. Whether links lead somewhere
//! is checked in [`links`], without mdbook and without the network, so that `cargo xtask check` can do it in milliseconds.

pub(crate) mod links;

use std::process::Command;

use anyhow::{Result, bail};

use crate::{child, paths, setup, ui};

pub(crate) fn run() -> Result<()> {
    check_links()?;
    setup::with_tool(&setup::MDBOOK)?;
    let output = paths::target()?.join("book");
    let mut command = Command::new(setup::MDBOOK.path()?);
    command.arg("build").arg(paths::root().join("docs")).arg("--dest-dir").arg(&output);
    child::show(&mut command)?;
    println!("{} {}", ui::green("built"), output.join("index.html").display());
    Ok(())
}

/// Prints each broken link; an error if there is one.
pub(crate) fn check_links() -> Result<()> {
    let broken = links::broken(&paths::root())?;
    for problem in &broken {
        eprintln!("{} {problem}", ui::red("error:"));
    }
    match broken.len() {
        0 => Ok(()),
        count => bail!("{count} links or pages of the documents are broken, each named above"),
    }
}
