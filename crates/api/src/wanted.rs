//! What a well-formed Intercept says. The schema refuses most of what is wrong; this is where the rest ends.

use std::{fmt, num::NonZeroU16};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use redir_http::filter::Filter;

use crate::{
    filter::FilterSpecError,
    intercept::{Intercept, ProbesSpec, TargetKind},
    size::SizeError,
};

/// An Intercept, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which pods.
    pub target: Target,
    /// Which port of them.
    pub port: PortRef,
    /// Which requests; `None` is all of them.
    pub filter: Option<Filter>,
    /// Who answers the kubelet's probes.
    pub probes: ProbesSpec,
    /// Whether connections from before are closed once they are idle.
    pub flush: bool,
    /// Whether connections go to the developer also while nobody listens on the port; never with a filter.
    pub even_if_down: bool,
    /// Whether the client's address is written into the developer's requests.
    pub forwarded: bool,
    /// The developer's public key, as it is written: whoever compares keys reads it.
    pub developer_key: String,
    /// Where the developer's service listens, for people.
    pub to: String,
    /// Who the developer is, for people.
    pub user: String,
}

/// Which pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Those of a workload or a Service.
    Named(TargetKind, String),
    /// Those with such labels; the selector is not empty.
    Selector(LabelSelector),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Named(kind, name) = self else { return f.write_str("the selector") };
        write!(f, "{} {name}", kind.as_str())
    }
}

/// A port, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// By its number, never 0.
    Number(u16),
    /// By its name.
    Name(String),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Why an Intercept is refused. `Display` ends with the next step and names no value of the filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// It has been changed since it was made: whoever was allowed to make it may not have been allowed this.
    Changed,
    /// Not exactly one of target and selector.
    Target,
    /// A selector that selects everything.
    EmptySelector,
    /// A port that cannot be.
    Port,
    /// A filter that cannot be used.
    Filter(FilterSpecError),
    /// `evenIfDown` beside a filter.
    EvenIfDown,
    /// More than the schema takes: the cluster has an older one.
    Size(SizeError),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("its spec has been changed; delete it and make a new one"),
            Self::Target => f.write_str("it needs exactly one of target and selector; delete it and make a new one"),
            Self::EmptySelector => {
                f.write_str("its selector is empty, which would select every pod; delete it and name some labels")
            }
            Self::Port => f.write_str("its port is not a port; delete it and give a number from 1 to 65535, or a name"),
            Self::Filter(error) => fmt::Display::fmt(error, f),
            Self::EvenIfDown => f.write_str(
                "it has evenIfDown and a filter, and a request that does not match would have nobody to go to while the \
                 app is down; delete it and leave one of the two out",
            ),
            Self::Size(error) => write!(f, "it {error}; delete it and make a smaller one"),
        }
    }
}

impl std::error::Error for SpecError {}

impl From<FilterSpecError> for SpecError {
    fn from(error: FilterSpecError) -> Self {
        Self::Filter(error)
    }
}

impl Intercept {
    /// What it says, or why it is refused.
    ///
    /// # Errors
    /// The first thing that is wrong. A `metadata.generation` other than 1 is: the right to make an Intercept is checked
    /// when it is made.
    pub fn wanted(&self) -> Result<Wanted, SpecError> {
        let wanted = self.wanted_but_filter()?;
        let filter = self.spec.filter.as_ref().map(Filter::try_from).transpose()?;
        Ok(Wanted { filter, ..wanted })
    }

    /// The same without its filter, whose regular expressions are expensive to compile: `filter` is `None` in any case.
    ///
    /// # Errors
    /// As of [`Intercept::wanted`], but for those of the filter.
    pub fn wanted_but_filter(&self) -> Result<Wanted, SpecError> {
        if self.metadata.generation != Some(1) {
            return Err(SpecError::Changed);
        }
        let spec = &self.spec;
        spec.check_size().map_err(SpecError::Size)?;
        if spec.even_if_down && spec.filter.is_some() {
            return Err(SpecError::EvenIfDown);
        }
        let target = match (&spec.target, &spec.selector) {
            (Some(target), None) => Target::Named(target.kind, target.name.clone()),
            (None, Some(selector)) if is_empty(selector) => return Err(SpecError::EmptySelector),
            (None, Some(selector)) => Target::Selector(selector.clone()),
            _ => return Err(SpecError::Target),
        };
        Ok(Wanted {
            target,
            port: port(&spec.port)?,
            filter: None,
            probes: spec.probes,
            flush: spec.flush,
            even_if_down: spec.even_if_down,
            forwarded: spec.forwarded,
            developer_key: spec.developer_key.clone(),
            to: spec.to.clone(),
            user: spec.developer(),
        })
    }
}

