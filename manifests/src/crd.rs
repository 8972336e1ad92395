//! The CustomResourceDefinition as a template of the chart, made from the resource's own schema.
//!
//! Owns: the YAML. Called by: the crate's program.

use redir_api::crd;
use serde_json::json;

use crate::TemplateError;

/// The content of `chart/templates/crd.yaml`.
pub fn template() -> Result<String, TemplateError> {
    let failed = |why: String| TemplateError::Yaml("crd", why);
    let mut definition = serde_json::to_value(crd::definition()).map_err(|error| failed(error.to_string()))?;
    definition["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "redir"});
    let yaml = serde_saphyr::to_string(&definition).map_err(|error| failed(error.to_string()))?;
    Ok(format!("# Made from crates/api by `cargo run -p redir-manifests`.\n{yaml}"))
}
