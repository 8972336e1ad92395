//! The developer's conditions as the tunnel carries them, and a `curl` line that meets them.
//!
//! Owns: both translations. Must not word anything else. Called by: `commands::intercept`.

use redir_http::filter as judge;
use redir_wire::{Combine, Condition, Filter, Text};

use crate::args::Conditions;
use crate::escape::shell_word;
use crate::trouble::Trouble;
use crate::values::{HeaderText, UrlPath};
use crate::wording::values as say;

/// The filter of these conditions; `None` without any: every request. What the agent would refuse is refused here.
pub(crate) fn filter(given: &Conditions) -> Result<Option<Filter>, Trouble> {
    let filter = translate(given);
    if let Some(filter) = &filter {
        check(filter).map_err(|error| Trouble::Usage(say::filter(&error.to_string())))?;
    }
    Ok(filter)
}

fn translate(given: &Conditions) -> Option<Filter> {
    let header = |kind: fn(String) -> Text| {
        move |header: &HeaderText| Condition::Header(header.name.0.clone(), kind(header.value.clone()))
    };
    let path = |kind: fn(String) -> Text| move |path: &UrlPath| Condition::Path(kind(path.0.clone()));
    let mut conditions: Vec<Condition> = Vec::new();
    conditions.extend(given.header.iter().map(header(Text::Exact)));
    conditions.extend(given.header_prefix.iter().map(header(Text::Prefix)));
    let regex = given.header_regex.iter();
    conditions.extend(regex.map(|h| Condition::Header(h.name.0.clone(), Text::Regex(h.pattern.0.clone()))));
    conditions.extend(given.header_present.iter().map(|name| Condition::HeaderPresent(name.0.clone())));
    conditions.extend(given.path.iter().map(path(Text::Exact)));
    conditions.extend(given.path_prefix.iter().map(path(Text::Prefix)));
    conditions.extend(given.path_regex.iter().map(|p| Condition::Path(Text::Regex(p.0.clone()))));
    conditions.extend(given.method.iter().map(|method| Condition::Method(method.0.clone())));
    let combine = if given.any { Combine::Any } else { Combine::All };
    (!conditions.is_empty()).then_some(Filter { combine, conditions })
}

/// Asks the agent's own judge.
fn check(filter: &Filter) -> Result<(), judge::FilterError> {
    let test = |text: &Text| match text {
        Text::Exact(text) => judge::Test::Exact(text.as_bytes().to_vec()),
        Text::Prefix(text) => judge::Test::Prefix(text.as_bytes().to_vec()),
        Text::Regex(pattern) => judge::Test::Regex(pattern.clone()),
    };
    let header = |name: &str| judge::Subject::Header(name.as_bytes().to_vec());
    let conditions = filter.conditions.iter().map(|condition| {
        let (subject, test) = match condition {
            Condition::HeaderPresent(name) => (header(name), judge::Test::Present),
            Condition::Header(name, text) => (header(name), test(text)),
            Condition::Path(text) => (judge::Subject::Path, test(text)),
            Condition::Method(method) => (judge::Subject::Method, judge::Test::Exact(method.as_bytes().to_vec())),
        };
        judge::Condition { subject, test, negate: false }
    });
    judge::Filter::new(judge::Mode::All, conditions.collect()).map(drop)
}

/// A ready `curl` line whose request the filter matches. What only a regular expression describes is left to the
/// developer, as the expression in angle brackets.
pub(crate) fn curl(filter: Option<&Filter>, host: &str, port: u16) -> String {
    let conditions = match filter {
        None => &[][..],
        Some(Filter { combine: Combine::Any, conditions }) => &conditions[..1],
        Some(Filter { combine: Combine::All, conditions }) => &conditions[..],
    };
    let mut line = "curl".to_owned();
    let mut url_path = "/".to_owned();
    for condition in conditions {
        match condition {
            Condition::HeaderPresent(name) => push(&mut line, &["-H", &format!("{name}: 1")]),
            Condition::Header(name, text) => push(&mut line, &["-H", &format!("{name}: {}", example(text))]),
            Condition::Path(text) => url_path = example(text),
            Condition::Method(method) if method == "HEAD" => push(&mut line, &["-I"]),
            Condition::Method(method) => push(&mut line, &["-X", method]),
        }
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    // curl's own globbing would read the brackets and braces of a literal path or address.
    if host.starts_with('[') || url_path.contains(['[', ']', '{', '}']) {
        push(&mut line, &["-g"]);
    }
    push(&mut line, &[&format!("http://{host}:{port}{url_path}")]);
    line
}

fn push(line: &mut String, words: &[&str]) {
    for word in words {
        line.push(' ');
        line.push_str(&shell_word(word));
    }
}

fn example(text: &Text) -> String {
    match text {
        Text::Exact(text) | Text::Prefix(text) => text.clone(),
        Text::Regex(pattern) => {
            let plain = pattern.trim_start_matches('^').trim_end_matches('$');
            match plain.bytes().any(|b| b"\\.+*?()|[]{}^$".contains(&b)) {
                true => format!("<{pattern}>"),
                false => plain.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(edit: impl FnOnce(&mut Conditions)) -> Option<Filter> {
        let mut conditions = Conditions::default();
        edit(&mut conditions);
        filter(&conditions).unwrap()
    }

    #[test]
    fn without_conditions_it_is_everything() {
        assert_eq!(of(|_| ()), None);
        assert_eq!(curl(None, "10.0.0.2", 8080), "curl http://10.0.0.2:8080/");
        assert_eq!(curl(None, "fd00::2", 80), "curl -g 'http://[fd00::2]:80/'");
    }

    #[test]
    fn curl_meets_all_conditions() {
        let filter = of(|c| {
            c.header = vec!["x-user: o'hara".parse().unwrap()];
            c.header_present = vec!["x-debug".parse().unwrap()];
            c.path_prefix = vec!["/api".parse().unwrap()];
            c.method = vec!["POST".parse().unwrap()];
        });
        let line = curl(filter.as_ref(), "10.0.0.2", 8080);
        assert_eq!(line, "curl -H 'x-user: o'\\''hara' -H 'x-debug: 1' -X POST http://10.0.0.2:8080/api");
    }

    #[test]
    fn curl_meets_the_first_of_any() {
        let filter = of(|c| {
            c.header_regex = vec!["x-user: al.*".parse().unwrap()];
            c.path_regex = vec!["^/users$".parse().unwrap()];
            c.any = true;
        });
        assert_eq!(curl(filter.as_ref(), "h", 1), "curl -H 'x-user: <al.*>' http://h:1/");
        let path = of(|c| c.path_regex = vec!["^/users$".parse().unwrap()]);
        assert_eq!(curl(path.as_ref(), "h", 1), "curl http://h:1/users");
    }
}
