//! What is said about a command line that cannot be read.

use crate::escape::{escape, escape_sentence};

fn help(subcommand: Option<&str>) -> String {
    match subcommand {
        Some(name) => format!("`redir {name} --help` shows examples"),
        None => "`redir --help` shows examples".to_owned(),
    }
}

pub(crate) fn value(flag: &str, why: &str) -> String {
    format!("{}: {}", escape(flag), escape_sentence(why))
}

pub(crate) fn no_value(flag: &str, subcommand: Option<&str>) -> String {
    format!("{} needs a value behind it; {}", escape(flag), help(subcommand))
}

pub(crate) fn choice(flag: &str, value: &str, choices: &[String]) -> String {
    format!("{}: `{}` is not one of its values: write {}", escape(flag), escape(value), one_of(choices))
}

fn one_of(choices: &[String]) -> String {
    match choices {
        [] => "another".to_owned(),
        [only] => only.clone(),
        [front @ .., last] => format!("{} or {last}", front.join(", ")),
    }
}

pub(crate) fn unknown_flag(flag: &str, suggestion: Option<&str>, subcommand: Option<&str>) -> String {
    let flag = escape(flag);
    match (suggestion, flag.starts_with('-')) {
        (Some(suggestion), _) => format!("there is no {flag} here: did you mean {suggestion}?"),
        (None, true) => format!("there is no {flag} here; {}", help(subcommand)),
        (None, false) => {
            format!("`{flag}` is one word too many: quote values that hold blanks, and put -- before your command")
        }
    }
}

pub(crate) fn not_apart(flag: &str, condition: &str) -> String {
    format!("there is no {} here: write --not --{condition}, with a blank between them", escape(flag))
}

pub(crate) fn unknown_command(name: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(suggestion) => format!("there is no command `{}`: did you mean `redir {suggestion}`?", escape(name)),
        None => format!("there is no command `{}`; `redir --help` shows them", escape(name)),
    }
}

pub(crate) fn missing(what: &[String], subcommand: Option<&str>) -> String {
    if what.iter().any(|what| what.contains("--header-prefix")) {
        return "--any and --not are for conditions and there is none: add one, such as --header 'x-user: alice'"
            .to_owned();
    }
    // `--port <POD[:YOURS]>` is `--port`; a group such as `<POD|--all>` names its choices.
    let name = |what: &String| match what.split_once(" <") {
        Some((flag, _)) => flag.to_owned(),
        None => what.trim_matches(['<', '>']).replace('|', " or "),
    };
    let names: Vec<String> = what.iter().map(name).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb} missing; {}", names.join(" and "), help(subcommand))
}

pub(crate) fn conflict(flag: &str, other: &str) -> String {
    match flag == other || other.is_empty() {
        true => format!("{} may be there only once: keep one of them", escape(flag)),
        false => format!("{} and {} exclude each other: keep one of them", escape(flag), escape(other)),
    }
}

pub(crate) fn takes_no_value(flag: &str) -> String {
    format!("{} takes no value: leave out what is behind the =", escape(flag))
}

pub(crate) fn not_utf8() -> String {
    "a flag's value is not UTF-8: write it in UTF-8".to_owned()
}

pub(crate) fn other(clap: &str, subcommand: Option<&str>) -> String {
    let line = clap.lines().next().unwrap_or_default().trim_start_matches("error: ");
    format!("{}; {}", escape_sentence(line), help(subcommand))
}
