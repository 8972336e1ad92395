//! Heads as the bench's own programs need them: where they end, and how long the body behind them is.

use memchr::memmem;

/// A whole head at the start of `bytes`: its length with the empty line, and its content-length (0 without).
pub(super) fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    Some((end, content_length(&bytes[..end])))
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let line = head.split(|b| *b == b'\n').find(|l| l.len() > NAME.len() && l[..NAME.len()].eq_ignore_ascii_case(NAME));
    let digits = line.and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok());
    digits.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::head;

    #[test]
    fn whole_heads_only() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nx"), Some((39, 12)));
        assert_eq!(head(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Some((27, 0)));
        assert_eq!(head(b"GET / HTTP/1.1\r\nhost: a\r\n"), None);
    }
}
