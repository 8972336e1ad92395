//! Classes of bytes, and how far they go: the inner loops of this crate.
//!
//! Owns: the three scans (token, field value, target) and the value trimming. Must not: know about lines or messages.
//! Called by: `head` and `framing`. Every scan returns the index of the first byte outside its class, or `buf.len()`.

#[cfg(target_arch = "x86_64")]
mod sse2;

const TOKEN: u8 = 1;
const METHOD: u8 = 2;
const TARGET: u8 = 4;
const VALUE: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = class(byte);
        if byte == 255 {
            return table;
        }
        byte += 1;
    }
}

const fn class(byte: u8) -> u8 {
    let mut class = 0;
    // RFC 9110, 5.6.2.
    if byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
    {
        class |= TOKEN;
    }
    // Methods are case-sensitive tokens, but servers exist that fold them, and then `head` has a body for one reader
    // and none for the other.
    if byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_') {
        class |= METHOD;
    }
    // Bytes above 0x7e are spaces to a reader that decodes them (0x85 and 0xa0 in Latin-1).
    // A fragment is never sent; servers that get one disagree on whether it belongs to the path.
    if matches!(byte, 0x21..=0x7e) && byte != b'#' {
        class |= TARGET;
    }
    if matches!(byte, b'\t' | b' '..=0x7e | 0x80..=0xff) {
        class |= VALUE;
    }
    class
}

#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

#[inline]
pub(crate) fn is_value(byte: u8) -> bool {
    CLASS[byte as usize] & VALUE != 0
}

#[inline]
fn scan(buf: &[u8], from: usize, class: u8) -> usize {
    let mut at = from;
    let outside = |byte: u8| CLASS[byte as usize] & class == 0;
    // Unrolled by hand: names and targets are short, and the compiler leaves a loop of one byte.
    while let Some(&[a, b, c, d, e, f, g, h]) = buf.get(at..).and_then(<[u8]>::first_chunk) {
        for (ahead, byte) in [a, b, c, d, e, f, g, h].into_iter().enumerate() {
            if outside(byte) {
                return at + ahead;
            }
        }
        at += 8;
    }
    while buf.get(at).is_some_and(|&byte| !outside(byte)) {
        at += 1;
    }
    at
}

/// The end of the method that goes on at `from`.
#[inline]
pub(crate) fn method_end(buf: &[u8], from: usize) -> usize {
    scan(buf, from, METHOD)
}

/// The end of the field name that goes on at `from`.
#[inline]
pub(crate) fn token_end(buf: &[u8], from: usize) -> usize {
    scan(buf, from, TOKEN)
}

/// The end of the request target that goes on at `from`.
#[inline]
pub(crate) fn target_end(buf: &[u8], from: usize) -> usize {
    scan(buf, from, TARGET)
}

/// The end of the field value that goes on at `from`: values are long, so many bytes at a time.
#[inline]
pub(crate) fn value_end(buf: &[u8], from: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    return sixteen(buf, from);
    #[cfg(not(target_arch = "x86_64"))]
    return eight(buf, from);
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn sixteen(buf: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(bytes) = buf.get(at..).and_then(<[u8]>::first_chunk) {
        let stops = sse2::not_value(bytes);
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        at += sse2::WIDTH;
    }
    scan(buf, at, VALUE)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn eight(buf: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let mut at = from;
    while let Some(eight) = buf.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let is_delete = delete.wrapping_sub(ONES) & !delete;
        // A borrow can only mark bytes after a true hit, so the first mark is true.
        let hits = (below_space | is_delete) & HIGH;
        if hits == 0 {
            at += 8;
            continue;
        }
        at += hits.trailing_zeros() as usize / 8;
        if buf.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
    scan(buf, at, VALUE)
}

/// The range of `buf[start..end]` without spaces and tabs around it.
#[inline]
pub(crate) fn trim(buf: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    let blank = |at: usize| matches!(buf.get(at), Some(b' ' | b'\t'));
    while start < end && blank(start) {
        start += 1;
    }
    while start < end && blank(end - 1) {
        end -= 1;
    }
    (start, end)
}

/// `slice` without spaces and tabs around it.
#[inline]
pub(crate) fn trimmed(slice: &[u8]) -> &[u8] {
    let (start, end) = trim(slice, 0, slice.len());
    slice.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_at_the_first_control_byte_wherever_it_stands() {
        for byte in 0..=255u8 {
            for at in 0..40 {
                for from in 0..=at {
                    let mut buf = [b'a'; 40];
                    buf[at] = byte;
                    let expected = if is_value(byte) { 40 } else { at };
                    assert_eq!(value_end(&buf, from), expected, "byte {byte:#x} at {at} from {from}");
                    assert_eq!(eight(&buf, from), expected, "byte {byte:#x} at {at} from {from}");
                }
            }
        }
    }

    #[test]
    fn scans_past_the_end_stay_there() {
        for scan in [token_end, value_end, target_end, method_end] {
            assert_eq!(scan(b"", 0), 0);
            assert_eq!(scan(b"abc", 3), 3);
        }
    }

    #[test]
    fn trimming_takes_only_spaces_and_tabs() {
        assert_eq!(trimmed(b" \t a b\t "), b"a b");
        assert_eq!(trimmed(b" \t "), b"");
        assert_eq!(trimmed(b"\r\n"), b"\r\n");
    }
}
