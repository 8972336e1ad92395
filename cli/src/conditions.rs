//! The flags that say which requests come to the developer, in the order in which they were given: `--not` is for the
//! condition behind it.
//!
//! Owns: which flags there are, and the filter that they make. Must not read values (`value` does) or word them.
//! Called by: `args`, as a part of `intercept`; `commands::intercept`.

mod value;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use redir_http::filter::{self as judge, Condition, Mode};
use redir_wire::Filter;

use self::value::ComparisonKind;
use crate::error::CliError;
use crate::model::values::ConditionSubject;
use crate::wording::{help, values as say};

/// What a request must show to come to the developer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conditions {
    given: Vec<Condition>,
    mode: Mode,
    preflights: bool,
    /// There is a `--not` without a condition of its own.
    stray_not: bool,
}

/// Name, what it looks at, how it compares, what its value is called, help.
type ConditionFlag = (&'static str, ConditionSubject, ComparisonKind, &'static str, &'static str);

const FLAGS: &[ConditionFlag] = &[
    ("header", ConditionSubject::Header, ComparisonKind::Exact, "NAME: VALUE", help::HEADER),
    ("header-prefix", ConditionSubject::Header, ComparisonKind::Prefix, "NAME: PREFIX", help::HEADER_PREFIX),
    ("header-regex", ConditionSubject::Header, ComparisonKind::Regex, "NAME: REGEX", help::HEADER_REGEX),
    ("header-present", ConditionSubject::Header, ComparisonKind::Present, "NAME", help::HEADER_PRESENT),
    ("path", ConditionSubject::Path, ComparisonKind::Exact, "PATH", help::PATH),
    ("path-prefix", ConditionSubject::Path, ComparisonKind::Prefix, "PREFIX", help::PATH_PREFIX),
    ("path-regex", ConditionSubject::Path, ComparisonKind::Regex, "REGEX", help::PATH_REGEX),
    ("method", ConditionSubject::Method, ComparisonKind::Exact, "METHOD", help::METHOD),
    ("method-regex", ConditionSubject::Method, ComparisonKind::Regex, "REGEX", help::METHOD_REGEX),
    ("query", ConditionSubject::Query, ComparisonKind::Exact, "NAME=VALUE", help::QUERY),
    ("query-prefix", ConditionSubject::Query, ComparisonKind::Prefix, "NAME=PREFIX", help::QUERY_PREFIX),
    ("query-regex", ConditionSubject::Query, ComparisonKind::Regex, "NAME=REGEX", help::QUERY_REGEX),
    ("query-present", ConditionSubject::Query, ComparisonKind::Present, "NAME", help::QUERY_PRESENT),
    ("cookie", ConditionSubject::Cookie, ComparisonKind::Exact, "NAME=VALUE", help::COOKIE),
    ("cookie-prefix", ConditionSubject::Cookie, ComparisonKind::Prefix, "NAME=PREFIX", help::COOKIE_PREFIX),
    ("cookie-regex", ConditionSubject::Cookie, ComparisonKind::Regex, "NAME=REGEX", help::COOKIE_REGEX),
    ("cookie-present", ConditionSubject::Cookie, ComparisonKind::Present, "NAME", help::COOKIE_PRESENT),
    ("baggage", ConditionSubject::Baggage, ComparisonKind::Exact, "NAME=VALUE", help::BAGGAGE),
    ("baggage-prefix", ConditionSubject::Baggage, ComparisonKind::Prefix, "NAME=PREFIX", help::BAGGAGE_PREFIX),
    ("baggage-regex", ConditionSubject::Baggage, ComparisonKind::Regex, "NAME=REGEX", help::BAGGAGE_REGEX),
    ("baggage-present", ConditionSubject::Baggage, ComparisonKind::Present, "NAME", help::BAGGAGE_PRESENT),
];

/// The group of all of them, for flags that need one.
const CONDITION: &str = "condition";
const NOT: &str = "not";
const ANY: &str = "any";
const PREFLIGHT: &str = "preflight";

impl Conditions {
    /// The filter of these conditions; `None` without any: every request. What the agent would refuse is refused here.
    pub(crate) fn filter(self) -> Result<Option<Filter>, CliError> {
        if self.stray_not {
            return Err(CliError::Usage(say::stray_not()));
        }
        if self.given.is_empty() {
            return Ok(None);
        }
        let filter = Filter { mode: self.mode, conditions: self.given, preflights: self.preflights };
        match filter.compile() {
            Ok(_) => Ok(Some(filter)),
            Err(why) => Err(CliError::Usage(say::filter(&why))),
        }
    }
}

/// Two conditions that both must hold, and do for a request only that has something twice: most likely one was meant to
/// be enough.
pub(crate) fn unlikely(filter: &Filter) -> Option<[&Condition; 2]> {
    let alone = |condition: &Condition| judge::Filter::new(Mode::All, vec![condition.clone()]).ok();
    let together = |one: &Condition, other: &Condition| Some(judge::overlap(&alone(one)?, &alone(other)?));
    let conditions = if filter.mode == Mode::All { &filter.conditions[..] } else { &[] };
    let pairs =
        conditions.iter().enumerate().flat_map(|(n, one)| conditions[..n].iter().map(move |other| [other, one]));
    pairs.into_iter().find(|[one, other]| together(one, other) == Some(judge::Overlap::UnlessRepeated))
}

/// Whether there is a flag of this name (without its dashes).
pub(crate) fn is_condition(name: &str) -> bool {
    FLAGS.iter().any(|(flag, ..)| *flag == name)
}

impl Args for Conditions {
    fn augment_args(command: Command) -> Command {
        let heading = help::CONDITIONS_HEADING;
        let flags = FLAGS.iter().map(|&(name, place, kind, value_name, help)| {
            let parser = OsStringValueParser::new().try_map(move |text| value::parse(place, kind, &text));
            let arg = Arg::new(name).long(name).value_name(value_name).help(help).help_heading(heading);
            arg.action(ArgAction::Append).value_parser(parser)
        });
        // With a value of its own for each time it is there, clap tells its places.
        let not = Arg::new(NOT).long(NOT).help(help::NOT).help_heading(heading).action(ArgAction::Append);
        let not = not.num_args(0).value_parser(clap::value_parser!(bool)).default_missing_value("true");
        let any = Arg::new(ANY).long(ANY).help(help::ANY).help_heading(heading).action(ArgAction::SetTrue);
        let preflight = Arg::new(PREFLIGHT).long(PREFLIGHT).help(help::PREFLIGHT).help_heading(heading);
        let preflight = preflight.action(ArgAction::SetTrue).requires(CONDITION);
        let group = ArgGroup::new(CONDITION).multiple(true).args(FLAGS.iter().map(|(name, ..)| *name));
        command.args(flags).arg(not.requires(CONDITION)).arg(any.requires(CONDITION)).arg(preflight).group(group)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Conditions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let places = |name: &str| matches.indices_of(name).into_iter().flatten();
        // `None` is a `--not`.
        let mut words: Vec<(usize, Option<Condition>)> = places(NOT).map(|place| (place, None)).collect();
        for (name, ..) in FLAGS {
            let conditions = matches.get_many::<Condition>(name).into_iter().flatten();
            words.extend(places(name).zip(conditions.cloned().map(Some)));
        }
        words.sort_by_key(|(place, _)| *place);
        let (mut given, mut negate, mut stray_not) = (Vec::new(), false, false);
        for (_, word) in words {
            match word {
                Some(condition) => given.push(Condition { negate: std::mem::take(&mut negate), ..condition }),
                None => stray_not |= std::mem::replace(&mut negate, true),
            }
        }
        let mode = if matches.get_flag(ANY) { Mode::Any } else { Mode::All };
        Ok(Self { given, mode, preflights: matches.get_flag(PREFLIGHT), stray_not: stray_not || negate })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{self, Cli};

    fn read(flags: &[&str]) -> Result<Option<Filter>, String> {
        let line = ["redir", "intercept", "web-1", "--port", "8080"].iter().chain(flags);
        let args::Command::Intercept(intercept) = Cli::try_parse_from(line).map_err(|error| error.to_string())?.command
        else {
            panic!("not an intercept")
        };
        intercept.conditions.filter().map_err(|error| error.to_string())
    }

    fn shown(flags: &[&str]) -> String {
        let filter = read(flags).unwrap().unwrap();
        judge::Filter::new(filter.mode, filter.conditions).unwrap().to_string()
    }

    #[test]
    fn conditions_keep_their_order_and_not_is_for_the_next() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            shown(&["--path-prefix", "/api", "--not", "--header", "x-user: alice", "--method", "GET"]),
            "path = /api… and not header x-user = alice and method = GET"
        );
        // Whatever else stands between.
        assert_eq!(
            shown(&[
                "--not",
                "--any",
                "--probes",
                "--cookie",
                "sid=a=b",
                "--not",
                "--wait",
                "5",
                "--query-present",
                "q"
            ]),
            "not cookie sid = a=b or not query q present"
        );
        assert_eq!(
            shown(&["--baggage-regex", "tenant=a|b", "--header-prefix", "authorization:  Bearer ", "--path-regex=/a"]),
            r"baggage tenant ~ a|b and header authorization = Bearer … and path ~ /a"
        );
        assert_eq!(shown(&["--header", "x-user: zoë"]), r"header x-user = zo\xc3\xab");
    }

    #[test]
    fn a_not_of_its_own_is_refused() {
        for flags in [
            &["--header", "a: b", "--not"][..],
            &["--not", "--not", "--header", "a: b"],
            &["--not", "--header", "a: b", "--not"],
        ] {
            let why = read(flags).unwrap_err();
            assert!(why.contains("--not") && why.contains("behind it"), "{why}");
        }
        assert!(read(&["--not"]).is_err());
        assert!(read(&["--not=yes", "--header", "a: b"]).is_err());
    }

    #[test]
    fn what_no_request_has_is_refused() {
        let why = read(&["--method", "GET", "--method", "POST"]).unwrap_err();
        assert!(why.contains("method = GET") && why.contains("(any)"), "{why}");
        assert!(read(&["--method", "GET", "--method", "POST", "--any"]).is_ok());
        assert!(read(&["--any", "--header", "a: b", "--not", "--header", "a: b"]).is_err());
    }

    #[test]
    fn what_hardly_any_request_has_is_told() {
        let told = |flags: &[&str]| unlikely(&read(flags).unwrap().unwrap()).map(|both| both.map(ToString::to_string));
        let two = ["--header", "x-user: alice", "--path", "/", "--header", "X-User: bob"];
        assert_eq!(told(&two), Some(["header x-user = alice".to_owned(), "header X-User = bob".to_owned()]));
        assert_eq!(told(&[&two[..], &["--any"]].concat()), None);
        assert_eq!(told(&["--header-prefix", "a: b", "--header", "a: bc", "--header", "c: d"]), None);
        assert_eq!(told(&["--cookie", "a=b", "--not", "--cookie", "a=c"]), None);
    }

    #[cfg(unix)]
    #[test]
    fn values_that_are_not_utf8_are_taken_as_they_are() {
        use std::os::unix::ffi::OsStringExt as _;
        let line = ["redir", "intercept", "web-1", "--port", "1", "--header"].map(std::ffi::OsString::from);
        let value = std::ffi::OsString::from_vec(b"x-user: zo\xeb".to_vec());
        let cli = Cli::try_parse_from(line.into_iter().chain([value])).unwrap();
        let args::Command::Intercept(intercept) = cli.command else { panic!("not an intercept") };
        let filter = intercept.conditions.filter().unwrap().unwrap();
        assert_eq!(filter.conditions[0].test, judge::Test::Exact(b"zo\xeb".to_vec()));
    }
}
