//! What a failed call to the API server means to the developer.
//!
//! Owns: which failure becomes which sentence. Must not call anything. Called by: `cluster`, `commands`.

use kube::core::Status;

use crate::error::CliError;
use crate::wording::cluster as say;

/// What was being done, in the words of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiCall<'a> {
    /// Something that every user may do.
    Reading(&'a str),
    /// A verb and a resource, as RBAC names them, in this namespace (`None`: everywhere): `create`, `intercepts`.
    Right(&'a str, &'a str, Option<&'a str>),
    /// A verb and a resource that only the cluster's admin needs.
    Admin(&'a str, &'a str),
}

/// One sentence with the next step.
pub(crate) fn explain(server: &str, doing: &ApiCall<'_>, error: &kube::Error) -> CliError {
    CliError::Failed(match error {
        kube::Error::Api(status) if status.code == 403 => return CliError::Forbidden(refused(doing, status)),
        kube::Error::Api(status) if is_passing(status) => return CliError::Away(refused(doing, status)),
        kube::Error::Api(status) => refused(doing, status),
        kube::Error::Auth(why) => say::no_credentials(&chain(why)),
        kube::Error::SerdeError(why) => say::strange_answer(server, &why.to_string()),
        other => return CliError::Away(say::unreachable(server, &chain(other))),
    })
}

/// Answered by a server that starts, ends or has too much to do, and by what is before it.
fn is_passing(status: &Status) -> bool {
    status.code == 429 || status.code >= 500
}

fn refused(doing: &ApiCall<'_>, status: &Status) -> String {
    match (status.code, doing) {
        (401, _) => say::unauthorized(),
        (403, ApiCall::Right(verb, resource, namespace)) if is_of_rbac(&status.message) => {
            say::forbidden(verb, resource, *namespace)
        }
        (403, ApiCall::Admin(verb, resource)) if is_of_rbac(&status.message) => say::not_admin(verb, resource),
        (404, ApiCall::Right(_, resource, _)) if resource.starts_with(redir_api::PLURAL) => say::not_installed(),
        (_, ApiCall::Right(verb, resource, _) | ApiCall::Admin(verb, resource)) => {
            say::server_refused(&format!("{verb} {resource}"), &status.message)
        }
        (_, ApiCall::Reading(what)) => say::server_refused(&format!("read {what}"), &status.message),
    }
}

/// `… is forbidden: User "alice" cannot create resource "intercepts" in …`: a role helps. A policy, a webhook, a quota and a
/// namespace that is ending answer with the same code, and there it does not.
fn is_of_rbac(message: &str) -> bool {
    message.contains("cannot ") && message.contains(" resource \"")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(message: &str) -> String {
        let status = Status { code: 403, message: message.to_owned(), ..Status::default() };
        refused(&ApiCall::Right("create", "intercepts", Some("shop")), &status)
    }

    #[test]
    fn what_a_restart_brings_passes_and_what_is_refused_does_not() {
        let is = |code: u16| is_passing(&Status { code, ..Status::default() });
        assert!([429, 500, 502, 503, 504].into_iter().all(is));
        assert!(![400, 401, 403, 404, 409, 422].into_iter().any(is));
    }

    #[test]
    fn a_role_is_advised_where_one_helps() {
        let rbac = told(
            "intercepts.redir.dev is forbidden: User \"bob\" cannot create resource \"intercepts\" in API group \"redir.dev\" in \
             the namespace \"shop\"",
        );
        assert!(rbac.contains("--clusterrole=redir-developer"), "{rbac}");
        for others in [
            "intercepts.redir.dev \"web-x\" is forbidden: ValidatingAdmissionPolicy 'freeze' with binding 'freeze' denied \
             request: not on Fridays",
            "admission webhook \"guard.example.com\" denied the request: not on Fridays",
            "intercepts.redir.dev \"web-x\" is forbidden: exceeded quota: few, requested: count/intercepts.redir.dev=1, used: \
             count/intercepts.redir.dev=1, limited: count/intercepts.redir.dev=1",
            "intercepts.redir.dev \"web-x\" is forbidden: unable to create new content in namespace shop because it is being \
             terminated",
        ] {
            let told = told(others);
            assert!(told.contains(others) && !told.contains("clusterrole"), "{told}");
        }
    }
}
