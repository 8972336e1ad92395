//! What is said about a value that cannot be used: the thing, and the next step.

use redir_tunnel::PinError;

use crate::escape::{escape, escape_sentence};

pub(crate) fn port(part: &str) -> String {
    format!("`{}` is no port: write a number from 1 to 65535, such as 8080 or 8080:3000", escape(part))
}

pub(crate) fn target(text: &str) -> String {
    format!(
        "`{}` is neither a pod nor labels: write a name such as web-1, or labels such as app=web,tier=front",
        escape(text)
    )
}

pub(crate) fn label(pair: &str) -> String {
    format!(
        "`{}` is no label: write key=value, several with commas between them, such as app=web,tier=front",
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
    format!("`{}` in `{}` is no port: write HOST:PORT with a number from 1 to 65535", escape(port), escape(text))
}

pub(crate) fn agent_brackets(text: &str) -> String {
    format!("`{}` has more than one colon: write an IPv6 address in brackets, such as [2001:db8::1]:7447", escape(text))
}

pub(crate) fn agent_host(text: &str) -> String {
    format!("`{}` names no host: write HOST:PORT, such as node-1.example.com:7447 or [2001:db8::1]:7447", escape(text))
}

pub(crate) fn header_name(name: &str) -> String {
    format!("`{}` is no header name: letters, digits and dashes only, such as x-user", escape(name))
}

pub(crate) fn header_colon(text: &str) -> String {
    format!("`{}` has no colon: write 'name: value', such as 'x-user: alice'", escape(text))
}

pub(crate) fn header_empty(name: &str) -> String {
    let name = escape(name);
    format!("there is nothing behind `{name}:`: write a value, or --header-present {name} if any value will do")
}

pub(crate) fn header_value(name: &str) -> String {
    format!("the value behind `{}:` holds a control character, which no header can: leave it out", escape(name))
}

pub(crate) fn regex(text: &str, why: &str) -> String {
    format!(
        "`{}` is no regular expression for redir ({}): put \\ before characters that stand for themselves",
        escape(text),
        escape(why)
    )
}

pub(crate) fn regex_too_big(text: &str) -> String {
    format!("`{}` is too big once it is compiled: write a shorter one, or smaller numbers in its {{}}", escape(text))
}

pub(crate) fn filter(why: &str) -> String {
    escape_sentence(why)
}

pub(crate) fn path_slash(text: &str) -> String {
    format!("`{0}` does not begin with a slash: write /{0}", escape(text))
}

pub(crate) fn path_query(text: &str) -> String {
    format!(
        "`{}` has a query, and requests are matched by the path before it: leave out everything from the ? or # on",
        escape(text)
    )
}

pub(crate) fn path_bytes(text: &str) -> String {
    format!(
        "`{}` holds characters that travel percent-encoded: write them as in the request, such as %20 for a blank",
        escape(text)
    )
}

pub(crate) fn method(text: &str) -> String {
    format!("`{}` is no method: write one such as GET or POST", escape(text))
}

pub(crate) fn method_case(text: &str) -> String {
    format!("methods are case-sensitive: write {} instead of `{}`", escape(text.to_ascii_uppercase()), escape(text))
}

pub(crate) fn seconds(text: &str) -> String {
    format!("`{}` is no time to wait: write seconds from 1 to 3600", escape(text))
}

pub(crate) fn agent_key(text: &str, why: PinError) -> String {
    format!("`{}` is no key: {why}", escape(text))
}
