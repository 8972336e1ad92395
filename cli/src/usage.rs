//! Turns clap's several lines about a wrong flag into one sentence with the next step.
//!
//! Owns: which of clap's findings becomes which sentence. Must not print. Called by: `main`.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::conditions::is_condition;
use crate::error::CliError;
use crate::wording::usage as say;

/// The sentence for a command line that clap refused; `Err` gives help or version texts back, to be printed as they are.
pub(crate) fn explain(error: Error, subcommand: Option<&str>) -> Result<CliError, Error> {
    let text = |kind| first(&error, kind);
    let flag = text(ContextKind::InvalidArg).map(|flag| short_flag(&flag)).unwrap_or_default();
    let sentence = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(error);
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            say::value(&flag, &source)
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) => {
            say::no_value(&flag, subcommand)
        }
        ErrorKind::InvalidValue => {
            let choices = all(&error, ContextKind::ValidValue);
            say::choice(&flag, &text(ContextKind::InvalidValue).unwrap_or_default(), &choices)
        }
        ErrorKind::UnknownArgument => match flag.strip_prefix("--not-").filter(|name| is_condition(name)) {
            Some(condition) => say::not_apart(&flag, condition),
            None => say::unknown_flag(&flag, text(ContextKind::SuggestedArg).as_deref(), subcommand),
        },
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            say::unknown_command(&name, text(ContextKind::SuggestedSubcommand).as_deref())
        }
        ErrorKind::MissingRequiredArgument => say::missing(&all(&error, ContextKind::InvalidArg), subcommand),
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).map(|flag| short_flag(&flag)).unwrap_or_default();
            say::conflict(&flag, &other)
        }
        ErrorKind::TooManyValues => say::takes_no_value(&flag),
        ErrorKind::InvalidUtf8 => say::not_utf8(),
        _ => say::other(&error.to_string(), subcommand),
    };
    Ok(CliError::Usage(sentence))
}

fn first(error: &Error, kind: ContextKind) -> Option<String> {
    all(error, kind).into_iter().next()
}

fn all(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        Some(_) | None => Vec::new(),
    }
}

/// `--port <POD[:YOURS]>` is `--port`; a positional keeps its name.
fn short_flag(flag: &str) -> String {
    flag.split([' ', '=']).next().unwrap_or(flag).trim_matches(['<', '>', '[', ']']).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    /// Any words in any order: help, or one printable line that ends usefully.
    #[test]
    fn any_command_line_gets_one_line() {
        let words: Vec<&str> = "intercept list leave status completions keygen web-1 app=web --port -p 8080 8080:3000 0 \
             --header x-user:alice --header-prefix --header-regex x:( --header-present --path /a --path-prefix --method \
             GET get --not --cookie a=b --query --not-cookie --any --any=1 --probes --wait 5 --agent h:1 --agent-key --key --config -o json xml -- npm -x --all \
             --frob bash tcsh \u{1b}[31m"
            .split_whitespace()
            .chain(["", "a b", "x: y\nz", "=", "-"])
            .collect();
        let mut state = 7_u64;
        let mut refused = 0;
        for round in 0..2_000_usize {
            let line = std::iter::once("redir").chain((0..round % 8).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                words[usize::try_from(state >> 33).unwrap() % words.len()]
            }));
            let line: Vec<&str> = line.collect();
            let Err(error) = Cli::try_parse_from(&line) else { continue };
            let Ok(error) = explain(error, Some("intercept")) else { continue };
            let sentence = error.to_string();
            assert!(sentence.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line:?} gives {sentence:?}");
            assert!(sentence.len() > 20 && !sentence.ends_with(['.', ' ', ':']), "{line:?} gives {sentence:?}");
            refused += 1;
        }
        assert!(refused > 1_000, "{refused}");
    }
}
