//! What the lock's firewall rules counted since they were loaded, in what `nft list table` prints.

/// Packets that no rule of msi-tokend can help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// That bridges forward to the address, from containers or virtual machines.
    pub forwarded: u64,
    /// To other ports of the address, by other protocols, and of connections that are older than the lock.
    pub others: u64,
}

impl PacketCounts {
    /// Those of the lock's table.
    pub fn of(table: &str) -> Self {
        let mut counters = Self::default();
        let mut chain = "";
        for line in table.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["chain", name, ..] = *words {
                chain = name;
            }
            let packets = words.windows(3).find_map(|words| match *words {
                ["counter", "packets", count] => count.parse::<u64>().ok(),
                _ => None,
            });
            match (chain, packets) {
                ("close_forward", Some(packets)) => counters.forwarded += packets,
                // The last packets of sockets that are closed already are told apart from them.
                ("closed", Some(packets)) if !line.contains("ct state") => counters.others += packets,
                _ => {}
            }
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forwarded_and_what_was_closed_are_summed_and_nothing_else() {
        let table = "table ip msi_tokend {
	chain lock {
		ip dscp != 0x3f meta skuid @exempt counter packets 1 bytes 60 accept
	}
	chain closed {
		meta skuid @exempt accept
		meta skuid != @exempt meta l4proto tcp counter packets 2 bytes 120 accept
		meta skuid != @exempt counter packets 3 bytes 180 accept
		ct state established counter packets 100 bytes 9 accept
		counter packets 4 bytes 240 accept
	}
	chain close_forward {
		type filter hook forward priority filter + 10; policy accept;
		ip daddr 169.254.169.254 counter packets 5 bytes 300 accept
	}
}";
        let counters = PacketCounts::of(table);
        assert_eq!((counters.forwarded, counters.others), (5, 9));
        assert_eq!(PacketCounts::of(""), PacketCounts::default());
    }
}
