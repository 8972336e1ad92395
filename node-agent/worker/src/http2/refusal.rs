//! The answer that the agent gives itself when a developer's side cannot: one plain sentence.
//!
//! To a gRPC client as the status UNAVAILABLE without a message (trailers alone, with HTTP's status 200), which is what
//! gRPC clients show and act on; to others as a 502 or 504, as in HTTP/1.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::origin::Cause;
use crate::{
    connection::refusal,
    developer_leg::DeveloperError,
    plan::{Intercept, OpenError},
};

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

/// Why a developer's side did not answer.
pub(super) struct Refusal {
    /// 502 or 504.
    pub(super) status: StatusCode,
    /// What the developer is told.
    pub(super) why: String,
    sentence: String,
}

/// What is known of the request that is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// The content type of a gRPC request.
    grpc: Option<HeaderValue>,
    /// A HEAD has no body.
    head: bool,
}

impl Asked {
    /// What its head tells.
    pub(super) fn of(head: &http::request::Parts) -> Self {
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let grpc = content_type.filter(|value| {
            let rest = value.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        });
        Asked { grpc: grpc.cloned(), head: head.method == http::Method::HEAD }
    }
}

impl Refusal {
    /// The leg broke, or what it said was no answer.
    pub(super) fn broken(intercept: &Intercept, cause: Option<&Cause>, error: Option<&h2::Error>) -> Self {
        let library = error.filter(|error| error.is_library());
        let (status, what) = match cause {
            Some(Cause::Developer(error @ DeveloperError::Lost)) => (StatusCode::GATEWAY_TIMEOUT, error.to_string()),
            Some(Cause::Developer(error)) => (StatusCode::BAD_GATEWAY, error.to_string()),
            Some(Cause::NotHttp2) => {
                (StatusCode::BAD_GATEWAY, "the developer's service does not speak HTTP/2 in clear".to_owned())
            }
            None => (
                StatusCode::BAD_GATEWAY,
                match library.and_then(h2::Error::reason) {
                    Some(reason) => format!("the developer's service broke the HTTP/2 protocol: {reason:?}"),
                    None => "the developer's service closed the connection without an answer".to_owned(),
                },
            ),
        };
        Refusal::new(status, what, intercept)
    }

    /// The leg could not be opened.
    pub(super) fn unopened(intercept: &Intercept, error: OpenError) -> Self {
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, error.to_string(), intercept)
    }

    /// The service does not take WebSockets over HTTP/2, which the app does.
    pub(super) fn no_extended_connect(intercept: &Intercept) -> Self {
        let what = "the developer's service does not take extended CONNECT (WebSocket over HTTP/2)";
        Refusal::new(StatusCode::BAD_GATEWAY, what.to_owned(), intercept)
    }

    fn new(status: StatusCode, why: String, intercept: &Intercept) -> Self {
        Refusal { status, sentence: refusal::sentence(&why, Some(intercept)), why }
    }

    /// The `grpc-status` of the answer, to a gRPC client.
    pub(super) fn grpc_status(asked: &Asked) -> Option<u32> {
        asked.grpc.is_some().then_some(UNAVAILABLE)
    }

    /// The answer's head, and its body if it has one.
    pub(super) fn answer(&self, asked: &Asked) -> (Response<()>, Option<Bytes>) {
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
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
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
    use super::*;

    fn asked(method: &str, content_type: Option<&str>) -> Asked {
        let mut request = http::Request::builder().method(method).uri("/a");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Asked::of(&request.body(()).unwrap().into_parts().0)
    }

    fn refused() -> Refusal {
        Refusal { status: StatusCode::BAD_GATEWAY, why: String::new(), sentence: "redir: 100% gone, für immer".into() }
    }

    #[test]
    fn a_grpc_client_gets_a_status_of_its_own() {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc; x=y"] {
            let (response, body) = refused().answer(&asked("POST", Some(content_type)));
            assert_eq!((response.status(), body), (StatusCode::OK, None));
            assert_eq!(response.headers()["content-type"], content_type);
            assert_eq!(response.headers()["grpc-status"], "14");
            assert_eq!(response.headers()["grpc-message"], "redir: 100%25 gone, f%C3%BCr immer");
        }
    }

    #[test]
    fn everybody_else_gets_a_sentence() {
        for content_type in [None, Some("application/json"), Some("application/grpc-web"), Some("application/grpcx")] {
            let (response, body) = refused().answer(&asked("POST", content_type));
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            let body = body.unwrap();
            assert_eq!(&body[..], "redir: 100% gone, für immer\n".as_bytes());
            assert_eq!(response.headers()["content-length"], body.len().to_string());
        }
        let (response, body) = refused().answer(&asked("HEAD", None));
        assert_eq!(body, None);
        assert_eq!(response.headers()["content-length"], "29");
    }
}
