//! How large an Intercept may be, so that whoever may make one cannot fill the agents' memory with it.
//!
//! The schema, the agents and `redir` take the numbers from here; those of one name, value or regular expression are
//! `redir_http::filter`'s. Lengths are counted in characters, as schemas and their rules count them.

/// The most characters of filter and selector together: names, values, regular expressions, labels. Room for a long token
/// in a header; all of an Intercept is then below 10 KiB.
pub const TEXT: usize = 4096;
/// The most labels of a selector.
pub const LABELS: usize = 16;
/// The most expressions of a selector.
pub const EXPRESSIONS: usize = 8;
/// The most values of one of them.
pub const VALUES: usize = 16;
/// Characters of a label's key: a prefix of 253, a slash, a name of 63.
pub const LABEL_KEY: usize = 317;
/// Characters of a label's value.
pub const LABEL_VALUE: usize = 63;
/// Characters of an object's name, and of what is written for people.
pub const NAME: usize = 253;
/// Characters of a user's name: that of a service account has up to 339.
pub const USER: usize = 512;
/// Intercepts of a namespace that an agent takes, the oldest: more than its developers have at the same time.
pub const MOST_OF_NAMESPACE: usize = 128;
