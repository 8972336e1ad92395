//! The answer that the agent gives itself when a developer's side cannot: one plain sentence.

use super::leg::LegError;
use crate::{developer_leg::DeveloperError, plan::Intercept};

/// A status and its sentence.
pub(super) struct Refused {
    /// 502 or 504.
    pub(super) status: u16,
    /// What the developer is told.
    pub(super) why: String,
    /// Everything that goes to the client.
    pub(super) answer: String,
}

/// What is known of the request that is answered.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// A HEAD has no body.
    pub(super) head: bool,
    /// The connection can go on.
    pub(super) keep_alive: bool,
}

/// The answer for a leg that ended, with `error` or with a FIN, before it answered.
pub(super) fn answer(intercept: Option<&Intercept>, error: Option<&LegError>, asked: Asked) -> Refused {
    let (status, reason) = match error {
        Some(LegError::Developer(DeveloperError::Lost) | LegError::Unopened(_)) => (504, "Gateway Timeout"),
        _ => (502, "Bad Gateway"),
    };
    let what = match error {
        Some(error) => error.to_string(),
        None => "the developer's service closed the connection without an answer".to_owned(),
    };
    let body = sentence(&what, intercept) + "\n";
    let connection = if asked.keep_alive { "" } else { "Connection: close\r\n" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{connection}\r\n",
        body.len()
    );
    Refused { status, why: what, answer: if asked.head { head } else { head + &body } }
}

/// What went wrong, and whose intercept it was.
pub(crate) fn sentence(what: &str, intercept: Option<&Intercept>) -> String {
    match intercept {
        Some(intercept) => format!("redir: {what} (intercept of {} to {})", intercept.developer, intercept.to),
        None => format!("redir: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use redir_wire::StreamCode;

    use super::*;

    #[test]
    fn a_refusal_is_a_502_with_one_sentence() {
        let error = LegError::Developer(DeveloperError::Code(StreamCode::Refused));
        let refused = answer(None, Some(&error), Asked { head: false, keep_alive: false });
        assert_eq!(refused.status, 502);
        assert_eq!(
            refused.answer,
            "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 54\r\n\
             Connection: close\r\n\r\nredir: the developer's service refused the connection\n"
        );
    }

    #[test]
    fn a_lost_tunnel_is_a_504_and_a_head_has_no_body() {
        let error = LegError::Developer(DeveloperError::Lost);
        let refused = answer(None, Some(&error), Asked { head: true, keep_alive: true });
        assert_eq!(refused.status, 504);
        assert!(refused.answer.ends_with("\r\n\r\n"));
        assert!(!refused.answer.contains("Connection:"));
    }
}
