//! Colours of a terminal, or none.
//!
//! Called by: `wording`, `screen`, `main`.

use std::io;

/// A colour, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// For pipes, files, `NO_COLOR` and `TERM=dumb`.
    Plain,
    /// For terminals.
    Coloured,
}

/// The few that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
    Dim,
}

impl Paint {
    /// What a stream deserves: colours on a terminal only, and only where the environment does not object.
    pub(crate) fn of(stream: &impl io::IsTerminal) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        // An old Windows console shows escapes as text; those that understand them announce themselves.
        let understood = !cfg!(windows) || set("WT_SESSION") || set("TERM");
        match stream.is_terminal() && !set("NO_COLOR") && !dumb && understood {
            true => Self::Coloured,
            false => Self::Plain,
        }
    }

    /// The text in this colour.
    pub(crate) fn with(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}
