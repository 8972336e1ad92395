//! An Intercept's UID as the token of its intercept request.

use redir_wire::Token;

/// The sixteen bytes of an object's UID (RFC 4122, as the API server gives them); `None` for any other text.
pub fn token(uid: &str) -> Option<Token> {
    let dashes = |index: usize| matches!(index, 8 | 13 | 18 | 23);
    if uid.len() != 36 || uid.bytes().enumerate().any(|(index, byte)| dashes(index) != (byte == b'-')) {
        return None;
    }
    let mut digits = uid.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(Token(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_read_and_nothing_else() {
        let uid = "0123ABcd-4567-89ab-cdef-00112233fffe";
        let bytes = [0x01, 0x23, 0xab, 0xcd, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0x11, 0x22, 0x33, 0xff, 0xfe];
        assert_eq!(token(uid), Some(Token(bytes)));
        for bad in ["", "0123abcd456789abcdef00112233fffe", &uid[1..], &uid.replace('f', "g"), &uid.replace('-', "0")] {
            assert_eq!(token(bad), None, "{bad}");
        }
    }
}
