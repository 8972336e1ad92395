//! The answer that the agent gives itself when a developer's side cannot: one plain sentence.
//!
//! The same in HTTP/1 and HTTP/2, as a 502 or 504. A gRPC client gets it as the status UNAVAILABLE without a message
//! (trailers alone, with HTTP's status 200), which is what gRPC clients show and act on.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{developer_stream::DeveloperError, leg::LegError};
use crate::plan::Intercept;

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u32 = 14;
const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
const NO_ANSWER: &str = "the developer's service closed the connection without an answer";

/// A status and its sentence.
#[derive(Debug)]
pub(super) struct LocalReply {
    status: StatusCode,
    /// What the developer is told.
    why: String,
    /// What the client is told.
    sentence: String,
}

/// What is known of an HTTP/1 request that is answered.
#[derive(Clone, Copy)]
pub(super) struct Http1Asked {
    /// A HEAD has no body.
    pub(super) head: bool,
    /// The connection can go on.
    pub(super) keep_alive: bool,
}

/// What is known of an HTTP/2 request that is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Http2Asked {
    /// The content type of a gRPC request.
    grpc: Option<HeaderValue>,
    /// A HEAD has no body.
    head: bool,
}

impl Http2Asked {
    /// What its head tells.
    pub(super) fn of(head: &http::request::Parts) -> Self {
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let grpc = content_type.filter(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        });
        Http2Asked { grpc: grpc.cloned(), head: head.method == http::Method::HEAD }
    }

    /// The `grpc-status` of the answer, to a gRPC client.
    pub(super) fn grpc_status(&self) -> Option<u32> {
        self.grpc.is_some().then_some(UNAVAILABLE)
    }
}

impl LocalReply {
    /// The leg ended, with an error or with a FIN, before it answered.
    pub(super) fn of_leg(intercept: Option<&Intercept>, error: Option<&LegError>) -> Self {
        let status = match error {
            Some(LegError::Developer(DeveloperError::Lost) | LegError::Unopened(_)) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        let why = error.map_or_else(|| NO_ANSWER.to_owned(), ToString::to_string);
        Self::new(status, why, intercept)
    }

    /// What the developer's service said was no answer.
    pub(super) fn bad_answer(intercept: &Intercept, why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, why.into(), Some(intercept))
    }

    fn new(status: StatusCode, why: String, intercept: Option<&Intercept>) -> Self {
        let sentence = match intercept {
            Some(intercept) => format!("redir: {why} (intercept of {} to {})", intercept.developer, intercept.to),
            None => format!("redir: {why}"),
        };
        LocalReply { status, why, sentence }
    }

    /// The status, as HTTP has it.
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// What the developer is told.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Everything that an HTTP/1 client gets.
    pub(super) fn http1(&self, asked: Http1Asked) -> String {
        let body = format!("{}\n", self.sentence);
        let (status, length) = (self.status, body.len());
        let connection = if asked.keep_alive { "" } else { "Connection: close\r\n" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n{connection}\r\n"
        );
        if asked.head { head } else { head + &body }
    }

    /// The head that an HTTP/2 client gets, and the body if there is one.
    pub(super) fn http2(&self, asked: &Http2Asked) -> (Response<()>, Option<Bytes>) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        if let Some(content_type) = &asked.grpc {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
            headers.insert("grpc-status", UNAVAILABLE.into());
            if let Ok(message) = HeaderValue::try_from(percent_encoded(&self.sentence)) {
                headers.insert("grpc-message", message);
            }
            return (response, None);
        }
        let body = format!("{}\n", self.sentence);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.status_mut() = self.status;
        (response, (!asked.head).then(|| body.into()))
    }
}

/// As a gRPC message is sent: printable ASCII but `%` as it is, other bytes as `%` and two digits.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            byte => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use redir_wire::StreamCode;

    use super::*;

    #[test]
    fn a_refusal_is_a_502_with_one_sentence() {
        let error = LegError::Developer(DeveloperError::Code(StreamCode::Refused));
        let reply = LocalReply::of_leg(None, Some(&error));
        assert_eq!(reply.status(), 502);
        assert_eq!(
            reply.http1(Http1Asked { head: false, keep_alive: false }),
            "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 54\r\n\
             Connection: close\r\n\r\nredir: the developer's service refused the connection\n"
        );
    }

    #[test]
    fn a_lost_tunnel_is_a_504_and_a_head_has_no_body() {
        let reply = LocalReply::of_leg(None, Some(&LegError::Developer(DeveloperError::Lost)));
        assert_eq!(reply.status(), 504);
        let answer = reply.http1(Http1Asked { head: true, keep_alive: true });
        assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"));
        assert!(answer.ends_with("\r\n\r\n"));
        assert!(!answer.contains("Connection:"));
    }

    fn asked(method: &str, content_type: Option<&str>) -> Http2Asked {
        let mut request = http::Request::builder().method(method).uri("/a");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Http2Asked::of(&request.body(()).unwrap().into_parts().0)
    }

    fn reply() -> LocalReply {
        LocalReply::new(StatusCode::BAD_GATEWAY, "100% gone, für immer".into(), None)
    }

    #[test]
    fn a_grpc_client_gets_a_status_of_its_own() {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; x=y"] {
            let (response, body) = reply().http2(&asked("POST", Some(content_type)));
            assert_eq!((response.status(), body), (StatusCode::OK, None));
            assert_eq!(response.headers()["content-type"], content_type);
            assert_eq!(response.headers()["grpc-status"], "14");
            assert_eq!(response.headers()["grpc-message"], "redir: 100%25 gone, f%C3%BCr immer");
        }
    }

    #[test]
    fn everybody_else_gets_a_sentence() {
        for content_type in [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpcx")] {
            let (response, body) = reply().http2(&asked("POST", content_type));
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            let body = body.unwrap();
            assert_eq!(&body[..], "redir: 100% gone, für immer\n".as_bytes());
            assert_eq!(response.headers()["content-length"], body.len().to_string());
        }
        let (response, body) = reply().http2(&asked("HEAD", None));
        assert_eq!(body, None);
        assert_eq!(response.headers()["content-length"], "29");
    }
}
