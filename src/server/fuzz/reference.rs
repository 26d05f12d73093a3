//! A second reading of what a caller sent, by other code: plain and strict, it stops where there is any doubt.

use std::str;

/// A request as it was read here.
#[derive(Debug)]
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

/// The requests of one connection, up to the first that could be read in two ways.
pub fn requests(mut input: &[u8]) -> Vec<Request<'_>> {
    let mut requests = Vec::new();
    while let Some((request, rest)) = head(input) {
        let after = request.after_body(rest);
        requests.push(request);
        match after {
            Some(after) => input = after,
            None => break,
        }
    }
    requests
}

fn head(input: &[u8]) -> Option<(Request<'_>, &[u8])> {
    let (line, mut rest) = line(input)?;
    let (method, target, version) = match line.split(' ').collect::<Vec<_>>()[..] {
        [method, target, version] => (method, target, version),
        // An empty line before a request is skipped.
        [""] => return head(rest),
        _ => return None,
    };
    if version != "HTTP/1.1" {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let (line, after) = self::line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some((
                Request {
                    method,
                    target,
                    headers,
                },
                rest,
            ));
        }
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return None;
        }
        headers.push((name, value.trim_matches([' ', '\t'])));
    }
}

/// Up to the line's end, which may be a line feed alone.
fn line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let line = str::from_utf8(&input[..end]).ok()?;
    Some((line.strip_suffix('\r').unwrap_or(line), &input[end + 1..]))
}

impl<'a> Request<'a> {
    fn all(&self, name: &str) -> Vec<&'a str> {
        let headers = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| *value).collect()
    }

    fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// What comes after its body; none where the body cannot be measured, or nothing may come.
    fn after_body<'b>(&self, rest: &'b [u8]) -> Option<&'b [u8]> {
        if self.has("connection") || self.has("upgrade") || self.has("expect") || self.method == "CONNECT" {
            return None;
        }
        match (&self.all("content-length")[..], &self.all("transfer-encoding")[..]) {
            ([], []) => Some(rest),
            ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => rest.get(length.parse().ok()?..),
            ([], ["chunked"]) => after_chunks(rest),
            _ => None,
        }
    }

    /// Whether it may be answered by the broker's word: a token, or that there is no room for one.
    pub fn is_worth_a_token(&self, sdk: Option<u16>) -> bool {
        let framed = match (&self.all("content-length")[..], &self.all("transfer-encoding")[..]) {
            ([], []) => true,
            ([length], []) => self.method == "POST" || length.bytes().all(|b| b == b'0'),
            (_, [encoding]) => self.method == "POST" && encoding.eq_ignore_ascii_case("chunked"),
            _ => false,
        };
        let is_get = self.method == "GET" && self.target.contains("resource=");
        let metadata = self.all("metadata");
        let proven = metadata.len() == 1 && metadata.iter().all(|value| value.eq_ignore_ascii_case("true"))
            || self.has("x-identity-header")
            || self.has("secret");
        let here = sdk.is_none_or(|port| {
            let hosts = self.all("host");
            !self.has("origin") && hosts.iter().all(|host| host.ends_with(&format!(":{port}"))) && hosts.len() == 1
        });
        framed
            && proven
            && here
            && (is_get || self.method == "POST")
            && self.target.starts_with('/')
            && self.all("host").len() <= 1
            && !self.has("x-forwarded-for")
    }
}

fn after_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (size, after) = line(rest)?;
        if size.is_empty() || size.len() > 4 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        let after = after.get(size..)?;
        rest = after.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some(rest);
        }
    }
}
