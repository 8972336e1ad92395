//! What is said about a value that cannot be used: the thing, and the next step.

use redir_api::SizeError;
use redir_http::filter::{Condition, FilterError};
use redir_tunnel::PinError;

use crate::escape::{escape, escape_sentence};
use crate::model::values::ConditionSubject;

pub(crate) fn too_large(error: &SizeError) -> String {
    format!("the intercept {error}: leave some out, or write one regex for several values")
}

pub(crate) fn port(part: &str) -> String {
    format!(
        "`{}` is not a port: write a number from 1 to 65535, such as 8080 or 8080:3000, or in Kubernetes its name",
        escape(part)
    )
}

pub(crate) fn even_if_down_with_conditions() -> String {
    "--even-if-down goes without conditions only: while the app is down, a request that does not meet them would have \
     nobody to go to. Leave the conditions out, or --even-if-down"
        .to_owned()
}

pub(crate) fn named_port(name: &str) -> String {
    format!("a static pod's ports have no names such as `{}`: write its number", escape(name))
}

pub(crate) fn kind(text: &str) -> String {
    format!(
        "`{}` is not a kind of workload: write deploy/, statefulset/, daemonset/, replicaset/, job/, rollout/, service/ or pod/",
        escape(text)
    )
}

pub(crate) fn workload_name(text: &str) -> String {
    format!("`{}` is not a workload's name: write one such as deploy/web", escape(text))
}

pub(crate) fn target(text: &str) -> String {
    format!(
        "`{}` is neither a workload, a pod nor labels: write one such as deploy/web, web-1, or app=web,tier=front",
        escape(text)
    )
}

pub(crate) fn label(pair: &str) -> String {
    format!(
        "`{}` is not a label: write key=value, several with commas between them, such as app=web,tier=front",
        escape(pair)
    )
}

pub(crate) fn label_twice(key: &str) -> String {
    format!("the label `{}` is there twice: keep one of them", escape(key))
}

pub(crate) fn agent_without_port(text: &str) -> String {
    format!("`{}` has no port: write HOST:PORT, such as node-1.example.com:7447", escape(text))
}

pub(crate) fn agent_port(text: &str, port: &str) -> String {
    format!("`{}` in `{}` is not a port: write HOST:PORT with a number from 1 to 65535", escape(port), escape(text))
}

pub(crate) fn agent_brackets(text: &str) -> String {
    format!("`{}` has more than one colon: write an IPv6 address in brackets, such as [2001:db8::1]:7447", escape(text))
}

pub(crate) fn agent_host(text: &str) -> String {
    format!("`{}` names no host: write HOST:PORT, such as node-1.example.com:7447 or [2001:db8::1]:7447", escape(text))
}

pub(crate) fn service_address(text: &str) -> String {
    format!(
        "`{}` names no host and port: write HOST:PORT, such as localhost:3000, [::1]:3000 or host.docker.internal:3000",
        escape(text)
    )
}

pub(crate) fn service_port(text: &str, port: &str) -> String {
    format!("`{}` in `{}` is not a port: write HOST:PORT with a number from 1 to 65535", escape(port), escape(text))
}

pub(crate) fn service_brackets(text: &str) -> String {
    format!("`{}` has more than one colon: write an IPv6 address in brackets, such as [::1]:3000", escape(text))
}

pub(crate) fn service_url(text: &str) -> String {
    format!(
        "`{}` is a URL: write HOST:PORT without http:// and path, such as localhost:3000 (--local-tls for https)",
        escape(text)
    )
}

pub(crate) fn service_anywhere(text: &str) -> String {
    format!("`{}` is where a service listens, not where it is reached: write 127.0.0.1 or [::1] instead", escape(text))
}

pub(crate) fn port_twice(port: &str) -> String {
    format!("port {} is there twice: write each --port once; filters may have several conditions", escape(port))
}

pub(crate) fn port_and_to(port: &str, own: u16, to: &str) -> String {
    format!(
        "both --port {}:{own} and --to {} say where requests go: leave :{own} or --to out",
        escape(port),
        escape(to)
    )
}

pub(crate) fn ports_and_to(ports: usize, to: usize) -> String {
    format!("there are {ports} --port and {to} --to: write one --to for each --port, in the same order, or none")
}

/// How to speak of what stands behind a flag.
struct Words {
    what: &'static str,
    /// The flag without its dashes.
    flag: &'static str,
    /// Between name and value.
    between: &'static str,
    example: &'static str,
    /// What ends a value early.
    ends: &'static str,
}

