//! Bytes without the case of their letters, eight at a time.
//!
//! Owns: short strings as two words. Must not: be asked about control bytes, which folding makes others.
//! Called by: `Facts` (framing fields), `filter` (names and values).

/// The first and the last eight bytes, which may overlap; of four to seven bytes the first and the last four. Of up to 16
/// bytes they are all there is.
#[inline]
pub(crate) fn ends(bytes: &[u8]) -> Option<(u64, u64)> {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return Some((u64::from_le_bytes(*first), u64::from_le_bytes(*last)));
    }
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some((u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into()))
}

/// Makes the letters of a word lower case. Of the other bytes that are no control bytes, it changes only `@[\]^_`; of those
/// in names `^` becomes `~` and `_` none that a name has.
#[inline]
pub(crate) fn folded(word: u64) -> u64 {
    word | 0x2020_2020_2020_2020
}

/// Whether `bytes` are `lower` but for the case of letters. `lower` has 4 to 16 letters, digits and hyphens; `bytes` have
/// no control byte.
#[inline(always)]
pub(crate) fn folds_to<const N: usize>(bytes: &[u8], lower: &[u8; N]) -> bool {
    const { assert!(4 <= N && N <= 16, "two words hold that many bytes") };
    let fold = |(first, last): (u64, u64)| (folded(first), folded(last));
    bytes.len() == N && ends(bytes).map(fold) == ends(lower).map(fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_case_of_letters_is_folded() {
        for byte in (0x20..=0x7e).chain(0x80..=0xff) {
            for at in 0..10 {
                let mut name = *b"Keep-ALIVE";
                name[at] = byte;
                assert_eq!(
                    folds_to(&name, b"keep-alive"),
                    name.eq_ignore_ascii_case(b"keep-alive"),
                    "{byte:#x} at {at}"
                );
            }
        }
        assert!(folds_to(b"100-Continue", b"100-continue"));
        assert!(folds_to(b"cLOSe", b"close"));
        assert!(!folds_to(b"closed", b"close") && !folds_to(b"clos", b"close") && !folds_to(b"", b"close"));
    }
}
