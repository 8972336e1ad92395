//! The little of Helm's template language that the chart uses, rendered as Helm would.
//!
//! Owns: `{{ .Values.NAME | toJson }}`, `{{ .Values.NAME | quote }}` and `{{ .Release.Namespace | quote }}`; and, on lines of
//! their own, `{{- if .Values.NAME }}` or `{{- if not .Values.NAME }}` of a boolean … `{{- end }}`, not nested. Must not know
//! what is rendered. Called by: `render_text`.

use std::fmt;

use serde_json::{Map, Value};

/// What a template can speak of.
pub(crate) struct Context<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) values: &'a Map<String, Value>,
}

/// What is wrong with a template or the values in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// This directive is none that is known.
    Directive(String),
    /// A block ends that never began, or the other way round.
    Block,
    /// With these values the template of this name is no YAML, and why.
    Yaml(&'static str, String),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directive(text) => write!(f, "the chart holds an unknown directive `{text}`"),
            Self::Block => f.write_str("the chart holds an `if` without `end`"),
            Self::Yaml(name, why) => {
                write!(f, "with these values {name}.yaml is no YAML ({why}): quote the text in them")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// The text with every directive replaced.
pub(crate) fn render(template: &str, context: &Context<'_>) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(template.len());
    let mut shown: Option<bool> = None;
    for line in template.lines() {
        let block = line.strip_prefix("{{- ").and_then(|rest| rest.strip_suffix(" }}"));
        shown = match (block, shown) {
            (Some("end"), Some(_)) => None,
            (Some(condition), None) => Some(holds(condition, context)?),
            (Some(_), _) => return Err(TemplateError::Block),
            (None, shown) => {
                if shown != Some(false) {
                    substitute(line, context, &mut out)?;
                    out.push('\n');
                }
                shown
            }
        };
    }
    if shown.is_some() { Err(TemplateError::Block) } else { Ok(out) }
}

/// `if .Values.NAME`, `if not .Values.NAME`
fn holds(condition: &str, context: &Context<'_>) -> Result<bool, TemplateError> {
    let (is_wanted, name) = match condition.strip_prefix("if not .Values.") {
        Some(name) => (false, Some(name)),
        None => (true, condition.strip_prefix("if .Values.")),
    };
    let value = name.and_then(|name| context.values.get(name)).and_then(Value::as_bool);
    value.map(|value| value == is_wanted).ok_or_else(|| TemplateError::Directive(condition.to_owned()))
}

fn substitute(line: &str, context: &Context<'_>, out: &mut String) -> Result<(), TemplateError> {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (directive, after) = after.split_once(" }}").ok_or_else(|| TemplateError::Directive(line.to_owned()))?;
        out.push_str(before);
        out.push_str(&value(directive, context)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(())
}

fn value(directive: &str, context: &Context<'_>) -> Result<String, TemplateError> {
    let unknown = || TemplateError::Directive(directive.to_owned());
    let (name, function) = directive.split_once(" | ").ok_or_else(unknown)?;
    let namespace = Value::String(context.namespace.to_owned());
    let value = match name.strip_prefix(".Values.") {
        Some(name) => context.values.get(name).ok_or_else(unknown)?,
        None if name == ".Release.Namespace" => &namespace,
        None => return Err(unknown()),
    };
    match (function, value) {
        // What may be anything is never put in as it is: a text could be YAML of another kind (`true`, `a: b`).
        ("toJson", value) | ("quote", value @ Value::String(_)) => Ok(for_yaml(&value.to_string())),
        ("quote", Value::Number(_) | Value::Bool(_)) => Ok(format!("\"{value}\"")),
        _ => Err(unknown()),
    }
}

/// JSON that is YAML too: what YAML takes for the end of a line, or does not take at all, is escaped.
fn for_yaml(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String, TemplateError> {
        let values = json!({"image": "a/b:1", "list": [{"operator": "Exists"}], "n": 1, "yes": true, "no": false});
        let values = values.as_object().unwrap();
        render(template, &Context { namespace: "redir-system", values })
    }

    #[test]
    fn values_are_put_in() {
        let template = "a: {{ .Values.image | quote }}\nb: {{ .Values.list | toJson }} # {{ .Values.n | toJson }}\n\
                        c: [{{ .Release.Namespace | quote }}, {{ .Values.n | quote }}]\n";
        let expected = "a: \"a/b:1\"\nb: [{\"operator\":\"Exists\"}] # 1\nc: [\"redir-system\", \"1\"]\n";
        assert_eq!(rendered(template).as_deref(), Ok(expected));
    }

    #[test]
    fn blocks_follow_a_boolean_value() {
        assert_eq!(rendered("{{- if .Values.yes }}\nb\n{{- end }}\n").as_deref(), Ok("b\n"));
        assert_eq!(rendered("{{- if .Values.no }}\nb\n{{- end }}\n").as_deref(), Ok(""));
        assert_eq!(rendered("{{- if not .Values.yes }}\nb\n{{- end }}\n").as_deref(), Ok(""));
        assert_eq!(rendered("{{- if not .Values.no }}\nb\n{{- end }}\n").as_deref(), Ok("b\n"));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "{{ .Values.other | quote }}",
            "{{ .Values.image }}",
            "{{ .Release.Namespace }}",
            "{{ .Values.list | quote }}",
            "{{ .Values.image | upper }}",
            "{{ .Chart.Name | quote }}",
            "{{ .Values.image | quote",
            "{{- end }}",
        ] {
            assert!(rendered(bad).is_err(), "{bad}");
        }
        let open = "{{- if .Values.yes }}";
        assert_eq!(rendered(open), Err(TemplateError::Block));
        assert_eq!(rendered(&format!("{open}\n{open}")), Err(TemplateError::Block));
        for bad in [
            ".Values.image",
            "not .Values.image",
            ".Values.other",
            "not .Values.other",
            "not not .Values.yes",
            "not",
            "semverCompare \">=1.30-0\" .Capabilities.KubeVersion.Version",
        ] {
            assert!(rendered(&format!("{{{{- if {bad} }}}}\n{{{{- end }}}}")).is_err(), "{bad}");
        }
    }
}
