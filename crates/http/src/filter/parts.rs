//! Deciding a request whose parts are known one by one, as HTTP/2 gives them.
//!
//! Owns: making such a request look like any other to the table. Must not: know HTTP/2 (`:authority` is the caller's to
//! offer as `host`), or keep anything. Called by: the agent's HTTP/2 glue.

use super::Table;
use super::condition::RequestView;
use crate::head::{FoundFields, MAX_HEAD};
use crate::{Ambiguity, bytes};

impl Table {
    /// The first filter that a request matches. `target` is the path with its query (empty for CONNECT); `fields` are
    /// all headers, with their repeats, in any case.
    ///
    /// Allocates only for the values of headers that a filter asks for.
    ///
    /// # Errors
    /// The filters' headers occur too often, or with more bytes, than is looked at.
    pub fn decide_parts<'f>(
        &self,
        method: &[u8],
        target: &[u8],
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<Option<usize>, Ambiguity> {
        if self.is_empty() {
            return Ok(None);
        }
        let names = self.names();
        let mut wanted = WantedFields::default();
        let mut cookies = Vec::new();
        for (name, value) in fields {
            if !names.may_hold(name) {
                continue;
            }
            let Some(number) = names.find(name) else { continue };
            if name.eq_ignore_ascii_case(b"cookie") {
                cookies.push(bytes::trimmed(value));
            } else {
                wanted.add(number, &[bytes::trimmed(value)])?;
            }
        }
        if !cookies.is_empty()
            && let Some(number) = names.find(b"cookie")
        {
            wanted.add(number, &cookies)?;
        }
        Ok(self.first(&RequestView::of_parts(method, target, &wanted.found, &wanted.values)))
    }
}

/// The fields that a filter asks for.
#[derive(Default)]
struct WantedFields {
    found: FoundFields,
    values: Vec<u8>,
}