fn words(place: ConditionSubject) -> Words {
    let (what, flag, between, example, ends) = match place {
        ConditionSubject::Header => ("header", "header", ": ", "x-user: alice", ""),
        ConditionSubject::Query => ("query parameter", "query", "=", "user=alice", " or a `&`"),
        ConditionSubject::Cookie => ("cookie", "cookie", "=", "session=4711", " or a `;`"),
        ConditionSubject::Baggage => ("baggage member", "baggage", "=", "tenant=alpha", ", a `,` or a `;`"),
        ConditionSubject::Path => ("path", "path", "", "/api", ""),
        ConditionSubject::Method => ("method", "method", "", "GET", ""),
    };
    Words { what, flag, between, example, ends }
}

pub(crate) fn no_value(place: ConditionSubject, text: &[u8]) -> String {
    let Words { between, example, .. } = words(place);
    let sign = if place == ConditionSubject::Header { "colon" } else { between };
    format!("`{}` has no {sign}: write 'name{between}value', such as '{example}'", escape(text))
}

pub(crate) fn name(place: ConditionSubject, name: &[u8]) -> String {
    let Words { what, example, .. } = words(place);
    let rule = match place {
        ConditionSubject::Query => "write it as in the request, with %XX for what is not printable ASCII",
        _ => "letters, digits and dashes only",
    };
    format!("`{}` is no {what} name: {rule}, such as '{example}'", escape(name))
}

pub(crate) fn empty(place: ConditionSubject, name: &[u8]) -> String {
    let (Words { flag, between, .. }, name) = (words(place), escape(name));
    format!(
        "there is nothing behind `{name}{}`: write a value, or --{flag}-present {name} if any value will do, or --{flag}-regex '{name}{between}^$' if it must be empty",
        between.trim_end()
    )
}

pub(crate) fn value(place: ConditionSubject, name: &[u8]) -> String {
    let Words { what, between, ends, .. } = words(place);
    format!(
        "the value behind `{}{}` is too long for a {what} or holds a control character{ends}, which none can: leave that out",
        escape(name),
        between.trim_end()
    )
}

pub(crate) fn query_value(value: &[u8]) -> String {
    format!(
        "`{}` holds characters that travel percent-encoded: write it as in the request, {}",
        escape(value),
        escape(percent_encoded(value, b"&#"))
    )
}

/// As clients send it, with these characters encoded too.
fn percent_encoded(value: &[u8], more: &[u8]) -> String {
    value.iter().fold(String::with_capacity(value.len()), |mut out, byte| {
        match byte {
            0x21..=0x7e if !more.contains(byte) => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

pub(crate) fn regex(text: &[u8], why: &str) -> String {
    format!(
        "`{}` is no regular expression for redir ({}): put \\ before characters that stand for themselves",
        escape(text),
        escape(why)
    )
}

pub(crate) fn regex_too_big(text: &[u8]) -> String {
    format!("`{}` is too big once it is compiled: write a shorter one, or smaller numbers in its {{}}", escape(text))
}

pub(crate) fn filter(why: &FilterError) -> String {
    escape_sentence(&why.to_string())
}

/// Not wrong, and hardly what was meant.
pub(crate) fn unlikely([one, other]: [&Condition; 2]) -> String {
    escape_sentence(&format!(
        "only a request that has it twice meets both `{one}` and `{other}`: add --any if one of the conditions is enough"
    ))
}

pub(crate) fn stray_not() -> String {
    "--not is for the condition behind it and there is none: write --not --header 'x-user: alice'".to_owned()
}

pub(crate) fn not_utf8() -> String {
    "its value is not UTF-8: write the bytes as \\xNN in a regular expression, such as --header-regex 'x-user: zo\\xeb'"
        .to_owned()
}

pub(crate) fn path_slash(text: &[u8]) -> String {
    format!("`{0}` does not begin with a slash: write /{0}", escape(text))
}

pub(crate) fn path_query(text: &[u8]) -> String {
    format!(
        "`{}` has a query, and paths are compared without theirs: leave out everything from the ? or # on, and add --query name=value for it",
        escape(text)
    )
}

pub(crate) fn path_bytes(text: &[u8]) -> String {
    format!(
        "`{}` holds characters that travel percent-encoded, or is too long: write it as in the request, {}",
        escape(text),
        escape(percent_encoded(text, b""))
    )
}

pub(crate) fn method(text: &[u8]) -> String {
    format!("`{}` is no method: write one such as GET or POST", escape(text))
}

pub(crate) fn method_case(text: &[u8]) -> String {
    format!("methods are case-sensitive: write {} instead of `{}`", escape(text.to_ascii_uppercase()), escape(text))
}

pub(crate) fn seconds(text: &str) -> String {
    format!("`{}` is no time to wait: write seconds from 1 to 3600", escape(text))
}

pub(crate) fn agent_key(text: &str, why: PinError) -> String {
    format!("`{}` is no key: {why}", escape(text))
}
