//! The Intercept that says what the command line does.
//!
//! Owns: the object to create. Must not create it. Called by: `lease`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use redir_api::{FilterSpec, Intercept, InterceptSpec, ProbesSpec, TargetKind, TargetSpec, names};
use redir_tunnel::Pin;
use redir_wire::{EarlierConnections, Filter, Probes};

use crate::error::CliError;
use crate::model::values::{PortName, Target};
use crate::timestamps;
use crate::wording::values as say;

/// Longer names are cut, so that the suffix still fits.
const PREFIX: usize = 50;
/// Of the key, in a name.
const SUFFIX: usize = 8;

/// What of the command line goes into the object.
#[derive(Debug, Clone)]
pub(crate) struct InterceptTemplate {
    pub(crate) target: Target,
    pub(crate) port: PortName,
    pub(crate) filter: Option<Filter>,
    pub(crate) probes: Probes,
    pub(crate) earlier: EarlierConnections,
    pub(crate) even_if_down: bool,
    pub(crate) forwarded: bool,
    pub(crate) key: Pin,
    /// `127.0.0.1:3000`
    pub(crate) to: String,
    /// As the API server knows the developer.
    pub(crate) user: String,
    /// `alice@laptop`
    pub(crate) from: String,
}

impl InterceptTemplate {
    /// Whether connections of people who are not meant may be closed by it, which is a right of its own.
    pub(crate) fn flushes_beside_a_filter(&self) -> bool {
        self.earlier == EarlierConnections::Close && self.filter.is_some()
    }

    /// A new object, which the server would take no larger. Its name comes from the key: made twice, it is the same one.
    pub(crate) fn object(&self) -> Result<Intercept, CliError> {
        let (target, selector) = match &self.target {
            Target::Labels(labels) => (None, Some(labels.clone())),
            Target::Pod(name) => (Some(TargetSpec { kind: TargetKind::Pod, name: name.clone() }), None),
            Target::Workload(kind, name) => (Some(TargetSpec { kind: *kind, name: name.clone() }), None),
        };
        let filter = self.filter.as_ref().map(Filter::compile).transpose();
        let filter = filter.map_err(|error| CliError::Usage(say::filter(&error)))?;
        let object = Intercept {
            metadata: ObjectMeta {
                name: Some(name(&self.target, &self.key)),
                annotations: Some(renewed()),
                ..ObjectMeta::default()
            },
            spec: InterceptSpec {
                target,
                selector: selector.map(|labels| LabelSelector { match_labels: Some(labels), match_expressions: None }),
                port: self.port.to_string(),
                filter: filter.as_ref().map(FilterSpec::from),
                probes: match self.probes {
                    Probes::App => ProbesSpec::App,
                    Probes::Developer => ProbesSpec::Developer,
                },
                flush: self.earlier == EarlierConnections::Close,
                even_if_down: self.even_if_down,
                forwarded: self.forwarded,
                developer_key: self.key.to_string(),
                to: self.to.clone(),
                user: self.user.clone(),
                from: self.from.clone(),
            },
            status: None,
        };
        object.spec.check_size().map_err(|error| CliError::Usage(say::too_large(&error)))?;
        Ok(object)
    }
}

/// The annotation that says that `redir` is still there.
pub(crate) fn renewed() -> BTreeMap<String, String> {
    BTreeMap::from([(names::RENEWED.to_owned(), timestamps::rfc3339(timestamps::now()))])
}

/// `web-47deqpj8`: no two intercepts have one key.
fn name(target: &Target, key: &Pin) -> String {
    let key = key.to_string();
    let (_, digest) = key.split_once(':').unwrap_or_default();
    let suffix = digest.chars().filter(char::is_ascii_alphanumeric).take(SUFFIX);
    prefix(target).chars().chain(suffix.map(|c| c.to_ascii_lowercase())).collect()
}

/// `web-`
fn prefix(target: &Target) -> String {
    let name = match target {
        Target::Pod(name) | Target::Workload(_, name) => name.as_str(),
        Target::Labels(labels) => labels.values().next().map_or("pods", String::as_str),
    };
    let inside = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(inside).take(PREFIX).collect();
    match name.trim_matches('-') {
        "" => "pods-".to_owned(),
        name => format!("{name}-"),
    }
}

