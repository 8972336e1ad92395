//! Classes of bytes, and how far they go: the inner loops of this crate.
//!
//! Owns: the classes, the scans of one byte after the other (here), and those of many bytes at a time ([`wide`]). Must not:
//! know about lines or messages. Called by: `head`, `framing` and `filter`. A scan returns the index of the first byte
//! outside its class, or `buf.len()`.

mod fold;
mod lanes;
#[cfg(test)]
pub(crate) mod looked;
pub(crate) mod wide;

pub(crate) use fold::{ends, folded, folds_to};
pub use lanes::InstructionSet;
pub(crate) use lanes::{ByteLanes, ByteWork, WIDTH};

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

const fn is(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0
}

#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

#[inline]
pub(crate) fn is_value(byte: u8) -> bool {
    is(byte, VALUE)
}

#[inline]
fn scan(buf: &[u8], from: usize, class: u8) -> usize {
    let rest = buf.get(from..).unwrap_or_default();
    let len = rest.iter().position(|&byte| !is(byte, class)).unwrap_or(rest.len());
    #[cfg(test)]
    looked::at(len);
    from + len
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

/// The end of the field value that goes on at `from`.
#[inline]
pub(crate) fn value_end(level: InstructionSet, buf: &[u8], from: usize) -> usize {
    // Most often it goes on for a few bytes, or is at its end already.
    let near = buf.get(..from + WIDTH).unwrap_or(buf);
    let end = scan(near, from, VALUE);
    if end < near.len() || end == buf.len() { end } else { level.run(wide::ValueEnd { buf, from: end }) }
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
        for level in InstructionSet::all() {
            for byte in 0..=255u8 {
                for at in 0..100 {
                    let mut buf = [b'a'; 100];
                    buf[at] = byte;
                    let expected = if is_value(byte) { 100 } else { at };
                    for from in [0, at / 2, at.saturating_sub(1), at] {
                        assert_eq!(value_end(level, &buf, from), expected, "byte {byte:#x} at {at} from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn scans_past_the_end_stay_there() {
        for class in [METHOD, TOKEN, TARGET, VALUE] {
            assert_eq!(scan(b"", 0, class), 0);
            assert_eq!(scan(b"abc", 3, class), 3);
        }
        assert!(InstructionSet::all().all(|level| value_end(level, b"", 0) == 0 && value_end(level, b"abc", 3) == 3));
    }

    #[test]
    fn trimming_takes_only_spaces_and_tabs() {
        assert_eq!(trimmed(b" \t a b\t "), b"a b");
        assert_eq!(trimmed(b" \t "), b"");
        assert_eq!(trimmed(b"\r\n"), b"\r\n");
    }
}
