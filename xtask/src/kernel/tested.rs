//! What was run on which kernel, and when: `docs/kernels-tested.json`, which `cargo xtask test --kernel … --record` writes, and
//! the table of it in `docs/src/tested.md`. Nothing is claimed there that no run has written.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::store::StoredKernel;
use crate::{paths, tested};

/// One thing that was run on one kernel, without a failure.
pub(super) struct KernelRecord {
    /// `datapath`, or a file of the end-to-end tests.
    pub(super) what: String,
    pub(super) passed: usize,
    /// Each with its reason.
    pub(super) left_out: Vec<String>,
}

const BEGIN: &str = "<!-- kernels-tested.json, by `cargo xtask test --kernel … --record` -->\n";

/// Adds results to the file, in the place of older ones of the same; a newer kernel of the series replaces all of its.
pub(super) fn write(kernel: &StoredKernel, uname: &str, records: &[KernelRecord]) -> Result<()> {
    let path = file();
    let text = fs::read_to_string(&path).unwrap_or_else(|_| r#"{"kernels": []}"#.into());
    let mut all: Value = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let entries = all["kernels"].as_array_mut().with_context(|| format!("{} has no list", path.display()))?;
    put(entries, kernel, uname, &tested::today()?, records);
    let text = serde_json::to_string_pretty(&all)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    tested::write(BEGIN, &table(&all))
}

fn file() -> PathBuf {
    paths::root().join("docs/kernels-tested.json")
}

fn put(entries: &mut Vec<Value>, kernel: &StoredKernel, uname: &str, date: &str, records: &[KernelRecord]) {
    let (series, architecture) = (kernel.series(), kernel.architecture.debian());
    let is_it = |entry: &Value| entry["series"] == series && entry["architecture"] == architecture;
    let mut results: Vec<Value> = match entries.iter().position(is_it) {
        Some(at) => {
            let entry = entries.remove(at);
            let same = entry["kernel"] == kernel.version.as_str();
            same.then(|| entry["results"].as_array().cloned()).flatten().unwrap_or_default()
        }
        None => Vec::new(),
    };
    for record in records {
        results.retain(|result| result["what"] != record.what.as_str());
        results.push(json!({
            "what": record.what, "date": date, "passed": record.passed, "left_out": record.left_out
        }));
    }
    entries.push(json!({
        "series": series, "architecture": architecture, "kernel": kernel.version, "uname": uname, "results": results
    }));
    entries.sort_by(|a, b| {
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let by_architecture = text(a, "architecture").cmp(&text(b, "architecture"));
        by_architecture.then_with(|| super::apt::by_version(&text(a, "kernel"), &text(b, "kernel")))
    });
}

/// A row for each kernel, a column for each thing that was run on any.
fn table(all: &Value) -> String {
    let kernels = all["kernels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut columns: Vec<&str> = Vec::new();
    for result in kernels.iter().flat_map(results) {
        let what = result["what"].as_str().unwrap_or_default();
        if !columns.contains(&what) {
            columns.push(what);
        }
    }
    if columns.is_empty() {
        return tested::NOTHING.into();
    }
    let mut text = format!("| kernel | processor | {} |\n", columns.join(" | "));
    text += &format!("|---|---|{}\n", "---|".repeat(columns.len()));
    for kernel in kernels {
        let cells: Vec<String> = columns.iter().map(|what| cell(kernel, what)).collect();
        let name = |field: &str| kernel[field].as_str().unwrap_or_default();
        text += &format!("| {} | {} | {} |\n", name("kernel"), name("architecture"), cells.join(" | "));
    }
    text
}

fn results(kernel: &Value) -> &[Value] {
    kernel["results"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn cell(kernel: &Value, what: &str) -> String {
    let Some(result) = results(kernel).iter().find(|result| result["what"] == what) else { return "–".into() };
    let mut text = format!("{} passed", result["passed"]);
    let left_out = result["left_out"].as_array().map_or(0, Vec::len);
    if left_out > 0 {
        text += &format!(", {left_out} left out");
    }
    format!("{text}, {}", result["date"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Architecture;
    use super::*;

    #[test]
    fn the_table_of_the_documents_is_that_of_the_file() {
        let all: Value = serde_json::from_str(include_str!("../../../docs/kernels-tested.json")).unwrap();
        let page = include_str!("../../../docs/src/tested.md");
        assert_eq!(
            tested::with_table(page, BEGIN, &table(&all)).unwrap(),
            page,
            "write it with `cargo xtask test --kernel … --record`"
        );
    }

    #[test]
    fn without_a_result_there_is_no_table() {
        for all in [json!({ "kernels": [] }), json!({ "kernels": [{ "kernel": "6.1.9-1", "results": [] }] })] {
            assert_eq!(table(&all), "Nothing yet.\n");
        }
    }

    #[test]
    fn results_replace_older_ones_of_the_same_kernel() {
        let of = |version: &str| StoredKernel::named("6.1", version, Architecture::Amd64);
        let record = |what: &str, passed| KernelRecord { what: what.into(), passed, left_out: vec!["x: why".into()] };
        let mut entries = Vec::new();
        put(&mut entries, &of("6.1.9-1"), "Linux", "2026-01-01", &[record("datapath", 60), record("mesh", 4)]);
        put(&mut entries, &of("5.10.1-1"), "Linux", "2026-01-01", &[record("datapath", 50)]);
        put(&mut entries, &of("6.1.9-1"), "Linux", "2026-01-02", &[record("datapath", 61)]);
        let rows = table(&json!({ "kernels": entries }));
        assert!(rows.contains("| 5.10.1-1 | amd64 | 50 passed, 1 left out, 2026-01-01 | – |"), "{rows}");
        assert!(rows.contains("| 6.1.9-1 | amd64 |"), "{rows}");
        assert!(rows.contains("61 passed, 1 left out, 2026-01-02") && rows.contains("4 passed"), "{rows}");
        // What was run on an older one says nothing of it.
        put(&mut entries, &of("6.1.10-1"), "Linux", "2026-01-03", &[record("datapath", 62)]);
        let rows = table(&json!({ "kernels": entries }));
        assert!(!rows.contains("mesh") && !rows.contains("6.1.9-1"), "{rows}");
    }
}
