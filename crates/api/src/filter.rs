//! A filter as people write it in YAML, and as `redir-http` judges it.
//!
//! Owns the format and both translations; what a condition means is told in [`redir_http::filter`].
//!
//! ```yaml
//! filter:
//!   all:                                        # every condition must hold; `any`: one is enough
//!   - header: {name: x-user, exact: alice}      # or prefix, regex, present: true
//!   - path: {prefix: /api/}
//!   - method: POST
//!   - query: {name: debug, present: true}
//!   - cookie: {name: tenant, regex: "t-[0-9]+"}
//!   - baggage: {name: user, exact: alice}
//!   - header: {name: x-batch, present: true}
//!     not: true                                 # turns the condition around
//!   preflights: true                            # and the CORS preflights that ask for those headers
//! ```

use std::fmt;

use redir_http::filter::{Condition, Filter, FilterError, MAX_NAME, MAX_REGEX, MAX_VALUE, Mode, Subject, Test};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Conditions on an HTTP request: exactly one of `all` and `any`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["all"]}, {"required": ["any"]}]))]
pub struct FilterSpec {
    /// Every condition must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = Filter::MAX_CONDITIONS))]
    pub all: Option<Vec<ConditionSpec>>,
    /// One condition is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = Filter::MAX_CONDITIONS))]
    pub any: Option<Vec<ConditionSpec>>,
    /// The CORS preflights of such requests are meant too: those that ask for the headers of the conditions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preflights: bool,
}

/// One condition: exactly one of `header`, `path`, `method`, `query`, `cookie` and `baggage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"required": ["header"]}, {"required": ["path"]}, {"required": ["method"]},
    {"required": ["query"]}, {"required": ["cookie"]}, {"required": ["baggage"]}
]))]
pub struct ConditionSpec {
    /// A header field; its name is compared without case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<NamedTest>,
    /// The path, without the query, as the client sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PlainTest>,
    /// The method, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub method: Option<String>,
    /// A parameter of the query, not decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<NamedTest>,
    /// A cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<NamedTest>,
    /// A member of the W3C `baggage` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baggage: Option<NamedTest>,
    /// Turns the condition around.
    #[serde(default, skip_serializing_if = "is_false")]
    pub not: bool,
}

/// What the value of this name must be: exactly one of `exact`, `prefix`, `regex` and `present`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"required": ["exact"]}, {"required": ["prefix"]}, {"required": ["regex"]}, {"required": ["present"]}
]))]
pub struct NamedTest {
    /// The name.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: String,
    /// The value is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_VALUE))]
    pub exact: Option<String>,
    /// The value begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_VALUE))]
    pub prefix: Option<String>,
    /// This regular expression matches the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_REGEX))]
    pub regex: Option<String>,
    /// `true`: it is there, whatever its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [true]))]
    pub present: Option<bool>,
}

/// What the value must be: exactly one of `exact`, `prefix` and `regex`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["exact"]}, {"required": ["prefix"]}, {"required": ["regex"]}]))]
pub struct PlainTest {
    /// The value is this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_VALUE))]
    pub exact: Option<String>,
    /// The value begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_VALUE))]
    pub prefix: Option<String>,
    /// This regular expression matches the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_REGEX))]
    pub regex: Option<String>,
}

/// Why a filter cannot be used. `Display` names no value: it goes into status and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterSpecError {
    /// Not exactly one of `all` and `any`.
    Combination,
    /// Condition number this has not exactly one subject.
    Subject(usize),
    /// Condition number this has not exactly one test.
    Test(usize),
    /// The judge refuses it.
    Judge(FilterError),
}

impl fmt::Display for FilterSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Combination => f.write_str("the filter needs exactly one of `all` and `any`"),
            Self::Subject(number) => {
                write!(
                    f,
                    "condition {number} of the filter needs exactly one of header, path, method, query, cookie, baggage"
                )
            }
            Self::Test(number) => {
                write!(f, "condition {number} of the filter needs exactly one of exact, prefix, regex, present")
            }
            Self::Judge(error) => f.write_str(match error {
                FilterError::Empty => "the filter is empty",
                FilterError::TooMany(_) => "the filter has too many conditions",
                FilterError::Name(_) => "the filter has a name that cannot occur",
                FilterError::Value(_) => "the filter has a value that cannot occur",
                FilterError::Always(_) => "the filter has a condition that always holds",
                FilterError::Path(_) => "the filter has a path that cannot occur",
                FilterError::Query(_) => "the filter has a query parameter that cannot occur",
                FilterError::Never(_) => "the filter has two conditions that never hold together",
                FilterError::Everything(_) => "the filter has two conditions of which one always holds",
                FilterError::Method(_) => "the filter has a method that cannot occur",
                FilterError::Preflights => {
                    "the filter has preflights and no condition on a header that they could ask for"
                }
                FilterError::Regex(..) => "the filter has a regular expression that cannot be used",
                FilterError::TooBig => "the filter takes too much memory once its regular expressions are compiled",
            }),
        }?;
        f.write_str("; `redir intercept` says more about each condition before it makes an Intercept")
    }
}

