//! What `cargo xtask cluster status` says, in words for people and as JSON for programs.

use std::io::{self, Write};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Cluster, Piece};
use crate::ui;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Prints it; an error unless a cluster is there and all of it works.
pub(super) fn show(cluster: Option<&Cluster>, format: Format) -> Result<()> {
    let Some(cluster) = cluster else {
        if format == Format::Json {
            println!("{}", json!({ "state": "down" }));
        }
        bail!("no cluster is on this machine: `cargo xtask cluster up` starts one");
    };
    let wanting = cluster.provider.wanting();
    let text = match format {
        Format::Text => as_text(cluster)?,
        Format::Json => as_json(cluster, wanting.as_deref())?.to_string(),
    };
    // Whoever reads only the beginning of it has what they wanted.
    let _ = writeln!(io::stdout(), "{text}");
    if let Some(wanting) = wanting {
        bail!("{wanting}; `cargo xtask cluster up` starts what is missing");
    }
    Ok(())
}

fn as_text(cluster: &Cluster) -> Result<String> {
    let provider = &cluster.provider;
    let version = server_version(cluster).map(|version| format!("Kubernetes {version}"));
    let memory = provider.memory().map(|bytes| format!(", {} MB of memory", bytes / 1_000_000));
    let mut lines = vec![format!(
        "{} {}, {}{}",
        ui::bold("cluster"),
        provider.name(),
        version.as_deref().unwrap_or("its API server does not answer"),
        memory.unwrap_or_default()
    )];
    lines.extend(provider.pieces()?.iter().map(line));
    lines.extend(nodes(cluster)?.iter().map(node_line));
    lines.push(format!("export KUBECONFIG={}", cluster.kubeconfig().display()));
    Ok(lines.join("\n   "))
}

fn line(piece: &Piece) -> String {
    let state = match piece.processes.first() {
        Some(_) => ui::green("running"),
        None => ui::red("stopped"),
    };
    format!("{:<24} {state}  {:<28} {}", piece.name, piece.version, piece.endpoint)
}

fn node_line(node: &Value) -> String {
    let ready = if node["ready"] == true { ui::green("Ready") } else { ui::red("not Ready") };
    let text = |key: &str| node[key].as_str().unwrap_or("?").to_owned();
    format!("{:<24} {ready}    {:<28} {}", text("name"), text("runtime"), text("address"))
}

fn as_json(cluster: &Cluster, wanting: Option<&str>) -> Result<Value> {
    let provider = &cluster.provider;
    let piece = |piece: &Piece| {
        json!({
            "name": piece.name,
            "state": if piece.processes.is_empty() { "stopped" } else { "running" },
            "version": piece.version,
            "endpoint": piece.endpoint,
            "pids": piece.processes,
            "log": piece.log,
        })
    };
    Ok(json!({
        "state": if wanting.is_none() { "up" } else { "incomplete" },
        "wanting": wanting,
        "provider": provider.name(),
        "kubernetes": server_version(cluster),
        "memory_bytes": provider.memory(),
        "kubeconfig": cluster.kubeconfig(),
        "audit_log": provider.audit_log(),
        "components": provider.pieces()?.iter().map(piece).collect::<Vec<_>>(),
        "nodes": nodes(cluster)?,
    }))
}

fn server_version(cluster: &Cluster) -> Option<String> {
    let answer: Value = serde_json::from_str(&cluster.kubectl().raw("/version").ok()?).ok()?;
    answer["gitVersion"].as_str().map(str::to_owned)
}

/// What the cluster says of its nodes; without an API server, what is known of them anyway.
fn nodes(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.kubectl().get(&["nodes"]).unwrap_or_default();
    let told = |name: &str| {
        let mut items = list["items"].as_array().into_iter().flatten();
        items.find(|item| item["metadata"]["name"] == name).cloned().unwrap_or_default()
    };
    let node = |node: super::Node| {
        let told = told(&node.name);
        let mut conditions = told["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let runtime = &told["status"]["nodeInfo"]["containerRuntimeVersion"];
        json!({ "name": node.name, "address": node.address, "ready": ready, "runtime": runtime })
    };
    Ok(cluster.nodes()?.into_iter().map(node).collect())
}
