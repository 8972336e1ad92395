//! Filters.
//!
//! What the first agents knew keeps the form that they know; whatever else is a variant that they refuse.

use redir_http::filter::{Condition, Mode, Subject, Test};

use super::{list, named, text};
use crate::error::Malformed;
use crate::message::Filter;
use crate::proto::{ConditionKind, TextKind};
use crate::{limits, proto};

pub(super) fn filter(filter: proto::Filter) -> Result<Filter, Malformed> {
    let mode = match filter.combine {
        1 => Mode::All,
        2 => Mode::Any,
        _ => return Err(Malformed::Missing("how the filter's conditions combine")),
    };
    let conditions = list(filter.conditions, "the number of conditions", limits::CONDITIONS, condition)?;
    if conditions.is_empty() {
        // Without a condition it would match everything: that must be said by leaving the filter out.
        return Err(Malformed::Missing(CONDITION));
    }
    Ok(Filter { mode, conditions, preflights: filter.preflights })
}

pub(super) fn filter_to_proto(filter: &Filter) -> proto::Filter {
    let combine = match filter.mode {
        Mode::All => 1,
        Mode::Any => 2,
    };
    let conditions = filter.conditions.iter().map(condition_to_proto).collect();
    proto::Filter { combine, conditions, preflights: filter.preflights }
}

fn condition(condition: proto::Condition) -> Result<Condition, Malformed> {
    let (kind, negate) = match condition.kind.ok_or(Malformed::Missing(CONDITION))? {
        ConditionKind::Not(turned) => (turned.kind.ok_or(Malformed::Missing(CONDITION))?, true),
        kind => (kind, false),
    };
    let (subject, test) = match kind {
        ConditionKind::HeaderPresent(name) => (Subject::Header(self::name(name)?), Test::Present),
        ConditionKind::Header(header) => (Subject::Header(name(header.name)?), test(header.value)?),
        ConditionKind::Query(parameter) => (Subject::Query(name(parameter.name)?), test(parameter.value)?),
        ConditionKind::Cookie(cookie) => (Subject::Cookie(name(cookie.name)?), test(cookie.value)?),
        ConditionKind::Baggage(member) => (Subject::Baggage(name(member.name)?), test(member.value)?),
        ConditionKind::Path(path) => (Subject::Path, test(Some(path))?),
        ConditionKind::Method(method) => {
            (Subject::Method, Test::Exact(named(method, "a method", limits::NAME)?.into_bytes()))
        }
        ConditionKind::MethodText(method) => (Subject::Method, test(Some(method))?),
        ConditionKind::Not(_) => return Err(Malformed::Invalid("a condition that is turned around twice")),
    };
    Ok(Condition { subject, test, negate })
}

fn name(name: String) -> Result<Vec<u8>, Malformed> {
    named(name, "the name in a condition", limits::NAME).map(String::into_bytes)
}

fn test(value: Option<proto::Text>) -> Result<Test, Malformed> {
    const TEXT: &str = "a condition's text";
    let within = |bytes: Vec<u8>| {
        if bytes.len() > limits::TEXT { Err(Malformed::TooLong { what: TEXT, limit: limits::TEXT }) } else { Ok(bytes) }
    };
    Ok(match value.and_then(|value| value.kind).ok_or(Malformed::Missing(TEXT))? {
        TextKind::Exact(value) => Test::Exact(within(value.into_bytes())?),
        TextKind::Prefix(value) => Test::Prefix(within(value.into_bytes())?),
        TextKind::Regex(value) => Test::Regex(text(value, TEXT, limits::TEXT)?),
        TextKind::Present(_) => Test::Present,
        TextKind::ExactBytes(value) => Test::Exact(within(value)?),
        TextKind::PrefixBytes(value) => Test::Prefix(within(value)?),
    })
}

fn condition_to_proto(condition: &Condition) -> proto::Condition {
    let value = test_to_proto(&condition.test);
    // Whatever is no name is refused by its reader.
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let named = |of: &[u8]| proto::NamedText { name: name(of), value: Some(value.clone()) };
    let kind = match (&condition.subject, &value.kind) {
        (Subject::Header(of), Some(TextKind::Present(_))) => ConditionKind::HeaderPresent(name(of)),
        (Subject::Header(of), _) => ConditionKind::Header(named(of)),
        (Subject::Query(of), _) => ConditionKind::Query(named(of)),
        (Subject::Cookie(of), _) => ConditionKind::Cookie(named(of)),
        (Subject::Baggage(of), _) => ConditionKind::Baggage(named(of)),
        (Subject::Path, _) => ConditionKind::Path(value),
        (Subject::Method, Some(TextKind::Exact(method))) => ConditionKind::Method(method.clone()),
        (Subject::Method, _) => ConditionKind::MethodText(value),
    };
    let kind = proto::Condition { kind: Some(kind) };
    if condition.negate { proto::Condition { kind: Some(ConditionKind::Not(Box::new(kind))) } } else { kind }
}

fn test_to_proto(test: &Test) -> proto::Text {
    let kind = match test {
        Test::Present => TextKind::Present(proto::Empty {}),
        Test::Exact(value) => match String::from_utf8(value.clone()) {
            Ok(text) => TextKind::Exact(text),
            Err(not_utf8) => TextKind::ExactBytes(not_utf8.into_bytes()),
        },
        Test::Prefix(value) => match String::from_utf8(value.clone()) {
            Ok(text) => TextKind::Prefix(text),
            Err(not_utf8) => TextKind::PrefixBytes(not_utf8.into_bytes()),
        },
        Test::Regex(pattern) => TextKind::Regex(pattern.clone()),
    };
    proto::Text { kind: Some(kind) }
}

const CONDITION: &str = "a condition of the filter";
