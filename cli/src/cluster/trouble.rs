//! What a failed call to the API server means to the developer.
//!
//! Owns: which failure becomes which sentence. Must not call anything. Called by: `cluster`, `commands`.

use kube::core::Status;

use super::connect::Cluster;
use crate::trouble::Trouble;
use crate::wording::cluster as say;

/// What was being done, in the words of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing<'a> {
    /// Something that every user may do.
    Reading(&'a str),
    /// A verb and a resource, as RBAC names them, in this namespace (`None`: everywhere): `create`, `intercepts`.
    Right(&'a str, &'a str, Option<&'a str>),
    /// A verb and a resource that only the cluster's admin needs.
    Admin(&'a str, &'a str),
}

/// One sentence with the next step.
pub(crate) fn explain(cluster: &Cluster, doing: &Doing<'_>, error: &kube::Error) -> Trouble {
    Trouble::Failed(match error {
        kube::Error::Api(status) => refused(doing, status),
        kube::Error::Auth(why) => say::no_credentials(&chain(why)),
        kube::Error::SerdeError(why) => say::strange_answer(&cluster.server, &why.to_string()),
        other => say::unreachable(&cluster.server, &chain(other)),
    })
}

fn refused(doing: &Doing<'_>, status: &Status) -> String {
    match (status.code, doing) {
        (401, _) => say::unauthorized(),
        (403, Doing::Right(verb, resource, namespace)) => say::forbidden(verb, resource, *namespace, &status.message),
        (403, Doing::Admin(verb, resource)) => say::not_admin(verb, resource),
        (404, Doing::Right(_, resource, _)) if resource.starts_with(redir_api::PLURAL) => say::not_installed(),
        (_, Doing::Right(verb, resource, _) | Doing::Admin(verb, resource)) => {
            say::server_refused(&format!("{verb} {resource}"), &status.message)
        }
        (_, Doing::Reading(what)) => say::server_refused(&format!("read {what}"), &status.message),
    }
}

/// The last cause says it best: `connection refused` rather than `client error (Connect)`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        last = cause.to_string();
        source = cause.source();
    }
    last
}

/// The answer; `None` if the server refused with one of these codes.
pub(crate) fn unless<T>(codes: &[u16], answer: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match answer {
        Err(error) if codes.iter().any(|code| is_code(&error, *code)) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the server answered with this code.
pub(crate) fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
