//! One request to the API server as somebody, its answer, and the table that says what is expected of it.

use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use redir_rig::namespace::Namespace;
use serde_json::Value;

/// An answer of a busy machine.
const ANSWER: Duration = Duration::from_secs(60);

/// Whose request it is.
#[derive(Clone)]
pub(crate) enum RequestUser {
    /// `system:masters`.
    Admin,
    /// A user with these groups.
    User(&'static str, &'static [&'static str]),
    /// Whoever has this token.
    Token(&'static str, Client),
}

impl RequestUser {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Admin => "the admin",
            Self::User(name, _) | Self::Token(name, _) => name,
        }
    }
}

/// How an object is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteVerb {
    Get,
    Post,
    Put,
    Delete,
    Apply,
    MergePatch,
    JsonPatch,
}

impl WriteVerb {
    fn method(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Apply | Self::MergePatch | Self::JsonPatch => "PATCH",
        }
    }

    fn content(self) -> &'static str {
        match self {
            Self::Apply => "application/apply-patch+yaml",
            Self::MergePatch => "application/merge-patch+json",
            Self::JsonPatch => "application/json-patch+json",
            _ => "application/json",
        }
    }
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct ServerAnswer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    /// `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// Sends it from inside `node`.
pub(crate) fn send(
    node: &Namespace,
    admin: &Client,
    who: &RequestUser,
    verb: WriteVerb,
    path: &str,
    body: &Value,
) -> Result<ServerAnswer> {
    let mut request = http::Request::builder().method(verb.method()).uri(path).header("content-type", verb.content());
    let client = match who {
        RequestUser::Admin => admin.clone(),
        RequestUser::User(name, groups) => {
            request = request.header("impersonate-user", *name).header("impersonate-group", "system:authenticated");
            for group in *groups {
                request = request.header("impersonate-group", *group);
            }
            admin.clone()
        }
        RequestUser::Token(_, client) => client.clone(),
    };
    let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
    let request = request.body(Body::from(bytes))?;
    node.block_on(ANSWER, async move {
        let (head, body) = client.send(request).await?.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let warnings = head.headers.get_all("warning").iter();
        Ok::<_, anyhow::Error>(ServerAnswer {
            code: head.status.as_u16(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            warnings: warnings.map(|warning| warning.to_str().unwrap_or("?").to_owned()).collect(),
        })
    })?
    .with_context(|| format!("{verb:?} {path}"))
}

/// How a try must end.
#[derive(Clone, Debug)]
pub(crate) enum ExpectedResult {
    /// It is done.
    Allowed,
    /// It is refused with this code, and the message has these words.
    Refused(u16, String),
}

/// By RBAC or a policy, with these words.
pub(crate) fn forbidden(words: impl Into<String>) -> ExpectedResult {
    ExpectedResult::Refused(403, words.into())
}

/// As no object that can be, with these words.
pub(crate) fn invalid(words: impl Into<String>) -> ExpectedResult {
    ExpectedResult::Refused(422, words.into())
}

impl ExpectedResult {
    /// What is wrong with an answer, in one line.
    pub(crate) fn judge(&self, what: &str, answer: &ServerAnswer) -> Option<String> {
        let message = answer.body["message"].as_str().unwrap_or_default();
        let as_expected = match self {
            Self::Allowed => matches!(answer.code, 200 | 201),
            Self::Refused(code, words) => answer.code == *code && message.contains(words.as_str()),
        };
        let line = format!("{what}: {} {message}", answer.code);
        println!("{} {line}", if as_expected { "ok   " } else { "WRONG" });
        (!as_expected).then(|| format!("{line}\n    expected {self:?}"))
    }
}
