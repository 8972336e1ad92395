//! The CustomResourceDefinition as a template of the chart, made from the resource's own schema.
//!
//! Owns: the YAML, and that validation rules are shown only to servers that know them, and `flush` to those that check who
//! may use it. Called by: the crate's program.

use redir_api::crd;
use serde_json::json;

use crate::TemplateError;

/// What is not for every server, and from which release on it is.
const CONDITIONAL: [(&str, &str); 2] = [
    // CEL rules: older servers refuse the key.
    ("x-kubernetes-validations:", "1.25"),
    // Its right is checked by an admission policy; a server without one prunes the field.
    ("flush:", "1.30"),
];

fn since(release: &str) -> String {
    format!("{{{{- if semverCompare \">={release}-0\" .Capabilities.KubeVersion.Version }}}}")
}

/// The content of `chart/templates/crd.yaml`.
pub fn template() -> Result<String, TemplateError> {
    let failed = |why: String| TemplateError::Yaml("crd", why);
    let mut definition =
        serde_json::to_value(crd::definition_with_rules()).map_err(|error| failed(error.to_string()))?;
    definition["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "redir"});
    let yaml = serde_saphyr::to_string(&definition).map_err(|error| failed(error.to_string()))?;
    Ok(format!("# Made from crates/api by `cargo run -p redir-manifests`.\n{}", with_condition(&yaml)))
}

/// Puts every such block under its condition.
fn with_condition(yaml: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::new();
    let mut within: Option<usize> = None;
    for line in yaml.lines() {
        let begins = CONDITIONAL.iter().find(|(key, _)| *key == line.trim_start());
        // A list may stand at its key's own indentation.
        let goes_on =
            within.is_some_and(|at| indent(line) > at || line.trim_start().starts_with("- ") && indent(line) == at);
        if within.is_some() && !goes_on {
            out.push_str("{{- end }}\n");
            within = None;
        }
        if let (Some((_, release)), None) = (begins, within) {
            out.push_str(&since(release));
            out.push('\n');
            within = Some(indent(line));
        }
        out.push_str(line);
        out.push('\n');
    }
    if within.is_some() {
        out.push_str("{{- end }}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_under_their_condition() {
        let yaml = "a:\n  x-kubernetes-validations:\n  - rule: r\n    message: m\n  b: 1\n";
        let expected = format!(
            "a:\n{}\n  x-kubernetes-validations:\n  - rule: r\n    message: m\n{{{{- end }}}}\n  b: 1\n",
            since("1.25")
        );
        assert_eq!(with_condition(yaml), expected);
        let last = "a:\n  x-kubernetes-validations:\n    - rule: r\n";
        assert!(with_condition(last).ends_with("r\n{{- end }}\n"));
    }
}
