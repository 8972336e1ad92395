//! A intercept's filter: compiled for the table, and as text without its values.

use redir_http::filter::{Condition, Filter, Mode, Subject, Test};
use redir_wire::{Refused, RefusedCode};

/// Compiles a filter, or says what is wrong with it.
pub(crate) fn compile(filter: &redir_wire::Filter) -> Result<Filter, Refused> {
    filter.compile().map_err(|why| Refused { code: RefusedCode::BadFilter, sentence: cut(why.to_string()) })
}

/// The memory, in bytes, that the compiled filters of one agent may take together: an eighth of the memory that the chart
/// gives it, and the filters of some thousand developers.
pub(crate) const MAX_FILTERS: usize = 16 << 20;

/// The regexes that one agent may have: what running them takes is beside [`MAX_FILTERS`], up to 32 KiB for each and thread.
pub(crate) const MAX_REGEXES: usize = 512;

/// Whether there is room for one more filter beside others; if not, what its developer hears.
pub(crate) fn check_room<'a>(others: impl Iterator<Item = &'a Filter>, filter: &Filter) -> Result<(), Refused> {
    let (size, regexes) = (filter.size(), filter.regexes());
    let (sizes, all) =
        others.fold((size, regexes), |(sizes, all), other| (sizes + other.size(), all + other.regexes()));
    let sentence = if sizes > MAX_FILTERS {
        format!(
            "the filters of all intercepts on this node would take more than {} MiB, and this one takes {} KiB of them; use \
             shorter regexes without large counts, or wait until others have left",
            MAX_FILTERS >> 20,
            size.div_ceil(1024)
        )
    } else if regexes > 0 && all > MAX_REGEXES {
        format!(
            "the filters of all intercepts on this node would have more than {MAX_REGEXES} regexes, and this one has \
             {regexes} of them; use exact values or prefixes, or wait until others have left"
        )
    } else {
        return Ok(());
    };
    Err(Refused { code: RefusedCode::TooMany, sentence })
}

/// What the filter looks at, without values: they may be secrets of another developer. A method is none.
pub(crate) fn describe(filter: &Filter) -> String {
    let joint = match filter.mode() {
        Mode::All => " and ",
        Mode::Any => " or ",
    };
    let shown = |Condition { subject, test, negate }: &Condition| {
        let not = if *negate { "not " } else { "" };
        match (subject, test) {
            (Subject::Method, Test::Exact(method)) => format!("{not}method {}", method.escape_ascii()),
            _ => format!("{not}{subject} ({})", test.kind()),
        }
    };
    let preflights = if filter.has_preflights() { ", with their CORS preflights" } else { "" };
    cut(filter.conditions().iter().map(shown).collect::<Vec<_>>().join(joint) + preflights)
}

fn cut(mut sentence: String) -> String {
    sentence.truncate(sentence.floor_char_boundary(redir_wire::limits::SENTENCE));
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_has_no_value_but_a_method() {
        let is = |subject, test, negate| Condition { subject, test, negate };
        let conditions = vec![
            is(Subject::Header("x-user".into()), Test::Exact("secret".into()), false),
            is(Subject::Cookie("sid".into()), Test::Present, true),
            is(Subject::Query("token".into()), Test::Regex("secret.*".into()), false),
            is(Subject::Baggage("tenant".into()), Test::Prefix("secret".into()), false),
            is(Subject::Path, Test::Prefix("/secret".into()), true),
            is(Subject::Method, Test::Exact("GET".into()), true),
        ];
        let described = |mode| describe(&Filter::new(mode, conditions.clone()).expect("good"));
        assert_eq!(
            described(Mode::All),
            "header x-user (exact) and not cookie sid (present) and query token (regex) and baggage tenant (prefix) \
             and not path (prefix) and not method GET"
        );
        assert!(described(Mode::Any).starts_with("header x-user (exact) or not cookie"));
    }
}
