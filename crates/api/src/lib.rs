//! The Kubernetes side of redir: the `Intercept` resource, and the names and times on which `redir` and its agents agree.
//!
//! Owns the resource's schema, what a well-formed one says ([`Intercept::wanted`]), the filter's translation ([`filter`])
//! and what both make of a node ([`node`]). Does no I/O and knows no cluster. Used by the agent, by `redir`, and to make the manifests.

pub mod crd;
pub mod filter;
mod intercept;
pub mod limits;
pub mod names;
pub mod node;
mod size;
mod status;
mod token;
mod wanted;

pub use filter::{FilterSpec, FilterSpecError};
pub use intercept::{Intercept, InterceptSpec, ProbesSpec, TargetKind, TargetSpec};
pub use size::SizeError;
pub use status::{
    AgentState, AgentStatus, ConflictStatus, Endpoint, EndpointKind, InterceptStatus, PodState, PodStatus,
};
pub use token::token;
pub use wanted::{PortRef, SpecError, Target, Wanted};

/// The resource's API group.
pub const GROUP: &str = "redir.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Its kind.
pub const KIND: &str = "Intercept";
/// Its name in URLs.
pub const PLURAL: &str = "intercepts";
