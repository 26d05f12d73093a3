//! The environment that leads programs to the loopback listener, as `sdk.env` has it.

use std::fmt::Write;
use std::net::SocketAddr;

/// What stands where a program wants a secret: it would look elsewhere without one. Nobody checks it.
pub const MARK: &str = "msi-tokend";

/// The hosts that no proxy is for: with `HTTP_PROXY` set, most programs would otherwise send their request to the proxy
/// (`docs/protocol.md`, "What SDKs do", row "Proxy variables").
pub fn hosts(address: SocketAddr) -> [String; 3] {
    [address.ip().to_string(), "localhost".into(), "169.254.169.254".into()]
}

/// Names and values for a listener at `address`: each program knows some of them (`docs/protocol.md`, "What SDKs do", row
/// "Variables") and none minds the others. The two spellings of `NO_PROXY` come last.
pub fn variables(address: SocketAddr) -> [(&'static str, String); 9] {
    let at = |path| format!("http://{address}{path}");
    let metadata = at("/metadata/identity/oauth2/token");
    let no_proxy = hosts(address).join(",");
    [
        ("IDENTITY_ENDPOINT", at("/msi/token")),
        ("IDENTITY_HEADER", MARK.to_owned()),
        ("MSI_ENDPOINT", at("/oauth2/token")),
        ("MSI_SECRET", MARK.to_owned()),
        ("AZURE_MSI_ENDPOINT", metadata.clone()),
        ("AZURE_IMDS_ENDPOINT", metadata.clone()),
        ("ARM_MSI_ENDPOINT", metadata),
        ("NO_PROXY", no_proxy.clone()),
        ("no_proxy", no_proxy),
    ]
}

/// The variables as `EnvironmentFile=` of systemd and `--env-file` of Docker read them.
pub fn file(address: SocketAddr) -> String {
    let mut text = String::new();
    for (name, value) in variables(address) {
        // Writing to a string does not fail.
        _ = writeln!(text, "{name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_file_leads_to_the_packaged_socket() {
        let unit = include_str!("../systemd/msi-tokend-sdk.socket");
        let address = unit.lines().find_map(|line| line.strip_prefix("ListenStream="));
        let address: SocketAddr = address.unwrap().parse().unwrap();
        assert!(address.port() < 1024, "no user can take the port while it is free");
        assert_eq!(file(address), include_str!("../systemd/sdk.env"));
    }

    #[test]
    fn an_ipv6_address_has_brackets_in_urls_and_none_as_a_host() {
        let text = file("[::1]:1".parse().unwrap());
        assert!(
            text.starts_with("IDENTITY_ENDPOINT=http://[::1]:1/msi/token\n"),
            "{text}"
        );
        assert!(text.contains("\nno_proxy=::1,localhost,169.254.169.254\n"), "{text}");
    }
}
