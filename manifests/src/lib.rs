//! What is installed into a cluster, as documents: the Helm chart in `chart/` is the source, this crate renders it.
//!
//! Owns: the chart's templates and default values, and their rendering. Must not talk to a
//! cluster. Called by: `redir install` and its siblings; the crate's own program, which writes `kustomize/` and the
//! chart's CRD.

mod crd;
mod template;

use std::fmt;

use serde_json::Value;

pub use crd::template as crd_template;
pub use template::TemplateError;

use crate::template::Context;

/// The namespace that everything is installed into unless said otherwise.
pub const NAMESPACE: &str = redir_api::names::NAMESPACE;
/// The oldest server that redir is made for: admission policies, which decide who may intercept what, are served from there on.
pub const OLDEST: Minor = Minor(30);

/// The `30` of Kubernetes 1.30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor(pub u32);

/// The templates in the order in which they can be applied, without the CRD, which is made from the code and comes second.
/// The namespace is no part of the chart: Helm makes it itself.
const NAMESPACE_TEMPLATE: &str = include_str!("../namespace.yaml");
const TEMPLATES: [(&str, &str); 3] = [
    ("rbac", include_str!("../chart/templates/rbac.yaml")),
    ("policy", include_str!("../chart/templates/policy.yaml")),
    ("agent", include_str!("../chart/templates/agent.yaml")),
];
const VALUES: &str = include_str!("../chart/values.yaml");

/// What an installation is made for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the agents run.
    pub namespace: String,
    /// The chart's values.
    pub values: Values,
}

impl Default for Options {
    /// As in `kustomize/`.
    fn default() -> Self {
        Self { namespace: NAMESPACE.to_owned(), values: Values::default() }
    }
}

/// The values of the chart: its defaults, with some replaced.
#[derive(Clone, Debug)]
pub struct Values(serde_json::Map<String, Value>);

impl Default for Values {
    fn default() -> Self {
        match parse(VALUES).map(|documents| documents.into_iter().next()) {
            Ok(Some(Value::Object(map))) => Self(map),
            other => unreachable!("the chart's own values are a map: {other:?}"),
        }
    }
}

impl Values {
    /// Replaces values by those of a YAML text, as `helm --values` does: what a map does not name keeps its default.
    pub fn merge(&mut self, yaml: &str) -> Result<(), ValuesError> {
        for document in parse(yaml).map_err(ValuesError::Syntax)? {
            match document {
                Value::Null => (),
                Value::Object(map) => map.into_iter().try_for_each(|(name, value)| {
                    let value = self.0.get(&name).cloned().map_or(value.clone(), |old| merged(old, value));
                    self.set(&name, value)
                })?,
                _ => return Err(ValuesError::NotAMap),
            }
        }
        Ok(())
    }

    /// Replaces one value.
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), ValuesError> {
        match self.0.get_mut(name) {
            None => Err(ValuesError::Unknown(name.to_owned(), self.0.keys().cloned().collect())),
            // Kubernetes' IntOrString.
            Some(old) if old.is_number() && is_share(&value) => {
                *old = value;
                Ok(())
            }
            Some(old) if std::mem::discriminant(old) != std::mem::discriminant(&value) => {
                Err(ValuesError::Kind(name.to_owned(), kind(old)))
            }
            Some(old) => {
                *old = value;
                Ok(())
            }
        }
    }

    /// Whether this value is there and true.
    pub fn is_true(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }

    /// The labels of the nodes that take an agent.
    pub fn node_selector(&self) -> serde_json::Map<String, Value> {
        self.0.get("nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// The image that the agents run.
    pub fn image(&self) -> &str {
        self.0.get("image").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Maps are merged key by key, and null takes a key away; anything else is replaced.
fn merged(old: Value, new: Value) -> Value {
    match (old, new) {
        (Value::Object(mut old), Value::Object(new)) => {
            for (key, value) in new {
                let before = old.remove(&key);
                if !value.is_null() {
                    old.insert(key, before.map_or(value.clone(), |before| merged(before, value)));
                }
            }
            Value::Object(old)
        }
        (_, new) => new,
    }
}

/// `25%`
fn is_share(value: &Value) -> bool {
    value.as_str().and_then(|text| text.strip_suffix('%')).is_some_and(|number| number.parse::<u8>().is_ok())
}

/// The examples in the comments of `chart/values.yaml`, each a YAML text of one value: tests hold the templates and the
/// agent to them.
pub fn value_examples() -> Vec<&'static str> {
    VALUES.lines().filter_map(|line| line.strip_prefix("#   ")).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Why values cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuesError {
    /// This is no YAML, and why.
    Syntax(String),
    /// The text is no map of names.
    NotAMap,
    /// There is no value of this name among those.
    Unknown(String, Vec<String>),
    /// The value of this name must be such.
    Kind(String, &'static str),
}

impl fmt::Display for ValuesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(why) => write!(f, "this is no YAML ({why}): correct it"),
            Self::NotAMap => f.write_str("values must be a map: write `name: value` on each line"),
            Self::Unknown(name, known) => write!(f, "there is no value `{name}`: write one of {}", known.join(", ")),
            Self::Kind(name, kind) => write!(f, "`{name}` must be {kind}: change it"),
        }
    }
}

impl std::error::Error for ValuesError {}

/// Everything to be applied, in this order, as text: one name and YAML for each template that has something to say.
pub fn render_text(options: &Options) -> Result<Vec<(&'static str, String)>, TemplateError> {
    let context = Context { namespace: &options.namespace, values: &options.values.0 };
    let crd = crd_template()?;
    let first = [("namespace", NAMESPACE_TEMPLATE), ("crd", crd.as_str())];
    let rendered = first.iter().chain(&TEMPLATES).map(|(name, text)| Ok((*name, template::render(text, &context)?)));
    let rendered: Vec<(&str, String)> = rendered.collect::<Result<_, TemplateError>>()?;
    Ok(rendered.into_iter().filter(|(_, text)| !text.trim().is_empty()).collect())
}

/// Everything to be applied, in this order, one object each.
pub fn render(options: &Options) -> Result<Vec<Value>, TemplateError> {
    let mut objects = Vec::new();
    for (name, text) in render_text(options)? {
        objects.extend(parse(&text).map_err(|why| TemplateError::Yaml(name, why))?);
    }
    Ok(objects)
}

/// The files of `kustomize/`, rendered from the chart.
pub fn kustomizations() -> Result<Vec<(String, String)>, TemplateError> {
    let mut files = Vec::new();
    let mut list = String::from(GENERATED);
    list.push_str("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n");
    for (name, text) in render_text(&Options::default())? {
        list.push_str(&format!("  - {name}.yaml\n"));
        files.push((format!("kustomize/{name}.yaml"), format!("{GENERATED}{text}")));
    }
    files.push(("kustomize/kustomization.yaml".to_owned(), list));
    Ok(files)
}

const GENERATED: &str = "# Made from manifests/chart by `cargo run -p redir-manifests`.\n";

/// The documents of a YAML text.
pub fn parse(yaml: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(yaml).map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}
