//! Turns clap's several lines about a wrong flag into one sentence with the next step.
//!
//! Owns: which of clap's findings becomes which sentence. Must not print. Called by: `main`.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::trouble::Trouble;
use crate::wording::usage as say;

/// The sentence for a command line that clap refused; `Err` gives help or version texts back, to be printed as they are.
pub(crate) fn explain(error: Error, subcommand: Option<&str>) -> Result<Trouble, Error> {
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
        ErrorKind::UnknownArgument => say::unknown_flag(&flag, text(ContextKind::SuggestedArg).as_deref(), subcommand),
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
    Ok(Trouble::Usage(sentence))
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