impl std::error::Error for FilterSpecError {}

impl TryFrom<&FilterSpec> for Filter {
    type Error = FilterSpecError;

    fn try_from(spec: &FilterSpec) -> Result<Self, FilterSpecError> {
        let (mode, conditions) = match (&spec.all, &spec.any) {
            (Some(all), None) => (Mode::All, all),
            (None, Some(any)) => (Mode::Any, any),
            _ => return Err(FilterSpecError::Combination),
        };
        let conditions = conditions.iter().enumerate().map(|(index, spec)| condition(spec, index + 1));
        let filter = Self::new(mode, conditions.collect::<Result<_, _>>()?);
        let filter = if spec.preflights { filter.and_then(Self::with_preflights) } else { filter };
        filter.map_err(FilterSpecError::Judge)
    }
}

impl From<&Filter> for FilterSpec {
    /// Every filter of the command line is text; other bytes would not survive YAML and are replaced.
    fn from(filter: &Filter) -> Self {
        let conditions = Some(filter.conditions().iter().map(spec).collect());
        match filter.mode() {
            Mode::All => Self { all: conditions, any: None, preflights: filter.has_preflights() },
            Mode::Any => Self { all: None, any: conditions, preflights: filter.has_preflights() },
        }
    }
}

fn condition(spec: &ConditionSpec, number: usize) -> Result<Condition, FilterSpecError> {
    type Name = fn(Vec<u8>) -> Subject;
    let named = [
        (&spec.header, Subject::Header as Name),
        (&spec.query, Subject::Query),
        (&spec.cookie, Subject::Cookie),
        (&spec.baggage, Subject::Baggage),
    ];
    let named = named.into_iter().filter_map(|(test, subject)| {
        let test = test.as_ref()?;
        Some((subject(test.name.clone().into_bytes()), test_of(test)))
    });
    let path = spec.path.iter().map(|test| (Subject::Path, plain(test)));
    let method = spec.method.iter().map(|method| (Subject::Method, Some(Test::Exact(method.clone().into_bytes()))));
    let mut found = named.chain(path).chain(method);
    let (Some((subject, test)), None) = (found.next(), found.next()) else {
        return Err(FilterSpecError::Subject(number));
    };
    Ok(Condition { subject, test: test.ok_or(FilterSpecError::Test(number))?, negate: spec.not })
}

fn test_of(spec: &NamedTest) -> Option<Test> {
    let NamedTest { exact, prefix, regex, present, .. } = spec;
    match (present, exact, prefix, regex) {
        (Some(true), None, None, None) => Some(Test::Present),
        (None, exact, prefix, regex) => one(exact.as_ref(), prefix.as_ref(), regex.as_ref()),
        _ => None,
    }
}

fn plain(PlainTest { exact, prefix, regex }: &PlainTest) -> Option<Test> {
    one(exact.as_ref(), prefix.as_ref(), regex.as_ref())
}

fn one(exact: Option<&String>, prefix: Option<&String>, regex: Option<&String>) -> Option<Test> {
    match (exact, prefix, regex) {
        (Some(value), None, None) => Some(Test::Exact(value.clone().into_bytes())),
        (None, Some(value), None) => Some(Test::Prefix(value.clone().into_bytes())),
        (None, None, Some(pattern)) => Some(Test::Regex(pattern.clone())),
        _ => None,
    }
}

