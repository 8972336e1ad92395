//! `cargo xtask check code`: the figures of the code and its import cycles against their limits.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::figures::CodeFigures;
use super::{cycles, limits, sources};
use crate::ui;

/// Prints every figure, and fails if one exceeds its limit.
pub(crate) fn check(root: &Path) -> Result<()> {
    let files = sources::read_all(root)?;
    let mut exceeded = 0;
    for figure in CodeFigures::of(&files).limited() {
        println!("  {figure}");
        if figure.exceeded() {
            exceeded += 1;
            println!("{} this is above the limit; change first: {}", ui::red("error:"), figure.worst.join(", "));
        }
    }
    let allowed: BTreeMap<&str, usize> = limits::MODULES_IN_CYCLES.into_iter().collect();
    for (folder, modules) in cycles::find(&files) {
        let limit = allowed.get(folder.as_str()).copied().unwrap_or(0);
        let spelled = Vec::from_iter(modules.iter().map(String::as_str)).join(", ");
        println!("  modules in import cycles, {folder}: {} (at most {limit}): {spelled}", modules.len());
        if modules.len() > limit {
            exceeded += 1;
            println!("{} this is above the limit; a module must not use one that uses it", ui::red("error:"));
        }
    }
    if exceeded > 0 {
        bail!("{exceeded} figures are above their limits (xtask/src/check/limits.rs), which only go down");
    }
    Ok(())
}
