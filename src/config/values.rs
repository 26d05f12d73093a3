//! The forms of plain values: numbers, durations, addresses, paths. Names are in [`super::names`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use hyper::Uri;

use super::numbers::{digits, duration, is_odd_ipv4};
use super::read::{Form, Node, ReadFault};

/// A whole number from 1 to [`Count::MAX`].
pub(super) struct Count;

/// A duration such as `"24h"` or `"1m 30s"`, within bounds.
pub(super) struct Period {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// A size such as `"8MB"` or `"512KiB"`, within bounds.
pub(super) struct Size {
    pub(super) min: usize,
    pub(super) max: usize,
}

/// `true` or `false`
pub(super) struct Switch;

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// Permission bits as an octal string.
pub(super) struct OctalMode;

/// An absolute path of a file.
pub(super) struct AbsolutePath {
    /// In bytes.
    pub(super) max: usize,
}

/// Address and port of a loopback interface.
pub(super) struct Loopback;

/// The address of an MSI endpoint.
pub(super) struct EndpointUrl;

/// A key that may be left out; then its value is `None`.
pub(super) struct Optional<F>(pub(super) F);

/// A list that is not empty.
pub(super) struct List<F>(pub(super) F);

/// The text of a string.
pub(super) fn text<'n>(node: &'n Node<'_>) -> Result<&'n str, Vec<ReadFault>> {
    node.get_ref()
        .as_str()
        .ok_or_else(|| ReadFault::wrong_type(node, "a string"))
}

/// The value of an integer in any of TOML's forms, if it is not negative and fits `T`.
pub(super) fn whole_number<T: TryFrom<u64>>(node: &Node<'_>) -> Option<T> {
    let number = node.get_ref().as_integer()?;
    let value = u64::from_str_radix(number.as_str(), number.radix()).ok()?;
    T::try_from(value).ok()
}

/// Text as a TOML string. A JSON string is a TOML string unless it has a DEL, and no valid value has one.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A duration as people write it: "24h", not "1day". humantime can read it.
fn in_one_unit(period: Duration) -> String {
    let units = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("ns", 1),
    ];
    in_largest(period.as_nanos(), &units)
}

/// A size, exactly; bytesize's own display rounds. bytesize can read it.
fn bytes(size: usize) -> String {
    let units = [
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("kB", 1000),
        ("KiB", 1 << 10),
        ("B", 1),
    ];
    in_largest(size as u128, &units)
}

/// A number in the largest unit that leaves no fraction. The last unit must be 1.
fn in_largest(number: u128, units: &[(&str, u128)]) -> String {
    let whole = units.iter().find(|(_, size)| number.is_multiple_of(*size));
    whole.map_or_else(String::new, |(unit, size)| format!("{}{unit}", number / size))
}

impl Count {
    /// Far more than a VM can hold of anything that is counted.
    const MAX: usize = 1_000_000;
}

impl Form<usize> for Count {
    fn read(&self, node: &Node<'_>) -> Result<usize, Vec<ReadFault>> {
        if !node.get_ref().is_integer() {
            return Err(ReadFault::wrong_type(node, "an integer"));
        }
        whole_number(node)
            .filter(|count| (1..=Self::MAX).contains(count))
            .ok_or_else(|| ReadFault::bad(node, format!("must be from 1 to {}", Self::MAX)))
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(value.to_string())
    }

    fn example(&self) -> String {
        "100".into()
    }
}

impl Form<Duration> for Period {
    fn read(&self, node: &Node<'_>) -> Result<Duration, Vec<ReadFault>> {
        let Some(text) = node.get_ref().as_str() else {
            return Err(ReadFault::wrong_type(node, "a string with a unit"));
        };
        let period = duration(text).map_err(|error| ReadFault::bad(node, format!("is not a duration ({error})")))?;
        if (self.min..=self.max).contains(&period) {
            Ok(period)
        } else {
            let what = format!("must be from {} to {}", in_one_unit(self.min), in_one_unit(self.max));
            Err(ReadFault::bad(node, what))
        }
    }

