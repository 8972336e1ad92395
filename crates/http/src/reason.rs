//! Why a connection is no longer looked at: names for logs and metrics, sentences for people.
//!
//! Owns: [`Ambiguity`] and [`OpaqueReason`]. Must not: carry bytes of a message (they may be secrets).
//! Called by: every module of this crate; the agent's access log and metrics.

use std::fmt;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal, $sentence:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, for tests and for resolving metric handles once.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// A label of a bounded set, for metrics and the access log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $sentence,)+ })
            }
        }
    };
}

reasons! {
/// What two HTTP parsers could read differently.
Ambiguity {
    /// A request line that begins with something else than an upper-case method.
    Method => "method", "the method is not upper-case letters, digits, - and _";
    /// `PRI * HTTP/2.0`, or another use of the reserved method.
    Preface => "http2_preface", "the method PRI is reserved for HTTP/2";
    /// An empty line before the request line.
    EmptyLine => "empty_line", "there is an empty line before the request line";
    /// A request target in none of the four forms, or with bytes outside visible ASCII.
    Target => "target", "the request target has a form or a byte that parsers disagree on";
    /// A request line without a version.
    Http09 => "http_0_9", "the request line has no version, as in HTTP/0.9";
    /// A version other than HTTP/1.0 and HTTP/1.1, or something else in its place.
    Version => "version", "the version is neither HTTP/1.1 nor HTTP/1.0";
    /// A response that does not begin with a status line.
    StatusLine => "status_line", "the status line is malformed";
    /// A field line that begins with a space or tab.
    ObsFold => "obs_fold", "a header line is folded";
    /// A carriage return without its line feed.
    BareCr => "bare_cr", "a carriage return stands alone";
    /// A line feed without its carriage return.
    BareLf => "bare_lf", "a line feed stands alone";
    /// NUL or another control byte.
    Control => "control_byte", "the head has a control byte";
    /// A space or tab between a field's name and its colon.
    SpaceBeforeColon => "space_before_colon", "a header name is followed by a space";
    /// A field line without a colon.
    NoColon => "no_colon", "a header line has no colon";
    /// A field without a name.
    EmptyName => "empty_name", "a header has no name";
    /// A field name with bytes that are no token.
    FieldName => "field_name", "a header name has a byte that no name may have";
    /// `Content_Length`, `Transfer--Encoding` and the like: the letters of a framing header with other punctuation.
    LookalikeName => "lookalike_name", "a header looks like a framing header to some servers";
    /// A head above the limit.
    HeadTooLong => "head_too_long", "the head is longer than 256 KiB";
    /// More occurrences of the filters' headers than are looked at.
    TooManyFields => "too_many_fields", "the filters' headers occur too often in one head";
    /// Content-Length more than once.
    LengthTwice => "length_twice", "Content-Length occurs twice";
    /// Content-Length that is not plain digits, or absurdly large.
    LengthOdd => "length_odd", "Content-Length is not a plain number";
    /// Content-Length together with Transfer-Encoding.
    LengthAndCoding => "length_and_coding", "Content-Length and Transfer-Encoding occur together";
    /// Transfer-Encoding more than once.
    CodingTwice => "coding_twice", "Transfer-Encoding occurs twice";
    /// Transfer-Encoding that is not exactly `chunked`.
    CodingOdd => "coding_odd", "Transfer-Encoding is not exactly chunked";
    /// Transfer-Encoding in a message of HTTP/1.0, which has none.
    CodingInHttp10 => "coding_in_http_1_0", "HTTP/1.0 has no Transfer-Encoding";
    /// A body where none may be: CONNECT, 1xx, 204, 205.
    BodyForbidden => "body_forbidden", "a message that has no body announces one";
    /// Expect with something else than `100-continue`.
    ExpectOdd => "expect_odd", "Expect is not exactly 100-continue";
    /// 101 that nobody asked for.
    UpgradeUnasked => "upgrade_unasked", "the answer switches protocols unasked";
    /// A chunk size that is not plain hexadecimal, or absurdly large.
    ChunkSize => "chunk_size", "a chunk size is not a plain hexadecimal number";
    /// A chunk extension with control bytes, bare line ends, or absurdly long.
    ChunkExtension => "chunk_extension", "a chunk extension is malformed";
    /// Chunk data that is not followed by CRLF.
    ChunkEnd => "chunk_end", "a chunk does not end where its size says";
    /// A malformed or absurdly long trailer section.
    Trailer => "trailer", "the trailers are malformed";
}}

/// Why redir stopped looking into a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpaqueReason {
    /// The first byte is a TLS record's.
    Tls,
    /// The HTTP/2 connection preface.
    Http2,
    /// The first bytes are no HTTP request's.
    NotHttp,
    /// The app spoke before the client did.
    ServerFirst,
    /// The app spoke when nothing was asked of it.
    Unsolicited,
    /// The app answered 101 to an Upgrade, or the developer did.
    Upgraded,
    /// The app answered 101 to `Upgrade: h2c`: what follows is HTTP/2, with the request as its first stream.
    H2c,
    /// A CONNECT was answered with 2xx.
    Tunnel,
    /// The app, or the client towards the app, said that this was the last message.
    AfterClose,
    /// The app answered before a body that the client held back (`Expect: 100-continue`): the client may or may not send it.
    ExpectRefused,
    /// The client ended inside a request's head.
    Truncated,
    /// Something that two parsers could read differently.
    Ambiguous(Ambiguity),
    /// A message's head has begun and is not whole after the time that it may take.
    HeadTooSlow,
    /// A message's head is not whole, and there is no memory left to wait for its rest.
    MemoryScarce,
}

impl OpaqueReason {
    /// A label of a bounded set, for metrics and the access log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::NotHttp => "not_http",
            Self::ServerFirst => "server_first",
            Self::Unsolicited => "unsolicited",
            Self::Upgraded => "upgraded",
            Self::H2c => "h2c",
            Self::Tunnel => "tunnel",
            Self::AfterClose => "after_close",
            Self::ExpectRefused => "expect_refused",
            Self::Truncated => "truncated",
            Self::Ambiguous(ambiguity) => ambiguity.as_str(),
            Self::HeadTooSlow => "head_too_slow",
            Self::MemoryScarce => "memory_scarce",
        }
    }
}

impl fmt::Display for OpaqueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the connection is TLS",
            Self::Http2 => "the connection is HTTP/2",
            Self::NotHttp => "the connection is not HTTP",
            Self::ServerFirst => "the app speaks first",
            Self::Unsolicited => "the app sent bytes that answer nothing",
            Self::Upgraded => "the connection was upgraded to another protocol",
            Self::H2c => "the connection was upgraded to HTTP/2",
            Self::Tunnel => "the connection became a tunnel",
            Self::AfterClose => "the last message said that the connection ends",
            Self::ExpectRefused => "the app answered before the request's body was sent",
            Self::Truncated => "the client ended inside a request's head",
            Self::Ambiguous(ambiguity) => return ambiguity.fmt(f),
            Self::HeadTooSlow => "the head is not whole in time",
            Self::MemoryScarce => "there is no memory to wait for the rest of the head",
        })
    }
}
