//! A wish's filter: from the wire to the table's, and as text without its values.

use redir_http::filter::{Condition, Filter, Mode, Subject, Test};
use redir_wire::{Combine, Refused, RefusedCode, Text};

/// Compiles a filter, or says what is wrong with it.
pub(crate) fn compile(filter: &redir_wire::Filter) -> Result<Filter, Refused> {
    let mode = match filter.combine {
        Combine::All => Mode::All,
        Combine::Any => Mode::Any,
    };
    let conditions = filter.conditions.iter().map(condition).collect();
    Filter::new(mode, conditions)
        .map_err(|why| Refused { code: RefusedCode::BadFilter, sentence: cut(why.to_string()) })
}

/// What the filter looks at, without values: they may be secrets of another developer.
pub(crate) fn describe(filter: &redir_wire::Filter) -> String {
    let joint = match filter.combine {
        Combine::All => " and ",
        Combine::Any => " or ",
    };
    let parts: Vec<String> = filter
        .conditions
        .iter()
        .map(|condition| match condition {
            redir_wire::Condition::HeaderPresent(name) => format!("header {name}"),
            redir_wire::Condition::Header(name, text) => format!("header {name} ({})", text.kind()),
            redir_wire::Condition::Path(text) => format!("path ({})", text.kind()),
            redir_wire::Condition::Method(method) => format!("method {method}"),
        })
        .collect();
    cut(parts.join(joint))
}

fn condition(condition: &redir_wire::Condition) -> Condition {
    let (subject, test) = match condition {
        redir_wire::Condition::HeaderPresent(name) => (Subject::Header(name.clone().into_bytes()), Test::Present),
        redir_wire::Condition::Header(name, value) => (Subject::Header(name.clone().into_bytes()), text(value)),
        redir_wire::Condition::Path(path) => (Subject::Path, text(path)),
        redir_wire::Condition::Method(method) => (Subject::Method, Test::Exact(method.clone().into_bytes())),
    };
    Condition { subject, test, negate: false }
}

fn text(text: &Text) -> Test {
    match text {
        Text::Exact(value) => Test::Exact(value.clone().into_bytes()),
        Text::Prefix(value) => Test::Prefix(value.clone().into_bytes()),
        Text::Regex(value) => Test::Regex(value.clone()),
    }
}

fn cut(mut sentence: String) -> String {
    sentence.truncate(sentence.floor_char_boundary(redir_wire::limits::SENTENCE));
    sentence
}
