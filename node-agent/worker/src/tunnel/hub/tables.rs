//! One table of filters for all ports that have the same intercepts.
//!
//! Owns the tables that plans share, from one publication to the next. Must not know pods. Called by the hub.

use std::{collections::HashMap, sync::Arc};

use redir_http::filter::{Filter, Key, Table};

/// The tables of all plans, by the editions of their intercepts in the order in which they win.
#[derive(Default)]
pub(super) struct FilterTables(HashMap<Vec<u64>, Arc<Table>>);

impl FilterTables {
    /// The table of these intercepts, winners first: each one's edition, key and filter.
    pub(super) fn of<'a>(&mut self, winners: impl Iterator<Item = (u64, Key, Option<&'a Filter>)>) -> Arc<Table> {
        let winners: Vec<_> = winners.collect();
        let editions = winners.iter().map(|(edition, ..)| *edition).collect();
        let filter = |filter: Option<&Filter>| filter.cloned().unwrap_or_else(Filter::everything);
        let filters = winners.into_iter().map(|(_, key, own)| (key, filter(own)));
        self.0.entry(editions).or_insert_with(|| Arc::new(Table::new(filters))).clone()
    }

    /// Forgets those that no plan has any more.
    pub(super) fn forget_unused(&mut self) {
        self.0.retain(|_, table| Arc::strong_count(table) > 1);
    }
}

#[cfg(test)]
mod tests {
    use redir_http::filter::{Condition, Mode, Subject, Test};

    use super::*;

    #[test]
    fn ports_with_the_same_intercepts_share_one_table_as_long_as_those_are_the_same() {
        let test = Test::Exact(b"alice".into());
        let condition = Condition { subject: Subject::Header(b"x-user".into()), test, negate: false };
        let filter = Filter::new(Mode::All, vec![condition]).expect("valid");
        let mut tables = FilterTables::default();
        let mut of = |edition| tables.of([(edition, Key(7), Some(&filter)), (2, Key(8), None)].into_iter());
        let (web_1, web_2, changed) = (of(1), of(1), of(3));
        assert!(Arc::ptr_eq(&web_1, &web_2));
        assert!(!Arc::ptr_eq(&web_1, &changed), "the same key, registered with another filter");
        assert_eq!((web_1.key(0), web_1.key(1), web_1.len()), (Some(Key(7)), Some(Key(8)), 2));
        drop((web_1, changed));
        tables.forget_unused();
        assert_eq!(tables.0.len(), 1);
    }
}
