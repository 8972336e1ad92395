//! Whether an Intercept keeps the [`limits`](crate::limits).
//!
//! Called by: `redir` before it makes one, and the agents, since a cluster's schema may be older.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{
    filter::{ConditionSpec, FilterSpec},
    intercept::InterceptSpec,
    limits::{EXPRESSIONS, LABELS, NAME, TEXT, USER, VALUES},
};

/// What of an Intercept is too large. `Display` follows on "it".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeError {
    /// So many.
    pub found: usize,
    /// Of what.
    pub what: &'static str,
    /// The most that there may be.
    pub most: usize,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "has {} {}, and {} are the most", self.found, self.what, self.most)
    }
}

impl std::error::Error for SizeError {}

impl InterceptSpec {
    /// Checks what the schema bounds beside the single values of a filter.
    ///
    /// # Errors
    /// The first thing that is too large.
    pub fn check_size(&self) -> Result<(), SizeError> {
        let selector = self.selector.as_ref();
        let labels = selector.and_then(|selector| selector.match_labels.as_ref()).map_or(0, |labels| labels.len());
        let expressions = selector.and_then(|selector| selector.match_expressions.as_ref());
        let values = expressions.into_iter().flatten().filter_map(|expression| expression.values.as_ref());
        let bounds = [
            (self.text(), "characters in filter and selector together", TEXT),
            (labels, "labels in its selector", LABELS),
            (expressions.map_or(0, Vec::len), "expressions in its selector", EXPRESSIONS),
            (values.map(Vec::len).max().unwrap_or(0), "values in an expression of its selector", VALUES),
            (self.target.as_ref().map_or(0, |target| length(&target.name)), "characters in its target's name", NAME),
            (length(&self.user), "characters in its user's name", USER),
            (length(&self.from), "characters in the name of its machine", NAME),
            (length(&self.to), "characters in its service's address", NAME),
        ];
        match bounds.into_iter().find(|(found, _, most)| found > most) {
            Some((found, what, most)) => Err(SizeError { found, what, most }),
            None => Ok(()),
        }
    }

    /// What [`TEXT`] bounds; the schema's rule ([`crate::crd`]) counts the same.
    fn text(&self) -> usize {
        self.filter.as_ref().map_or(0, filter) + self.selector.as_ref().map_or(0, selector)
    }
}

fn filter(filter: &FilterSpec) -> usize {
    let conditions = filter.all.iter().chain(&filter.any).flatten();
    conditions.flat_map(texts).map(length).sum()
}

fn texts(condition: &ConditionSpec) -> impl Iterator<Item = &str> {
    let ConditionSpec { header, query, cookie, baggage, path, method, not: _ } = condition;
    let named = [header, query, cookie, baggage].into_iter().flatten();
    let named =
        named.flat_map(|test| [Some(&test.name), test.exact.as_ref(), test.prefix.as_ref(), test.regex.as_ref()]);
    let plain = path.iter().flat_map(|test| [&test.exact, &test.prefix, &test.regex].map(Option::as_ref));
    named.chain(plain).chain([method.as_ref()]).flatten().map(String::as_str)
}

fn selector(selector: &LabelSelector) -> usize {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| length(key) + length(value));
    let expressions = selector.match_expressions.iter().flatten();
    let expressions = expressions.map(|expression| {
        length(&expression.key) + expression.values.iter().flatten().map(|value| length(value)).sum::<usize>()
    });
    labels.chain(expressions).sum()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(fields: &Value) -> Result<(), SizeError> {
        let mut spec = json!({"port": "80", "developerKey": "k"});
        spec.as_object_mut().expect("a map").extend(fields.as_object().expect("a map").clone());
        serde_json::from_value::<InterceptSpec>(spec).expect("schema").check_size()
    }

    #[test]
    fn every_text_of_filter_and_selector_counts() {
        let text = |length: usize| "\u{eb}".repeat(length);
        let most = TEXT - 1;
        for (subject, key) in [
            ("header", "exact"),
            ("query", "prefix"),
            ("cookie", "regex"),
            ("baggage", "name"),
            ("path", "exact"),
            ("path", "prefix"),
            ("path", "regex"),
        ] {
            for mode in ["all", "any"] {
                let of = |length: usize| {
                    let mut test = if subject == "path" { json!({}) } else { json!({"name": ""}) };
                    test[key] = json!(text(length));
                    json!({"filter": {mode: [{"method": "M"}, {subject: test}]}})
                };
                assert_eq!(check(&of(most)), Ok(()), "{subject} {key}");
                let error = check(&of(most + 1)).expect_err("too long");
                assert_eq!(
                    error.to_string(),
                    "has 4097 characters in filter and selector together, and 4096 are the most"
                );
            }
        }
        let both = |value: usize| {
            json!({"filter": {"all": [{"method": text(TEXT - 8)}]},
                   "selector": {"matchLabels": {"ab": "cd"},
                                "matchExpressions": [{"key": "e", "operator": "In", "values": ["f", text(value)]}]}})
        };
        assert_eq!(check(&both(2)), Ok(()));
        assert!(check(&both(3)).is_err());
    }

    #[test]
    fn what_is_many_is_named() {
        let labels = |count: usize| (0..count).map(|n| (n.to_string(), json!(""))).collect::<serde_json::Map<_, _>>();
        let expressions = |count: usize, values: usize| json!({"selector": {"matchExpressions": vec![json!({"key": "", "operator": "In", "values": vec![""; values]}); count]}});
        for (fields, what) in [
            (json!({"selector": {"matchLabels": labels(LABELS + 1)}}), "has 17 labels"),
            (expressions(EXPRESSIONS + 1, 1), "has 9 expressions"),
            (expressions(1, VALUES + 1), "has 17 values"),
            (json!({"target": {"kind": "Pod", "name": "a".repeat(NAME + 1)}}), "target's name"),
            (json!({"user": "a".repeat(USER + 1)}), "user's name"),
            (json!({"from": "a".repeat(NAME + 1)}), "machine"),
            (json!({"to": "a".repeat(NAME + 1)}), "address"),
        ] {
            let error = check(&fields).expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
        let most =
            json!({"selector": {"matchLabels": labels(LABELS)}, "user": "a".repeat(USER), "to": "a".repeat(NAME)});
        assert_eq!((check(&most), check(&expressions(EXPRESSIONS, VALUES))), (Ok(()), Ok(())));
    }
}
