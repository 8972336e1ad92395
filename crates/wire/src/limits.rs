//! The most that one message may ask of its reader. Everything is checked before it is kept.

/// Bytes of one control message, without its length.
pub const FRAME: usize = 1 << 20;
/// Bytes of a data stream's header, without its length.
pub const HEADER: usize = 4096;
/// Bytes of a name: pod, developer, agent, header field. Kubernetes names are at most 253.
pub const NAME: usize = 253;
/// Bytes of a label's key (prefix of 253, `/`, name of 63).
pub const LABEL_KEY: usize = 317;
/// Bytes of a label's value; Kubernetes allows 63, a static agent's TOML is less strict.
pub const LABEL_VALUE: usize = 253;
/// Labels in one set.
pub const LABELS: usize = 64;
/// Conditions in one filter.
pub const CONDITIONS: usize = 64;
/// Bytes of a filter's text (exact, prefix or regex).
pub const TEXT: usize = 4096;
/// Bytes of a path in a request event; a longer one is cut by the sender.
pub const PATH: usize = 2048;
/// Bytes of a sentence meant for a person.
pub const SENTENCE: usize = 2048;
/// Pods, intercepts or tunnels in one answer.
pub const ENTRIES: usize = 4096;
/// The most probes and health checks of one pod that are told.
pub const PROBES: usize = 16;
/// Causes why an intercept misses connections of one pod.
pub const CAUSES: usize = 64;
/// Ports in one pod's entry.
pub const PORTS: usize = 1024;