    fn show(&self, value: &Duration) -> Option<String> {
        Some(quoted(&in_one_unit(*value)))
    }

    fn example(&self) -> String {
        "\"30s\"".into()
    }
}

impl Form<usize> for Size {
    fn read(&self, node: &Node<'_>) -> Result<usize, Vec<ReadFault>> {
        let Some(text) = node.get_ref().as_str() else {
            return Err(ReadFault::wrong_type(node, "a string with a unit"));
        };
        // bytesize accepts a sign.
        let size = text
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| text.parse());
        let Some(Ok(ByteSize(size))) = size else {
            return Err(ReadFault::bad(
                node,
                "is not a size (a number and B, kB, MB, KiB or MiB)",
            ));
        };
        usize::try_from(size)
            .ok()
            .filter(|size| (self.min..=self.max).contains(size))
            .ok_or_else(|| {
                let what = format!("must be from {} to {}", bytes(self.min), bytes(self.max));
                ReadFault::bad(node, what)
            })
    }

    fn show(&self, value: &usize) -> Option<String> {
        Some(quoted(&bytes(*value)))
    }

    fn example(&self) -> String {
        "\"8MB\"".into()
    }
}

impl Form<bool> for Switch {
    fn read(&self, node: &Node<'_>) -> Result<bool, Vec<ReadFault>> {
        node.get_ref()
            .as_bool()
            .ok_or_else(|| ReadFault::wrong_type(node, "true or false without quotes"))
    }

    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }

    fn example(&self) -> String {
        "true".into()
    }
}

impl<T: Copy + PartialEq> Form<T> for Choice<T> {
    fn read(&self, node: &Node<'_>) -> Result<T, Vec<ReadFault>> {
        let text = text(node)?;
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = self.0.iter().map(|(word, _)| quoted(word)).collect();
            ReadFault::with_remedy(
                node,
                format!("cannot be {text:?}"),
                format!("write one of {}", words.join(", ")),
            )
        })
    }

    fn show(&self, value: &T) -> Option<String> {
        let found = self.0.iter().find(|(_, known)| known == value);
        found.map(|(word, _)| quoted(word))
    }

    fn example(&self) -> String {
        self.0.first().map_or_else(String::new, |(word, _)| quoted(word))
    }
}

impl Form<u32> for OctalMode {
    fn read(&self, node: &Node<'_>) -> Result<u32, Vec<ReadFault>> {
        let text = text(node)?;
        let octal = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| octal && *mode <= 0o777)
            .ok_or_else(|| ReadFault::bad(node, "must be permission bits in octal, \"0000\" to \"0777\""))
    }

    fn show(&self, value: &u32) -> Option<String> {
        Some(quoted(&format!("{value:04o}")))
    }

    fn example(&self) -> String {
        "\"0666\"".into()
    }
}

impl Form<PathBuf> for AbsolutePath {
    fn read(&self, node: &Node<'_>) -> Result<PathBuf, Vec<ReadFault>> {
        let text = text(node)?;
        let path = PathBuf::from(text);
        if !path.is_absolute() || path.file_name().is_none() || text.ends_with('/') {
            Err(ReadFault::bad(node, "must be the absolute path of a file"))
        } else if text.chars().any(char::is_control) {
            Err(ReadFault::bad(node, "holds a control character"))
        } else if text.len() > self.max {
            Err(ReadFault::bad(node, format!("is longer than {} bytes", self.max)))
        } else {
            Ok(path)
        }
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(&value.to_string_lossy()))
    }

    fn example(&self) -> String {
        "\"/run/msi-tokend/NAME\"".into()
    }
}

