//! Kubernetes' quantities: `100`, `1k`, `1.5Ki`, `2e3`.
//!
//! Owns how a whole number is read from one, as `Quantity.Value` of `apimachinery` reads it: a part of one counts as one. Called by
//! `diagnosis`.

/// The number, at most `u64::MAX`; `None` for a text that is no quantity, or a negative one.
pub(super) fn whole(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || integer.is_empty() && fraction.is_empty() {
        return None;
    }
    let Multiplier { binary, decimal } = multiplier(suffix)?;
    let exponent = decimal.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let digits = [integer, fraction].concat();
    let value = digits.parse::<u128>().ok().and_then(|digits| digits.checked_mul(1 << binary));
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    let value = match (value, power) {
        (Some(0), _) => 0,
        (Some(value), Some(power)) if exponent < 0 => value.div_ceil(power),
        (Some(value), Some(power)) => value.saturating_mul(power),
        // Smaller than any part of one that was written.
        (Some(_), None) if exponent < 0 => 1,
        _ => u128::MAX,
    };
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

/// A power of two times a power of ten.
struct Multiplier {
    binary: u32,
    decimal: i32,
}

fn multiplier(suffix: &str) -> Option<Multiplier> {
    let decimal = |decimal| Some(Multiplier { binary: 0, decimal });
    let binary = |binary| Some(Multiplier { binary, decimal: 0 });
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("0", 0),
            ("20", 20),
            ("+20", 20),
            ("1k", 1000),
            ("1.5k", 1500),
            (".5k", 500),
            ("1.k", 1000),
            ("2e3", 2000),
            ("2E3", 2000),
            ("2E+3", 2000),
            ("2500e-3", 3),
            ("1E", 1_000_000_000_000_000_000),
            ("2Ki", 2048),
            ("1.5Mi", 1_572_864),
            ("1Ei", 1 << 60),
            ("1500m", 2),
            ("1u", 1),
            ("0n", 0),
            ("1e-30000", 1),
            ("100E", u64::MAX),
            ("16Ei", u64::MAX),
            ("1e30000", u64::MAX),
            ("9999999999999999999999999999999999999999999", u64::MAX),
        ] {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in
            ["", ".", "k", "-1", "1.2.3", "1K", "1ki", "1e", "1e+", "1 k", "ten", "0x10", "1kk", "1e99999999999"]
        {
            assert_eq!(whole(text), None, "{text}");
        }
    }
}
