//! The Rust files of the repository, parsed, for the checks that read code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders that hold no source of ours.
const SKIPPED: [&str; 3] = ["target", "corpus", "node_modules"];

/// A parsed file.
pub(crate) struct SourceFile {
    /// Relative to the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) lines: usize,
    pub(crate) syntax: syn::File,
}

/// Every `.rs` file below `root`, in the order of their paths.
pub(crate) fn read_all(root: &Path) -> Result<Vec<SourceFile>> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    paths.into_iter().map(|path| read(root, &path)).collect()
}

fn read(root: &Path, path: &Path) -> Result<SourceFile> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(path).to_owned();
    parse(relative, &text)
}

/// Parses `text` as the file at `path`.
pub(crate) fn parse(path: PathBuf, text: &str) -> Result<SourceFile> {
    let syntax = syn::parse_file(text).with_context(|| format!("cannot parse {}", path.display()))?;
    Ok(SourceFile { path, lines: text.lines().count(), syntax })
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() && !name.starts_with('.') && !SKIPPED.contains(&&*name) {
            collect(&path, into)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// Whether an item is compiled for tests only.
pub(crate) fn only_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test")))
    })
}
