//! What becomes of TLS on an intercepted port.

use super::text;
use crate::error::Malformed;
use crate::message::{PodTls, TlsHandling};
use crate::{limits, proto};

impl TryFrom<proto::PodTls> for PodTls {
    type Error = Malformed;

    fn try_from(tls: proto::PodTls) -> Result<Self, Malformed> {
        let handling = match tls.handling {
            1 => TlsHandling::Unread,
            2 => TlsHandling::Passed,
            3 => TlsHandling::Decrypted,
            4 => TlsHandling::Clear,
            // A newer agent's: its sentence says it.
            _ => TlsHandling::Other,
        };
        Ok(Self { handling, sentence: text(tls.sentence, "a sentence", limits::SENTENCE)? })
    }
}

impl From<&PodTls> for proto::PodTls {
    fn from(tls: &PodTls) -> Self {
        let handling = match tls.handling {
            TlsHandling::Other => 0,
            TlsHandling::Unread => 1,
            TlsHandling::Passed => 2,
            TlsHandling::Decrypted => 3,
            TlsHandling::Clear => 4,
        };
        Self { handling, sentence: tls.sentence.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_comes_back_and_a_newer_one_is_no_error() {
        for handling in
            [TlsHandling::Unread, TlsHandling::Passed, TlsHandling::Decrypted, TlsHandling::Clear, TlsHandling::Other]
        {
            let tls = PodTls { handling, sentence: "x".into() };
            assert_eq!(PodTls::try_from(proto::PodTls::from(&tls)), Ok(tls));
        }
        let newer = proto::PodTls { handling: 99, sentence: "x".into() };
        assert_eq!(PodTls::try_from(newer).map(|tls| tls.handling), Ok(TlsHandling::Other));
        let long = proto::PodTls { handling: 1, sentence: "x".repeat(limits::SENTENCE + 1) };
        assert!(PodTls::try_from(long).is_err());
    }
}
