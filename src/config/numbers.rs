//! Numbers in strings, in the configuration and on command lines: ASCII digits only. The parsers used also accept a sign,
//! spaces between digits, or the address 127.0.0.1 as `0x7f000001`. People misread such texts, so they are refused.

use std::net::Ipv4Addr;
use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDuration {
    /// The parser's error.
    #[error("{0}")]
    Unreadable(#[from] humantime::DurationError),
    /// "1 0s" could mean one or ten seconds.
    #[error("there is a space between two digits")]
    SpaceInNumber,
}

/// Reads a duration as people write it: "24h", "1m 30s".
///
/// # Errors
/// The text is no such duration.
pub fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    let ends_in_digit = |word: &str| word.ends_with(|last: char| last.is_ascii_digit() || last == '.');
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let next = words.peek().and_then(|next| next.chars().next());
        if ends_in_digit(word) && next.is_some_and(|first| first.is_ascii_digit() || first == '.') {
            return Err(InvalidDuration::SpaceInNumber);
        }
    }
    Ok(humantime::parse_duration(text)?)
}

/// A whole number that is written in decimal digits alone.
pub fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}

/// Whether a text is decimal digits alone, however many.
pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a host is an IPv4 address in a form that the resolver reads and the checks of addresses do not (`127.1`,
/// `0x7f000001`, `017700000001`). No host name ends in a number.
pub(super) fn is_odd_ipv4(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let number = is_digits(last) || hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    number && host.parse::<Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_decimal_digits_alone() {
        for (text, number) in [("0", 0), ("4646", 4646), ("0033", 33), ("65535", 65535)] {
            assert_eq!(digits::<u16>(text), Some(number), "{text}");
        }
        for text in ["", "+4646", "-1", " 1", "1 ", "1_0", "0x1", "1e1", "1.0", "٣", "65536"] {
            assert_eq!(digits::<u16>(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_has_no_spaces_within_its_numbers() {
        for (text, seconds) in [
            ("24h", 86_400),
            ("1m 30s", 90),
            ("1m30s", 90),
            ("2 h", 7200),
            ("1.5m", 90),
            ("0", 0),
        ] {
            assert_eq!(duration(text).ok(), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "1 0s",
            "1\u{a0}0s",
            "1 .5s",
            "1. 5s",
            "+1s",
            "-1s",
            "1_0s",
            "0x1s",
            "1e1s",
            "٣s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_has_one_form() {
        for odd in [
            "127.1",
            "2852039166",
            "0x7f000001",
            "0X7F.0.0.1",
            "127.0.0.01",
            "0177.0.0.1",
            "127.0.0.1.",
            "0x",
            "h.1",
        ] {
            assert!(is_odd_ipv4(odd), "{odd}");
        }
        for plain in ["127.0.0.1", "localhost", "[::1]", "h1", "1.h", "a.0xg", "localhost."] {
            assert!(!is_odd_ipv4(plain), "{plain}");
        }
    }
}
