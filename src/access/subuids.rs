//! Whose subordinate uids are (`subuid(5)`): a user may take any of those that `/etc/subuid` gives him, as many at once as
//! he likes.

use std::cmp::Reverse;

/// The file.
pub(super) const SUBUID: &str = "/etc/subuid";

/// Ranges of uids, and the user to whom each belongs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subuids(Vec<Range>);

#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    owner: u32,
}

impl Subuids {
    /// `uid_of` looks up an owner that is given by name. A range of root's, whose containers are as little root as one
    /// another, and one of nobody whom this machine knows count as a user of their own: the range's first uid.
    pub fn parse(text: &str, uid_of: impl Fn(&str) -> Option<u32>) -> Self {
        let mut ranges: Vec<Range> = text.lines().filter_map(|line| range(line, &uid_of)).collect();
        ranges.sort_unstable_by_key(|range| (range.first, Reverse(range.last)));
        Self(ranges)
    }

    /// Whom the uid counts as where users share something: who may take it, or else itself.
    pub fn owner_of(&self, uid: u32) -> u32 {
        let after = self.0.partition_point(|range| range.first <= uid);
        // Ranges may overlap, and one that begins later may end before.
        let within = self.0.iter().take(after).rfind(|range| uid <= range.last);
        within.map_or(uid, |range| range.owner)
    }
}

/// `OWNER:FIRST:COUNT`. Uid 0 is root's whatever the file says.
fn range(line: &str, uid_of: impl Fn(&str) -> Option<u32>) -> Option<Range> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(3, ':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
    let last = first.checked_add(count.checked_sub(1)?)?;
    if first == 0 {
        return None;
    }
    let owner = owner.parse().ok().or_else(|| uid_of(owner));
    Some(Range {
        first,
        last,
        owner: owner.filter(|uid| *uid != 0).unwrap_or(first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_of_a_range_counts_as_its_owner_and_any_other_as_itself() {
        let text = "alice:100000:65536\n1001:165536:65536\n\nroot:300000:10\nghost:400000:10\nroot:1000:1\n";
        let subuids = Subuids::parse(text, |name| match name {
            "alice" => Some(1000),
            "root" => Some(0),
            _ => None,
        });
        for (uid, owner) in [
            (0, 0),
            (1000, 1000),
            (99_999, 99_999),
            (100_000, 1000),
            (165_535, 1000),
            (165_536, 1001),
            (231_071, 1001),
            (231_072, 231_072),
            (300_009, 300_000),
            (400_003, 400_000),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(subuids.owner_of(uid), owner, "{uid}");
        }
    }

    #[test]
    fn a_range_within_another_takes_nothing_but_itself_out_of_it() {
        let subuids = Subuids::parse("1001:110000:10\n1000:100000:65536\n1002:100000:10", |_| None);
        for (uid, owner) in [
            (100_009, 1002),
            (100_010, 1000),
            (110_009, 1001),
            (110_010, 1000),
            (165_536, 165_536),
        ] {
            assert_eq!(subuids.owner_of(uid), owner, "{uid}");
        }
    }

    #[test]
    fn a_line_that_is_no_range_is_none() {
        let text = "a\na:1\na:x:5\na:5:x\na:5:0\na:-1:5\na:4294967295:2\na:4294967296:1\n# a:7:7\na:0:65536\n:::";
        assert_eq!(Subuids::parse(text, |_| Some(7)), Subuids::default());
    }
}
