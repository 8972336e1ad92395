//! A public key, as people write it down: `sha256:` and the SHA-256 of its SubjectPublicKeyInfo in unpadded base64url.

use std::{fmt, str::FromStr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// SHA-256 of a public key's SubjectPublicKeyInfo (DER). The identity of an agent or a developer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a SubjectPublicKeyInfo in DER.
    pub fn of_spki(spki: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, spki);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let text = text.trim();
        if text.starts_with("-----BEGIN") {
            return Err(PinError::WholeKey);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(PinError::Prefix)?;
        let encoded = encoded.trim_end_matches('=');
        if encoded.len() != ENCODED_LEN {
            return Err(PinError::Length(encoded.chars().count()));
        }
        let mut bytes = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) {
            Ok(32) => Ok(Self(bytes)),
            _ => Err(PinError::Alphabet),
        }
    }
}

/// Why a text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// It does not begin with `sha256:`.
    Prefix,
    /// It has this many characters after the prefix instead of 43.
    Length(usize),
    /// A character is not of base64url, or the last one carries stray bits.
    Alphabet,
    /// It is a key file's text, perhaps a private one.
    WholeKey,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix => f.write_str("a key begins with `sha256:`"),
            Self::Length(got) => write!(f, "a key has {ENCODED_LEN} characters after `sha256:`, this one has {got}"),
            Self::Alphabet => f.write_str("a key has only letters, digits, `-` and `_` after `sha256:`"),
            Self::WholeKey => f.write_str("this is the text of a key file, not the name of its public key"),
        }?;
        f.write_str("; copy the line that `keygen` printed")
    }
}

impl std::error::Error for PinError {}

const PREFIX: &str = "sha256:";
/// 32 bytes in base64 without padding.
const ENCODED_LEN: usize = 43;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_comes_back() {
        let pin = Pin::of_spki(b"any bytes");
        let text = pin.to_string();
        assert_eq!(text.len(), 50);
        assert_eq!(text.parse::<Pin>(), Ok(pin));
        assert_eq!(format!(" {text}=\n").parse::<Pin>(), Ok(pin));
    }

    #[test]
    fn bad_text_is_told_apart() {
        let good = Pin::of_spki(b"x").to_string();
        assert_eq!("".parse::<Pin>(), Err(PinError::Prefix));
        assert_eq!(good[7..].parse::<Pin>(), Err(PinError::Prefix));
        assert_eq!(good[..49].parse::<Pin>(), Err(PinError::Length(42)));
        assert_eq!(format!("{good}A").parse::<Pin>(), Err(PinError::Length(44)));
        assert_eq!(good.replace("sha256:", "sha256:+")[..50].parse::<Pin>(), Err(PinError::Alphabet));
        assert_eq!("-----BEGIN PRIVATE KEY-----".parse::<Pin>(), Err(PinError::WholeKey));
        assert_eq!(format!("sha256:{}", "ä".repeat(43)).parse::<Pin>(), Err(PinError::Length(43)));
        for text in ["", "sha256:", "-----BEGIN"] {
            let sentence = text.parse::<Pin>().unwrap_err().to_string();
            assert!(sentence.ends_with("`keygen` printed"), "{sentence}");
        }
    }
}
