//! What the smoke test was run on, for the documents: `--record` writes an entry into `docs/kubernetes-tested.json`, one for
//! each version and provider, and the table in `docs/src/tested.md` anew.
//!
//! Owns: what is asked of a cluster, the file and the table. Must not say anything of a run that failed.

use std::fs;

use anyhow::{Context, Result};
use redir_rig::namespace::checked;
use serde_json::{Value, json};

use super::world::SmokeWorld;
use crate::{paths, tested};

/// The line before the table.
const BEGIN: &str = "<!-- kubernetes-tested.json, by `cargo xtask smoke --record` -->\n";

/// A column's heading, and its place in an entry.
const COLUMNS: [(&str, &str); 9] = [
    ("Kubernetes", "kubernetes"),
    ("provider", "provider"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("etcd", "etcd"),
    ("kube-proxy", "proxy"),
    ("kernel", "kernel"),
    ("date", "date"),
    ("answers, all right", "answers"),
];

/// What the cluster says of itself, as an entry.
pub(super) fn entry(world: &SmokeWorld<'_>, answers: usize) -> Result<Value> {
    let kubectl = world.cluster.kubectl();
    let server: Value = serde_json::from_str(&kubectl.raw("/version")?).context("cannot read the server's version")?;
    let mut proxies = Vec::new();
    for node in &world.nodes {
        // kube-proxy tells it to its own node alone.
        let mut curl = world.cluster.enter(&node.name)?;
        let asked = curl.args(["curl", "--silent", "--fail", "--noproxy", "*", "http://127.0.0.1:10249/proxyMode"]);
        proxies.push(checked(asked, None)?.trim().to_owned());
    }
    proxies.dedup();
    let node = world.nodes.first().context("there is no node")?;
    let runc = checked(world.cluster.enter(&node.name)?.args(["runc", "--version"]), None)?;
    let info = kubectl.get(&["node", &node.name])?["status"]["nodeInfo"].clone();
    let plain = |text: Option<&str>| text.map(|text| text.trim_start_matches('v').to_owned());
    Ok(json!({
        "kubernetes": plain(server["gitVersion"].as_str()).context("the server names no version")?,
        "provider": world.cluster.provider_name(),
        "containerd": info["containerRuntimeVersion"].as_str().and_then(|version| version.strip_prefix("containerd://")),
        // `runc version 1.5.3`
        "runc": runc.lines().next().and_then(|line| line.split_whitespace().last()),
        "etcd": world.cluster.version_of("etcd")?,
        "proxy": proxies.join(", "),
        "kernel": info["kernelVersion"],
        "date": tested::today()?,
        "answers": answers,
    }))
}

/// Puts an entry into the file and the table, in place of an older one of the same version and provider.
pub(super) fn write(entry: Value) -> Result<()> {
    let file = paths::root().join("docs/kubernetes-tested.json");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let entries: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?;
    let entries = with(entries, entry);
    let text = serde_json::to_string_pretty(&entries).context("cannot write JSON")? + "\n";
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    tested::write(BEGIN, &table(&entries))
}

/// The newest version first.
fn with(mut entries: Vec<Value>, new: Value) -> Vec<Value> {
    let same = |old: &Value| old["kubernetes"] == new["kubernetes"] && old["provider"] == new["provider"];
    entries.retain(|old| !same(old));
    entries.push(new);
    let numbers = |entry: &Value| -> Vec<u32> {
        let version = entry["kubernetes"].as_str().unwrap_or_default();
        version.split(['.', '-', '+']).filter_map(|number| number.parse().ok()).collect()
    };
    entries.sort_by_key(|entry| std::cmp::Reverse(numbers(entry)));
    entries
}

fn table(entries: &[Value]) -> String {
    if entries.is_empty() {
        return tested::NOTHING.into();
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut table = line(COLUMNS.iter().map(|(heading, _)| (*heading).to_owned()).collect());
    table += &line(vec!["---".to_owned(); COLUMNS.len()]);
    for entry in entries {
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned).replace("null", "–");
        table += &line(COLUMNS.iter().map(|(_, name)| cell(&entry[*name])).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_the_place_of_the_same_version_and_provider() {
        let entry = |version: &str, provider: &str, answers: u32| json!({ "kubernetes": version, "provider": provider, "answers": answers });
        let entries = vec![entry("1.37.2", "local", 1), entry("1.36.4", "kind", 2)];
        let entries = with(entries, entry("1.37.2", "local", 3));
        let entries = with(entries, entry("1.37.10", "kind", 4));
        assert_eq!(entries, [entry("1.37.10", "kind", 4), entry("1.37.2", "local", 3), entry("1.36.4", "kind", 2)]);
    }

    #[test]
    fn the_page_shows_what_the_file_holds() {
        let entries: Vec<Value> = serde_json::from_str(include_str!("../../../docs/kubernetes-tested.json")).unwrap();
        let page = include_str!("../../../docs/src/tested.md");
        let written = tested::with_table(page, BEGIN, &table(&entries)).unwrap();
        assert_eq!(written, page, "`cargo xtask smoke --record` writes both");
    }
    #[test]
    fn without_an_entry_there_is_no_table() {
        assert_eq!(table(&[]), "Nothing yet.\n");
        let rows = table(&[json!({ "kubernetes": "1.37.2", "answers": 3 })]);
        assert_eq!(rows.lines().count(), 3, "{rows}");
        assert!(rows.lines().all(|line| line.matches('|').count() == COLUMNS.len() + 1), "{rows}");
    }
}
