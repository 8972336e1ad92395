//! Between the checked messages and their protobuf form. All limits are enforced here, on the reader's side.

mod agent;
mod developer;
mod filter;
mod tls;

use crate::error::Malformed;
use crate::message::{Labels, Selector, Token};
use crate::{limits, proto};

/// A text within its limit.
fn text(text: String, what: &'static str, limit: usize) -> Result<String, Malformed> {
    if text.len() > limit { Err(Malformed::TooLong { what, limit }) } else { Ok(text) }
}

/// A text within its limit that is not empty.
fn named(name: String, what: &'static str, limit: usize) -> Result<String, Malformed> {
    if name.is_empty() { Err(Malformed::Missing(what)) } else { text(name, what, limit) }
}

/// A list within its limit, element by element.
fn list<P, M>(
    items: Vec<P>,
    what: &'static str,
    limit: usize,
    item: impl Fn(P) -> Result<M, Malformed>,
) -> Result<Vec<M>, Malformed> {
    if items.len() > limit {
        return Err(Malformed::TooLong { what, limit });
    }
    items.into_iter().map(item).collect()
}

fn port(port: u32) -> Result<u16, Malformed> {
    match u16::try_from(port) {
        Ok(0) | Err(_) => Err(Malformed::Invalid("a port")),
        Ok(port) => Ok(port),
    }
}

fn token(bytes: &[u8]) -> Result<Token, Malformed> {
    bytes.try_into().map(Token).map_err(|_| Malformed::Invalid("a token"))
}

fn labels(labels: Vec<proto::Label>) -> Result<Labels, Malformed> {
    let pairs = list(labels, "the number of labels", limits::LABELS, |label| {
        let key = named(label.key, "a label's key", limits::LABEL_KEY)?;
        Ok((key, text(label.value, "a label's value", limits::LABEL_VALUE)?))
    })?;
    let count = pairs.len();
    let labels: Labels = pairs.into_iter().collect();
    if labels.len() == count { Ok(labels) } else { Err(Malformed::Invalid("a label that is given twice")) }
}

fn labels_to_proto(labels: &Labels) -> Vec<proto::Label> {
    labels.iter().map(|(key, value)| proto::Label { key: key.clone(), value: value.clone() }).collect()
}

fn selector(selector: Option<proto::Selector>) -> Result<Selector, Malformed> {
    let what = "the selector of pods";
    match selector.and_then(|selector| selector.kind).ok_or(Malformed::Missing(what))? {
        proto::SelectorKind::Pod(name) => Ok(Selector::Pod(named(name, "a pod's name", limits::NAME)?)),
        proto::SelectorKind::Labels(set) => match labels(set.labels)? {
            set if set.is_empty() => Err(Malformed::Missing(what)),
            set => Ok(Selector::Labels(set)),
        },
    }
}

fn selector_to_proto(selector: &Selector) -> proto::Selector {
    let kind = match selector {
        Selector::Pod(name) => proto::SelectorKind::Pod(name.clone()),
        Selector::Labels(labels) => proto::SelectorKind::Labels(proto::Labels { labels: labels_to_proto(labels) }),
    };
    proto::Selector { kind: Some(kind) }
}
