//! What the developer may write behind a flag, parsed once: inside, nothing is checked again.
//!
//! Owns: ports, targets, addresses of agents and services (Kubernetes' own are in `cluster::target`). Must not touch files,
//! sockets or clap. Called by: `args`, `config`, `commands`.

mod address;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use redir_api::TargetKind;
use redir_tunnel::{Pin, PinError};

use crate::model::values::{LabelSet, LeaveTarget, PortMapping, PortName, Seconds, Target, short};
use crate::wording::values as say;

impl FromStr for PortMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<NonZeroU16>().map_err(|_| say::port(part));
        match text.split_once(':') {
            None => Ok(Self { pod: text.parse()?, own: None }),
            Some((pod, own)) => Ok(Self { pod: pod.parse()?, own: Some(number(own)?) }),
        }
    }
}

impl FromStr for PortName {
    type Err = String;

    /// A name is an IANA service name (RFC 6335): at most 15 letters, digits and dashes, with at least one letter.
    fn from_str(text: &str) -> Result<Self, String> {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = text.len() <= 15
            && text.bytes().all(inside)
            && text.bytes().any(|b| b.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-');
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if is_name => Ok(Self::Name(text.to_owned())),
            Err(_) => Err(say::port(text)),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return labels(text).map(Self::Labels);
        }
        if let Some((kind, name)) = text.split_once('/') {
            let kind = workload_kind(kind).ok_or_else(|| say::kind(kind))?;
            return match is_name(name) {
                true => Ok(Self::Workload(kind, name.to_owned())),
                false => Err(say::workload_name(name)),
            };
        }
        match is_name(text) {
            true => Ok(Self::Pod(text.to_owned())),
            false => Err(say::target(text)),
        }
    }
}

/// The kinds as kubectl takes them: short, singular, plural, each also with its group (`deployments.apps`).
fn workload_kind(text: &str) -> Option<TargetKind> {
    let text = text.to_ascii_lowercase();
    TargetKind::ALL.into_iter().find(|kind| {
        let name = match text.split_once('.') {
            Some((name, group)) if group == kind.group() => name,
            Some(_) => return false,
            None => text.as_str(),
        };
        name == short(*kind)
            || name == abbreviation(*kind)
            || name == kind.plural()
            || name == kind.as_str().to_ascii_lowercase()
    })
}

/// kubectl's own abbreviations beside those.
fn abbreviation(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Deployment => "deploy",
        TargetKind::StatefulSet => "sts",
        TargetKind::DaemonSet => "ds",
        TargetKind::ReplicaSet => "rs",
        TargetKind::Job => "job",
        TargetKind::Pod => "po",
        TargetKind::Service => "svc",
        TargetKind::Rollout => "ro",
    }
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| say::label(pair))?;
        let sane = is_name(&key.replacen('/', ".", 1)) && (value.is_empty() || is_name(value));
        if !sane {
            return Err(say::label(pair));
        }
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(say::label_twice(key));
        }
    }
    Ok(labels)
}

fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 253 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}

impl FromStr for LabelSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        labels(text).map(Self)
    }
}

impl FromStr for LeaveTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Target),
        }
    }
}

/// An agent's public key, as `redir-agent keygen` prints it.
pub(crate) fn agent_key(text: &str) -> Result<Pin, String> {
    text.parse().map_err(|error| match error {
        // Perhaps a private key: it is not repeated.
        PinError::WholeKey => error.to_string(),
        PinError::Prefix | PinError::Length(_) | PinError::Alphabet => say::agent_key(text, error),
    })
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 1..=3600) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(say::seconds(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::model::values::{AgentAddress, ServiceAddress};

    fn error<T: FromStr<Err = String> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err()
    }

    #[test]
    fn ports() {
        let port = |number| NonZeroU16::new(number).unwrap();
        let number = PortName::Number(port(8080));
        assert_eq!("8080".parse(), Ok(PortMapping { pod: number.clone(), own: None }));
        assert_eq!("8080:3000".parse(), Ok(PortMapping { pod: number, own: Some(port(3000)) }));
        let named = PortMapping { pod: PortName::Name("http".into()), own: Some(port(3000)) };
        assert_eq!("http:3000".parse(), Ok(named));
        for bad in [
            "",
            "0",
            "65536",
            "8080:",
            ":3000",
            "8080:0",
            "A",
            "8080:3000:1",
            "-1",
            " 80",
            "-a",
            "a-",
            "a-name-too-long-",
        ] {
            assert!(bad.parse::<PortMapping>().is_err(), "{bad:?}");
        }
        assert!(error::<PortMapping>("8080:http").contains("`http`"));
    }

    #[test]
    fn targets() {
        assert_eq!("web-1".parse(), Ok(Target::Pod("web-1".into())));
        let labels: Target = "tier=front,app=web".parse().unwrap();
        assert_eq!(labels.to_string(), "app=web,tier=front");
        assert!("app.kubernetes.io/name=web".parse::<Target>().is_ok());
        for written in
            ["deploy/web", "deployments/web", "Deployment/web", "deployment.apps/web", "deployments.apps/web"]
        {
            assert_eq!(written.parse(), Ok(Target::Workload(TargetKind::Deployment, "web".into())), "{written}");
        }
        for kind in TargetKind::ALL {
            let target = Target::Workload(kind, "web-1".into());
            assert_eq!(target.to_string().parse(), Ok(target.clone()));
            assert_eq!(format!("{}/web-1", abbreviation(kind)).parse(), Ok(target));
        }
        for bad in ["deploy/", "deploy/a/b", "/web", "cronjob/web", "deploy.batch/web"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        for bad in ["", "-web", "a b", "web/1", "app=", "=web", "app=web,", "app=web,tier", "app=a,app=b", "a/b/c=d"] {
            assert_eq!(bad.parse::<Target>().is_err(), bad != "app=", "{bad:?}");
        }
        assert_eq!("17".parse(), Ok(LeaveTarget::Id(17)));
        assert_eq!("web-1".parse(), Ok(LeaveTarget::Target(Target::Pod("web-1".into()))));
    }

    /// Whatever is typed: an answer in one line, no panic.
    #[test]
    fn any_text_gets_one_line() {
        let alphabet: Vec<char> = "az09:=,/.-_[](){}*+?\\ \t\n\u{1b}é\0".chars().collect();
        let mut state = 42_u64;
        for round in 0..5_000_usize {
            let text: String = (0..round % 13)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    alphabet[usize::try_from(state >> 33).unwrap() % alphabet.len()]
                })
                .collect();
            let errors = [
                text.parse::<PortMapping>().err(),
                text.parse::<LeaveTarget>().err(),
                text.parse::<AgentAddress>().err(),
                text.parse::<ServiceAddress>().err(),
            ];
            for error in errors.into_iter().flatten() {
                assert!(error.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{text:?} gives {error:?}");
            }
        }
    }
}