#[cfg(test)]
mod tests {
    use redir_api::limits;
    use redir_http::filter::{Condition, Mode, Subject, Test};
    use serde_json::{Value, json};

    use super::*;

    fn template(target: &str) -> InterceptTemplate {
        InterceptTemplate {
            target: target.parse().unwrap(),
            port: "http".parse().unwrap(),
            filter: None,
            probes: Probes::App,
            earlier: EarlierConnections::Stay,
            even_if_down: false,
            forwarded: false,
            key: "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".parse().unwrap(),
            to: "127.0.0.1:3000".into(),
            user: "alice@example.com".into(),
            from: "alice@laptop".into(),
        }
    }

    fn spec(template: &InterceptTemplate) -> Value {
        serde_json::to_value(template.object().unwrap()).unwrap()["spec"].clone()
    }

    #[test]
    fn a_workload_and_a_filter() {
        let subject = Subject::Header("x-user".into());
        let condition = Condition { subject, test: Test::Exact("alice".into()), negate: false };
        let filter = Some(Filter { mode: Mode::Any, conditions: vec![condition], preflights: false });
        let template = InterceptTemplate { filter, port: "8080".parse().unwrap(), ..template("deploy/web") };
        let expected = json!({
            "target": {"kind": "Deployment", "name": "web"}, "port": "8080", "probes": "App",
            "filter": {"any": [{"header": {"name": "x-user", "exact": "alice"}}]},
            "developerKey": "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
            "to": "127.0.0.1:3000", "user": "alice@example.com", "from": "alice@laptop",
        });
        assert_eq!(spec(&template), expected);
        let object = template.object().unwrap();
        assert_eq!(object.metadata.name.as_deref(), Some("web-47deqpj8"));
        assert!(object.metadata.annotations.unwrap().contains_key(names::RENEWED));
    }

    #[test]
    fn what_the_server_would_refuse_as_too_large_is_no_object() {
        let with = |length: usize| {
            let test = Test::Exact(vec![b'a'; length]);
            let condition = Condition { subject: Subject::Header("x".into()), test, negate: false };
            let filter = Some(Filter { mode: Mode::Any, conditions: vec![condition], preflights: false });
            InterceptTemplate { filter, ..template("deploy/web") }.object()
        };
        assert!(with(limits::TEXT - 1).is_ok());
        let Err(CliError::Usage(sentence)) = with(limits::TEXT) else { panic!("it is taken") };
        assert!(
            sentence.contains("4097 characters in filter and selector together, and 4096 are the most"),
            "{sentence}"
        );
        let labels = (0..17).map(|n| format!("l{n}=a")).collect::<Vec<_>>().join(",");
        assert!(template(&labels).object().is_err());
    }

    #[test]
    fn what_is_asked_for_beside_is_written_only_then() {
        let plain = spec(&template("deploy/web"));
        assert!(plain.get("evenIfDown").is_none() && plain.get("forwarded").is_none());
        let asked = spec(&InterceptTemplate { even_if_down: true, forwarded: true, ..template("deploy/web") });
        assert_eq!((&asked["evenIfDown"], &asked["forwarded"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn pods_and_labels() {
        assert_eq!(spec(&template("web-1"))["target"], json!({"kind": "Pod", "name": "web-1"}));
        let labels = spec(&template("app=web,tier=front"));
        assert_eq!(labels["selector"], json!({"matchLabels": {"app": "web", "tier": "front"}}));
        assert_eq!((&labels["target"], &labels["port"]), (&Value::Null, &json!("http")));
    }

    #[test]
    fn prefixes_are_names() {
        let of = |target: &str| prefix(&target.parse().unwrap());
        assert_eq!(of("app=Web.9_x"), "web-9-x-");
        assert_eq!(of("app="), "pods-");
        assert_eq!(of(&format!("pod/{}", "a".repeat(200))).len(), PREFIX + 1);
    }
}