/// Digits alone are a number: a port's name has a letter.
fn port(port: &str) -> Result<PortRef, SpecError> {
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: NonZeroU16 = port.parse().map_err(|_| SpecError::Port)?;
        return Ok(PortRef::Number(number.get()));
    }
    if is_label(port) { Ok(PortRef::Name(port.to_owned())) } else { Err(SpecError::Port) }
}

/// Whether a Service's port, or a container's, may be called so (RFC 1123; a container's has at most 15 characters).
fn is_label(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = !name.starts_with('-') && !name.ends_with('-');
    (1..=63).contains(&name.len()) && name.bytes().all(inside) && edges
}

fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn intercept(generation: i64, spec: &serde_json::Value) -> Intercept {
        serde_json::from_value(json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
            "metadata": {"name": "a", "namespace": "n", "generation": generation}, "spec": spec,
        }))
        .expect("schema")
    }

    fn with(field: &str, value: serde_json::Value) -> serde_json::Value {
        let mut spec = json!({"target": {"kind": "Deployment", "name": "web"}, "port": "80", "developerKey": "k"});
        spec[field] = value;
        spec
    }

    #[test]
    fn a_good_one_is_read() {
        let wanted = intercept(1, &with("port", json!("http"))).wanted().expect("good");
        assert_eq!(wanted.target, Target::Named(TargetKind::Deployment, "web".into()));
        assert_eq!(wanted.port, PortRef::Name("http".into()));
        assert_eq!((wanted.filter, wanted.probes), (None, ProbesSpec::App));
    }

    #[test]
    fn even_if_down_goes_without_a_filter_only() {
        let wanted = intercept(1, &with("evenIfDown", json!(true))).wanted().expect("good");
        assert!(wanted.even_if_down && !wanted.forwarded);
        let mut both = with("evenIfDown", json!(true));
        both["filter"] = json!({"all": [{"path": {"prefix": "/a"}}]});
        assert_eq!(intercept(1, &both).wanted(), Err(SpecError::EvenIfDown));
        both["evenIfDown"] = json!(false);
        both["forwarded"] = json!(true);
        assert!(intercept(1, &both).wanted().expect("good").forwarded);
    }

    #[test]
    fn a_changed_one_is_refused() {
        assert_eq!(intercept(2, &with("port", json!("80"))).wanted(), Err(SpecError::Changed));
    }

    #[test]
    fn one_that_is_too_large_is_refused() {
        let labels = json!({"matchLabels": {"a": "b".repeat(5000)}});
        let error =
            intercept(1, &json!({"selector": labels, "port": "80", "developerKey": "k"})).wanted().expect_err("large");
        assert!(matches!(error, SpecError::Size(_)) && error.to_string().contains("make a smaller one"), "{error}");
    }

    #[test]
    fn ports_are_read_at_the_edge() {
        for (written, port) in [(json!("1"), 1), (json!("65535"), 65535)] {
            let wanted = intercept(1, &with("port", written)).wanted().expect("good");
            assert_eq!(wanted.port, PortRef::Number(port));
        }
        for bad in
            [json!(""), json!("0"), json!("-1"), json!("65536"), json!("99999"), json!("h t"), json!("x".repeat(64))]
        {
            assert_eq!(intercept(1, &with("port", bad)).wanted(), Err(SpecError::Port));
        }
    }

    #[test]
    fn exactly_one_of_target_and_selector() {
        let selector = json!({"matchLabels": {"app": "web"}});
        assert_eq!(intercept(1, &with("selector", selector.clone())).wanted(), Err(SpecError::Target));
        let only = |selector| json!({"selector": selector, "port": "80", "developerKey": "k"});
        assert!(matches!(intercept(1, &only(selector)).wanted().expect("good").target, Target::Selector(_)));
        for empty in [json!({}), json!({"matchLabels": {}, "matchExpressions": []})] {
            assert_eq!(intercept(1, &only(empty)).wanted(), Err(SpecError::EmptySelector));
        }
        assert_eq!(intercept(1, &json!({"port": "80", "developerKey": "k"})).wanted(), Err(SpecError::Target));
    }
}
