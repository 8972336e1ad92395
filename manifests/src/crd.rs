//! The CustomResourceDefinition as a template of the chart, made from the resource's own schema.
//!
//! Owns: the YAML, and that validation rules are shown only to servers that know them. Called by: the crate's program.

use redir_api::crd;
use serde_json::json;

use crate::TemplateError;

/// The key of CEL rules; servers before 1.25 refuse it.
const RULES: &str = "x-kubernetes-validations:";
const SINCE: &str = "{{- if semverCompare \">=1.25-0\" .Capabilities.KubeVersion.Version }}";

/// The content of `chart/templates/crd.yaml`.
pub fn template() -> Result<String, TemplateError> {
    let failed = |why: String| TemplateError::Yaml("crd", why);
    let mut definition =
        serde_json::to_value(crd::definition_with_rules()).map_err(|error| failed(error.to_string()))?;
    definition["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "redir"});
    let yaml = serde_saphyr::to_string(&definition).map_err(|error| failed(error.to_string()))?;
    Ok(format!("# Made from crates/api by `cargo run -p redir-manifests`.\n{}", with_condition(&yaml)))
}

/// Puts every block of rules under the condition that the server knows them.
fn with_condition(yaml: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut out = String::new();
    let mut within: Option<usize> = None;
    for line in yaml.lines() {
        let begins = line.trim_start() == RULES;
        // A list may stand at its key's own indentation.
        let goes_on =
            within.is_some_and(|at| indent(line) > at || line.trim_start().starts_with("- ") && indent(line) == at);
        if within.is_some() && !goes_on {
            out.push_str("{{- end }}\n");
            within = None;
        }
        if begins && within.is_none() {
            out.push_str(SINCE);
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
        let expected =
            format!("a:\n{SINCE}\n  x-kubernetes-validations:\n  - rule: r\n    message: m\n{{{{- end }}}}\n  b: 1\n");
        assert_eq!(with_condition(yaml), expected);
        let last = "a:\n  x-kubernetes-validations:\n    - rule: r\n";
        assert!(with_condition(last).ends_with("r\n{{- end }}\n"));
    }
}