impl WantedFields {
    /// Adds one occurrence. HTTP/2 clients send a Cookie field in crumbs, which are one field again when they are joined
    /// (RFC 9113, 8.2.3): Chrome has a crumb for each cookie, which may be more than occurrences are looked at.
    fn add(&mut self, name: u16, crumbs: &[&[u8]]) -> Result<(), Ambiguity> {
        let start = self.values.len();
        for (n, crumb) in crumbs.iter().enumerate() {
            if n > 0 {
                self.values.extend_from_slice(b"; ");
            }
            if self.values.len() + crumb.len() > MAX_HEAD {
                return Err(Ambiguity::TooManyFields);
            }
            self.values.extend_from_slice(crumb);
        }
        self.found.push(name, start, self.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Condition, Filter, Key, Mode, Names, Subject, Test};
    use crate::head::RequestHead;

    type FieldsOfFilter<'a> = &'a [(&'a str, &'a str)];

    fn table(conditions: impl IntoIterator<Item = (Subject, Test, bool)>) -> Table {
        let filter = |(subject, test, negate)| {
            Filter::new(Mode::All, vec![Condition { subject, test, negate }]).expect("a good filter")
        };
        Table::new(conditions.into_iter().map(filter).enumerate().map(|(n, filter)| (Key(n as u64), filter)))
    }

    fn decide(table: &Table, target: &str, fields: FieldsOfFilter<'_>) -> Result<Option<usize>, Ambiguity> {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        table.decide_parts(b"GET", target.as_bytes(), fields)
    }

    /// What the same request is as an HTTP/1 head.
    fn as_head(table: &Table, target: &str, fields: FieldsOfFilter<'_>) -> Result<Option<usize>, Ambiguity> {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let wire = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
        let mut head = RequestHead::new();
        head.advance(wire.as_bytes(), &Names::empty()).expect("a good head");
        table.decide(&mut head, wire.as_bytes())
    }

    #[test]
    fn every_subject_is_decided_as_in_a_head() {
        let exact = |value: &str| Test::Exact(value.into());
        let tables = [
            (Subject::Header(b"X-User".into()), exact("alice"), false),
            (Subject::Header(b"x-user".into()), exact("alice"), true),
            (Subject::Header(b"x-user".into()), Test::Present, false),
            (Subject::Path, exact("/a"), false),
            (Subject::Path, Test::Prefix(b"/a".into()), false),
            (Subject::Method, exact("GET"), false),
            (Subject::Method, exact("POST"), false),
            (Subject::Query(b"q".into()), exact("1"), false),
            (Subject::Query(b"q".into()), Test::Present, false),
            (Subject::Cookie(b"id".into()), exact("7"), false),
            (Subject::Baggage(b"user".into()), exact("alice"), false),
            (Subject::Header(b"x-user".into()), Test::Regex("al.*".into()), false),
        ]
        .map(|condition| table([condition]));
        let requests: [(&str, FieldsOfFilter<'_>); 8] = [
            ("/a", &[("x-user", "alice")]),
            ("/a?q=1&q=2", &[("X-USER", " alice\t"), ("x-user", "bob")]),
            ("/b?q", &[("x-user", "bob")]),
            ("/a/b?q=1?q", &[("cookie", "a=b"), ("cookie", "id=7; x=y")]),
            ("/", &[("baggage", "user=alice;p=1, x=y")]),
            ("/?q=", &[("x-user", "")]),
            ("/", &[("x-users", "alice")]),
            ("/", &[]),
        ];
        for table in &tables {
            for (target, fields) in requests {
                let expected = as_head(table, target, fields);
                assert_eq!(decide(table, target, fields), expected, "{target} {fields:?}");
            }
        }
    }

    #[test]
    fn the_first_filter_wins_and_an_everything_takes_the_rest() {
        let alice = (Subject::Header(b"x-user".into()), Test::Exact(b"alice".into()), false);
        let mut filters = vec![(Key(7), Filter::everything())];
        filters.insert(
            0,
            (
                Key(3),
                Filter::new(Mode::All, vec![Condition { subject: alice.0, test: alice.1, negate: alice.2 }]).unwrap(),
            ),
        );
        let table = Table::new(filters);
        assert_eq!(decide(&table, "/", &[("x-user", "alice")]), Ok(Some(0)));
        assert_eq!(decide(&table, "/", &[("x-user", "bob")]), Ok(Some(1)));
        assert_eq!(decide(&Table::empty(), "/", &[("x-user", "alice")]), Ok(None));
    }

    #[test]
    fn crumbs_of_a_cookie_are_one_field() {
        let whole = table([(Subject::Header(b"cookie".into()), Test::Exact(b"a=1; b=2".into()), false)]);
        assert_eq!(decide(&whole, "/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]), Ok(Some(0)));
        let part = table([(Subject::Cookie(b"last".into()), Test::Exact(b"1".into()), false)]);
        let mut crumbs = vec![("cookie", "a=1"); 180];
        assert_eq!(decide(&part, "/", &crumbs), Ok(None));
        crumbs.push(("cookie", "last=1"));
        assert_eq!(decide(&part, "/", &crumbs), Ok(Some(0)));
    }

    #[test]
    fn what_is_too_much_to_look_at_is_told() {
        let table = table([(Subject::Header(b"x-user".into()), Test::Exact(b"alice".into()), false)]);
        let many = vec![("x-user", "bob"); 65];
        assert_eq!(decide(&table, "/", &many), Err(Ambiguity::TooManyFields));
        let long = "x".repeat(MAX_HEAD);
        assert_eq!(decide(&table, "/", &[("x-user", &long)]), Ok(None));
        assert_eq!(decide(&table, "/", &[("x-user", &long), ("x-user", "y")]), Err(Ambiguity::TooManyFields));
        // Headers that no filter asks for are not looked at, however long.
        assert_eq!(decide(&table, "/", &[("y", &long), ("z", &long), ("x-user", "alice")]), Ok(Some(0)));
    }
}