impl Form<SocketAddr> for Loopback {
    fn read(&self, node: &Node<'_>) -> Result<SocketAddr, Vec<ReadFault>> {
        let address: SocketAddr = text(node)?
            .parse()
            .map_err(|_| ReadFault::bad(node, "is not an IP address with a port"))?;
        if address.ip().is_loopback() {
            Ok(address)
        } else {
            Err(ReadFault::bad(
                node,
                "must be a loopback address: tokens never leave the machine through the daemon",
            ))
        }
    }

    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(&value.to_string()))
    }

    fn example(&self) -> String {
        "\"127.0.0.1:40343\"".into()
    }
}

impl Form<Uri> for EndpointUrl {
    fn read(&self, node: &Node<'_>) -> Result<Uri, Vec<ReadFault>> {
        let text = text(node)?;
        endpoint(text).map_err(|what| ReadFault::bad(node, what))
    }

    fn show(&self, value: &Uri) -> Option<String> {
        Some(quoted(&value.to_string()))
    }

    fn example(&self) -> String {
        "\"http://169.254.169.254/metadata/identity/oauth2/token\"".into()
    }
}

fn endpoint(text: &str) -> Result<Uri, &'static str> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err("must begin with http:// (a VM's endpoint speaks no TLS)");
    };
    // Checked in the text, since the parser silently drops a fragment.
    if text.contains(['?', '#']) {
        return Err("must have neither query nor fragment (the daemon adds the query itself)");
    }
    let Some((authority, _)) = rest.split_once('/') else {
        return Err("has no path (the address of the token itself is wanted)");
    };
    if authority.contains('@') {
        return Err("must not hold a user name or password");
    }
    let uri: Uri = text.parse().map_err(|_| "is not an address")?;
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
        return Err("has no host");
    };
    if is_odd_ipv4(host) {
        return Err("has a host that is neither a name nor an IPv4 address of four decimal numbers");
    }
    match authority.strip_prefix(host) {
        Some("") => Ok(uri),
        Some(port)
            if port
                .strip_prefix(':')
                .and_then(digits::<u16>)
                .is_some_and(|port| port > 0) =>
        {
            Ok(uri)
        }
        _ => Err("has a port that is not a number from 1 to 65535"),
    }
}

impl<T, F: Form<T>> Form<Option<T>> for Optional<F> {
    fn read(&self, node: &Node<'_>) -> Result<Option<T>, Vec<ReadFault>> {
        self.0.read(node).map(Some)
    }

    fn doubts(&self, key: &str, node: &Node<'_>, value: &Option<T>) -> Vec<ReadFault> {
        let doubts = value.as_ref().map(|value| self.0.doubts(key, node, value));
        doubts.unwrap_or_default()
    }

    fn show(&self, value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }

    fn example(&self) -> String {
        self.0.example()
    }
}

impl<T, F: Form<T>> Form<Vec<T>> for List<F> {
    fn read(&self, node: &Node<'_>) -> Result<Vec<T>, Vec<ReadFault>> {
        let Some(items) = node.get_ref().as_array() else {
            return Err(ReadFault::wrong_type(node, "a list in brackets"));
        };
        if items.is_empty() {
            return Err(ReadFault::with_remedy(
                node,
                "is empty and would match nothing",
                "leave the key out, or list what is meant",
            ));
        }
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        for item in items {
            match self.0.read(item) {
                Ok(value) => values.push(value),
                Err(of_item) => faults.extend(of_item),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }

    fn doubts(&self, key: &str, node: &Node<'_>, value: &Vec<T>) -> Vec<ReadFault> {
        let items = node.get_ref().as_array().into_iter().flatten().zip(value);
        items
            .flat_map(|(item, value)| self.0.doubts(key, item, value))
            .collect()
    }

    fn show(&self, value: &Vec<T>) -> Option<String> {
        let items: Vec<_> = value.iter().filter_map(|value| self.0.show(value)).collect();
        Some(format!("[{}]", items.join(", ")))
    }

    fn example(&self) -> String {
        format!("[{}]", self.0.example())
    }
}
