//! What becomes of TLS on an intercepted port.

use super::text;
use crate::error::Malformed;
use crate::message::{PodTls, TlsFate};
use crate::{limits, proto};

impl TryFrom<proto::PodTls> for PodTls {
    type Error = Malformed;

    fn try_from(tls: proto::PodTls) -> Result<Self, Malformed> {
        let fate = match tls.fate {
            1 => TlsFate::Unread,
            2 => TlsFate::Passed,
            3 => TlsFate::Decrypted,
            4 => TlsFate::Clear,
            // A newer agent's: its sentence says it.
            _ => TlsFate::Other,
        };
        Ok(Self { fate, sentence: text(tls.sentence, "a sentence", limits::SENTENCE)? })
    }
}

impl From<&PodTls> for proto::PodTls {
    fn from(tls: &PodTls) -> Self {
        let fate = match tls.fate {
            TlsFate::Other => 0,
            TlsFate::Unread => 1,
            TlsFate::Passed => 2,
            TlsFate::Decrypted => 3,
            TlsFate::Clear => 4,
        };
        Self { fate, sentence: tls.sentence.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_comes_back_and_a_newer_one_is_no_error() {
        for fate in [TlsFate::Unread, TlsFate::Passed, TlsFate::Decrypted, TlsFate::Clear, TlsFate::Other] {
            let tls = PodTls { fate, sentence: "x".into() };
            assert_eq!(PodTls::try_from(proto::PodTls::from(&tls)), Ok(tls));
        }
        let newer = proto::PodTls { fate: 99, sentence: "x".into() };
        assert_eq!(PodTls::try_from(newer).map(|tls| tls.fate), Ok(TlsFate::Other));
        let long = proto::PodTls { fate: 1, sentence: "x".repeat(limits::SENTENCE + 1) };
        assert!(PodTls::try_from(long).is_err());
    }
}