fn spec(condition: &Condition) -> ConditionSpec {
    let mut spec = ConditionSpec { not: condition.negate, ..ConditionSpec::default() };
    let (exact, prefix, regex, present) = match &condition.test {
        Test::Present => (None, None, None, Some(true)),
        Test::Exact(value) => (Some(text(value)), None, None, None),
        Test::Prefix(value) => (None, Some(text(value)), None, None),
        Test::Regex(pattern) => (None, None, Some(pattern.clone()), None),
    };
    let named = |name: &[u8]| {
        let (exact, prefix, regex) = (exact.clone(), prefix.clone(), regex.clone());
        Some(NamedTest { name: text(name), exact, prefix, regex, present })
    };
    match &condition.subject {
        Subject::Header(name) => spec.header = named(name),
        Subject::Query(name) => spec.query = named(name),
        Subject::Cookie(name) => spec.cookie = named(name),
        Subject::Baggage(name) => spec.baggage = named(name),
        Subject::Path => spec.path = Some(PlainTest { exact, prefix, regex }),
        Subject::Method => spec.method = exact,
    }
    spec
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Filter, FilterSpecError> {
        Filter::try_from(&serde_json::from_value::<FilterSpec>(value).expect("schema"))
    }

    #[test]
    fn every_subject_and_test_comes_back() {
        let named = [Subject::Header, Subject::Query, Subject::Cookie, Subject::Baggage];
        let tests = || {
            let values = [Test::Exact(b"/a".into()), Test::Prefix(b"/a".into()), Test::Regex("/a.*".into())];
            values.into_iter()
        };
        let mut conditions: Vec<Condition> = Vec::new();
        for negate in [false, true] {
            for subject in named {
                let subject = subject(b"x-user".into());
                let tests = tests().chain([Test::Present]);
                conditions.extend(tests.map(|test| Condition { subject: subject.clone(), test, negate }));
            }
            conditions.extend(tests().map(|test| Condition { subject: Subject::Path, test, negate }));
            conditions.push(Condition { subject: Subject::Method, test: Test::Exact(b"POST".into()), negate });
        }
        let comes_back = |mode, conditions: &[Condition]| {
            let filter = Filter::new(mode, conditions.to_vec()).expect("good");
            let written = serde_json::to_value(FilterSpec::from(&filter)).expect("JSON");
            assert_eq!(read(written), Ok(filter));
        };
        for condition in &conditions {
            for mode in [Mode::All, Mode::Any] {
                comes_back(mode, std::slice::from_ref(condition));
            }
        }
        let user = Condition { subject: Subject::Header(b"x-user".into()), test: Test::Present, negate: false };
        let filter = Filter::new(Mode::All, vec![user]).and_then(Filter::with_preflights).expect("good");
        assert_eq!(read(serde_json::to_value(FilterSpec::from(&filter)).expect("JSON")), Ok(filter));
        // With all of them one would hold what another forbids.
        let positive: Vec<Condition> = conditions.into_iter().filter(|condition| !condition.negate).collect();
        positive.chunks(32).for_each(|conditions| comes_back(Mode::Any, conditions));
    }

    #[test]
    fn the_example_is_what_it_says() {
        let filter = read(json!({"all": [
            {"header": {"name": "x-user", "exact": "alice"}},
            {"path": {"prefix": "/api/"}},
            {"method": "POST"},
            {"header": {"name": "x-batch", "present": true}, "not": true},
        ]}));
        let text = filter.expect("good").to_string();
        assert_eq!(text, "header x-user = alice and path = /api/… and method = POST and not header x-batch present");
    }

    #[test]
    fn ambiguous_ones_are_refused_without_their_values() {
        let header = json!({"name": "x", "exact": "secret"});
        let twice = json!({"name": "x", "exact": "secret", "prefix": "secret"});
        let cases = [
            (json!({}), FilterSpecError::Combination),
            (json!({"all": [{"method": "GET"}], "any": [{"method": "GET"}]}), FilterSpecError::Combination),
            (json!({"all": []}), FilterSpecError::Judge(FilterError::Empty)),
            (json!({"any": [{"method": "GET"}, {}]}), FilterSpecError::Subject(2)),
            (json!({"all": [{"header": header, "cookie": header}]}), FilterSpecError::Subject(1)),
            (json!({"all": [{"header": twice}]}), FilterSpecError::Test(1)),
            (json!({"all": [{"header": {"name": "x", "present": false}}]}), FilterSpecError::Test(1)),
            (json!({"all": [{"path": {}}]}), FilterSpecError::Test(1)),
        ];
        for (written, error) in cases {
            assert_eq!(read(written), Err(error));
        }
        let regex = read(json!({"all": [{"header": {"name": "x", "regex": "secret("}}]})).expect_err("regex");
        assert!(!regex.to_string().contains("secret"), "{regex}");
    }
}
