//! ARCHITECTURE.md against the tree: the table of dependencies is that of the manifests, and each file that it names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Uses = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page is in the tree")
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The table's rows.
fn documented(page: &str) -> Uses {
    let (_, table) = page.split_once("| crate | uses |\n").expect("the page has the table");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let (name, uses) = row.trim_start_matches('|').split_once('|').expect("a row has two cells");
        (quoted(name).next().expect("a row names a crate").to_owned(), quoted(uses).map(str::to_owned).collect())
    })
    .collect()
}

/// The workspace's crates with those that they use other than in tests.
fn declared() -> Uses {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
    let short = |name: &str| name.strip_prefix("redir-").unwrap_or(name).to_owned();
    let mut uses = Uses::new();
    for package in metadata["packages"].as_array().expect("packages are a list") {
        let own = package["dependencies"]
            .as_array()
            .expect("dependencies are a list")
            .iter()
            .filter(|needed| needed["kind"].is_null());
        let names = own.filter_map(|needed| needed["name"].as_str()?.strip_prefix("redir-").map(str::to_owned));
        uses.insert(short(package["name"].as_str().expect("a package has a name")), names.collect());
    }
    uses
}

/// `worker/tls` as node-agent/worker/src/tls, `crates/api/limits` as crates/api/src/limits.rs, anything else from the root.
fn exists(name: &str) -> bool {
    let inside = |folder: &str, rest: &str| root().join(folder).join("src").join(rest);
    let path = match name.split('/').collect::<Vec<_>>()[..] {
        ["guardian" | "worker" | "controller" | "config" | "sandbox", ..] => {
            let (part, rest) = name.split_once('/').expect("it was split before");
            inside(&format!("node-agent/{part}"), rest)
        }
        ["crates", part, _, ..] => {
            inside(&format!("crates/{part}"), name.splitn(3, '/').nth(2).expect("it has three parts"))
        }
        _ => root().join(name),
    };
    path.exists() || path.with_extension("rs").exists()
}

#[test]
fn the_table_of_dependencies_is_that_of_the_manifests() {
    assert_eq!(documented(&page()), declared());
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let first = ["ebpf", "crates", "node-agent", "guardian", "worker", "controller", "config", "sandbox"];
    let page = page();
    let names = quoted(&page).filter(|name| name.split_once('/').is_some_and(|(part, _)| first.contains(&part)));
    let names: BTreeSet<&str> = names.collect();
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<&&str> = names.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_file_that_is_not_there_would_be_noticed() {
    assert!(
        exists("worker/tls")
            && exists("crates/tunnel/source.rs")
            && exists("controller/world")
            && exists("ebpf/src/steer.rs")
    );
    assert!(!exists("worker/no") && !exists("crates/tunnel/no.rs") && !exists("ebpf/src/no.rs"));
}
