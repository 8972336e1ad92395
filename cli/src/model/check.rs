//! One line of `redir doctor`.

use super::access::AccessRight;

/// One line of the diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) what: &'static str,
    pub(crate) finding: Finding,
    /// One sentence; of a problem it ends with the next step.
    pub(crate) sentence: String,
    /// The rights that it is about, if some are missing.
    pub(crate) missing: Vec<AccessRight>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Good,
    /// Worth knowing, or not to be seen by this user.
    Note,
    Problem,
}

impl Check {
    pub(crate) fn good(what: &'static str, sentence: String) -> Self {
        Self { what, finding: Finding::Good, sentence, missing: Vec::new() }
    }

    pub(crate) fn note(what: &'static str, sentence: String) -> Self {
        Self { what, finding: Finding::Note, sentence, missing: Vec::new() }
    }

    /// With the rights that it is about.
    pub(crate) fn about(self, missing: Vec<AccessRight>) -> Self {
        Self { missing, ..self }
    }

    pub(crate) fn problem(what: &'static str, sentence: String) -> Self {
        Self { what, finding: Finding::Problem, sentence, missing: Vec::new() }
    }
}

/// What a ResourceQuota calls the number of Intercepts.
pub(crate) const COUNT: &str = "count/intercepts.redir.dev";
