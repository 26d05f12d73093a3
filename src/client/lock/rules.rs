//! The lock's firewall rules as text for nft(8): one table of our own, replaced in one transaction.

use crate::config::LockMode;

/// The lock's table, whatever was there of it before.
///
/// TCP to 169.254.169.254:80 of all but the exempt users goes to the daemon's listener. A user's packet whose socket has gone
/// already has no uid: such a rule is skipped, so each chain accepts the exempt and does the same with all the rest. The mark
/// of DSCP 63 only takes an exemption away; by it the daemon's own request finds out that the rules are there.
///
/// The daemon finds a caller by the address and port that a connection comes from. Masquerading, as Docker's for its bridge,
/// gives a connection another source, which may be that of somebody else's connection to the metadata service, such as root's:
/// what comes in with another source than its socket has is refused.
///
/// Where `net.ipv4.ip_unprivileged_port_start` lets users take port 169 while systemd does not hold it, who takes it answers
/// nobody: callers wait, since only what a listener sends shows whose it is.
pub fn text(exempt: &[u32], mode: LockMode) -> String {
    let exempt: Vec<String> = exempt.iter().map(u32::to_string).collect();
    let exempt = exempt.join(", ");
    // Of a connection that is older than the rules each packet looks like a first one; while observing it goes on.
    let (older, refuse, reset) = match mode {
        LockMode::Observe => (
            "    ip daddr 169.254.169.254 tcp flags & (fin|syn|rst|ack) != syn accept\n",
            "accept",
            "accept",
        ),
        LockMode::Enforce => ("", "reject with icmp type admin-prohibited", "reject with tcp reset"),
    };
    format!(
        "table ip msi_tokend
delete table ip msi_tokend
table ip msi_tokend {{
  set exempt {{ type uid; elements = {{ {exempt} }}; }}
  chain redirect_out {{
    type nat hook output priority -110; policy accept;
{older}    ip daddr 169.254.169.254 tcp dport 80 jump lock
  }}
  chain lock {{
    ip dscp != 0x3f meta skuid @exempt counter accept
    tcp dport 80 counter redirect to :169
  }}
  chain close_out {{
    type filter hook output priority 10; policy accept;
    ip daddr 169.254.169.254 jump closed
    oif \"lo\" ip daddr 127.0.0.1 tcp dport 169 ct status & dnat != dnat counter reject with tcp reset
    oif \"lo\" ip saddr 127.0.0.1 tcp sport 169 meta skuid != @exempt counter drop
  }}
  chain closed {{
    meta skuid @exempt accept
    meta skuid != @exempt meta l4proto tcp counter {reset}
    meta skuid != @exempt counter {refuse}
    ct state established counter accept
    counter {refuse}
  }}
  chain close_in {{
    type filter hook input priority 10; policy accept;
    ip daddr 127.0.0.1 tcp dport 169 ct status & snat == snat counter reject with tcp reset
  }}
  chain leak {{
    type filter hook postrouting priority 10; policy accept;
    oifname != \"lo\" ip daddr 127.0.0.0/8 tcp dport 169 counter drop
  }}
  chain close_forward {{
    type filter hook forward priority 10; policy accept;
    ip daddr 169.254.169.254 counter {refuse}
  }}
}}
"
    )
}

/// A table of somebody else's that refuses what is sent to the metadata service, in what `nft list ruleset` prints.
pub fn closed_by(ruleset: &str) -> Option<String> {
    let mut table = None;
    for line in ruleset.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = Some(name.trim_end_matches(['{', ' ']));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let refuses = words.contains(&"reject") || words.contains(&"drop");
        if refuses && line.contains("169.254.169.254") && table != Some("ip msi_tokend") {
            return table.map(str::to_owned);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_closes_the_address_is_found_and_ours_is_none() {
        let ours = "table ip msi_tokend {\n\tchain a {\n\t\tip daddr 169.254.169.254 counter reject\n\t}\n}\n";
        let open =
            "table inet filter {\n\tchain out {\n\t\tip daddr 169.254.169.254 accept\n\t\ttcp dport 25 drop\n\t}\n}\n";
        let closed =
            "table inet tokens {\n\tchain out {\n\t\tip daddr 169.254.169.254 meta skuid != 0 reject\n\t}\n}\n";
        assert_eq!(closed_by(&[ours, open].concat()), None);
        assert_eq!(
            closed_by(&[ours, open, closed].concat()),
            Some("inet tokens".to_owned())
        );
        assert_eq!(
            closed_by(&closed.replace("reject", "counter drop")),
            Some("inet tokens".to_owned())
        );
    }

    #[test]
    fn observing_refuses_nothing_but_what_names_no_caller_at_the_listener() {
        let refusals = |mode| text(&[0], mode).lines().filter(|line| line.contains("reject")).count();
        assert_eq!((refusals(LockMode::Observe), refusals(LockMode::Enforce)), (2, 6));
    }
}
