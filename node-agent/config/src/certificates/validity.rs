//! From when to when a certificate says that it is valid: for people to read, nothing is decided by it.

use std::{fmt, time::SystemTime};

/// The certificate's two dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateValidity {
    /// Not before.
    pub from: UtcTime,
    /// Not after.
    pub until: UtcTime,
}

/// Year, month, day, hour, minute, second in UTC, which compare as times do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UtcTime([u16; 6]);

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day, hour, minute, _] = self.0;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

impl UtcTime {
    /// By this machine's clock.
    pub fn now() -> Self {
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::at(seconds)
    }

    /// Seconds since 1970 as a date (the proleptic Gregorian calendar, in eras of 400 years from 1 March).
    fn at(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        let year = year + era * 400 + u64::from(month <= 2);
        let fields = [year, month, day, rest / 3600, rest / 60 % 60, rest % 60];
        Self(fields.map(|field| u16::try_from(field).unwrap_or(u16::MAX)))
    }

    /// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
    fn read(tag: u8, text: &[u8]) -> Option<Self> {
        let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        let pair = |at: usize| Some(u16::from(digits.get(at)? - b'0') * 10 + u16::from(digits.get(at + 1)? - b'0'));
        let (year, at) = match (tag, digits.len()) {
            (UTC_TIME, 12) => (pair(0).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
            (GENERALIZED_TIME, 14) => (pair(0)? * 100 + pair(2)?, 4),
            _ => return None,
        };
        Some(Self([year, pair(at)?, pair(at + 2)?, pair(at + 4)?, pair(at + 6)?, pair(at + 8)?]))
    }
}

impl CertificateValidity {
    /// Reads it from a certificate in DER.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(certificate)?;
        let (_, mut tbs, _) = element(certificate)?;
        if let (VERSION, _, rest) = element(tbs)? {
            tbs = rest;
        }
        // serialNumber, signature and issuer stand before it.
        for _ in 0..3 {
            (_, _, tbs) = element(tbs)?;
        }
        let (_, validity, _) = element(tbs)?;
        let (from_tag, from, rest) = element(validity)?;
        let (until_tag, until, _) = element(rest)?;
        Some(CertificateValidity { from: UtcTime::read(from_tag, from)?, until: UtcTime::read(until_tag, until)? })
    }
}

/// The first element's tag and content, and what follows it (X.690: definite lengths, one-byte tags).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `[0]`, constructed.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["web.test".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    #[test]
    fn dates_of_both_forms_are_read() {
        let validity = CertificateValidity::of(&made((1999, 12, 31), (2049, 2, 28))).expect("dates");
        assert_eq!(
            [validity.from, validity.until].map(|at| at.to_string()),
            ["1999-12-31 00:00 UTC", "2049-02-28 00:00 UTC"]
        );
        let validity = CertificateValidity::of(&made((2050, 1, 1), (4096, 1, 1))).expect("dates");
        assert_eq!(validity.until.to_string(), "4096-01-01 00:00 UTC");
        assert!(validity.from < validity.until && UtcTime::now() < validity.from);
    }

    #[test]
    fn bytes_that_are_no_certificate_have_none() {
        let good = made((2020, 1, 1), (2030, 1, 1));
        for end in 0..good.len() {
            assert_eq!(CertificateValidity::of(&good[..end]), None, "{end} bytes");
        }
        let at = good.windows(13).position(|window| window == b"200101000000Z").expect("the first date");
        for (from, to) in [(at, b'x'), (at + 12, b'A'), (at - 1, 12), (at - 2, 0x16)] {
            let mut bad = good.clone();
            bad[from] = to;
            assert_eq!(CertificateValidity::of(&bad), None);
        }
    }

    #[test]
    fn the_clock_is_a_date() {
        for (seconds, date) in [
            (0, [1970, 1, 1, 0, 0, 0]),
            (951_782_399, [2000, 2, 28, 23, 59, 59]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_795_460_584, [2026, 11, 23, 19, 3, 4]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0]),
        ] {
            assert_eq!(UtcTime::at(seconds), UtcTime(date));
        }
    }
}
