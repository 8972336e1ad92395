//! The kinds of children.

use std::path::PathBuf;

/// What a kind of child needs after its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxProfile {
    /// Handles strangers' bytes: no file, no program, and no socket but those that the guardian hands over.
    Traffic,
    /// Speaks to the API server: opens files (token, names' resolution) and sockets, but sees no process of the node.
    ApiServer {
        /// Where the node's `/proc` is mounted, which is covered; `/proc` itself is left as it is.
        node_proc: PathBuf,
    },
    /// Reads what container runtimes answer: no file, no program, and no socket of its own; it cannot even ask.
    ContainerRuntimes,
}
