//! What goes when there is no room, and for whom.

use std::time::Duration;

use msi_tokend::broker::{Answer, Bound, Broker, Decision, KeySnapshot, Policy, Renewal, Unserved};
use msi_tokend::failure::Class;

use crate::clockwork::{Clockwork, HOUR, Says, policy, refused, secs, warm};

const LARGER: Says = Says::Token {
    name: "a.much.longer.secret.than.the.one.before.it",
    ends: Duration::from_hours(48),
    client: "one",
};

/// The bytes of one token; here all are about alike.
fn size() -> usize {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    get(&mut c, 1, "a").unwrap().token.size()
}

/// For so many of them, and a little.
fn room_for(tokens: usize) -> Policy {
    Policy {
        max_bytes: tokens * size() + 10,
        ..policy()
    }
}

/// What this user gets from an upstream that takes no time, a second after whatever was before.
fn get(c: &mut Clockwork, uid: u32, name: &str) -> Answer {
    c.run_for(secs(1));
    match c.ask_as(uid, name, Renewal::No) {
        Decision::Now(answer) => answer,
        Decision::Wait(id) => {
            c.run_for(Duration::ZERO);
            c.answer(id).unwrap().1
        }
    }
}

fn all_get(c: &mut Clockwork, asks: &[(u32, &str)]) {
    for (uid, name) in asks {
        assert!(get(c, *uid, name).is_ok(), "{name}");
    }
}

/// What can be served now.
fn live(c: &Clockwork) -> String {
    let entries = c
        .broker
        .entries(&c.keys(), c.now)
        .into_iter()
        .filter(|entry| !entry.left.is_zero());
    let mut names: Vec<String> = entries.map(|entry| entry.key.resource.to_string()).collect();
    names.sort();
    names.concat()
}

fn is_full(answer: &Answer, bound: Bound) -> bool {
    matches!(answer, Err(Unserved::Full(full)) if *full == bound)
}

fn has_no_room(answer: &Answer) -> bool {
    matches!(answer, Err(Unserved::Failed(failure, _)) if failure.class == Class::Full)
}

#[test]
fn a_token_for_which_nothing_may_go_is_not_kept_and_nobody_loses_one() {
    let mut c = Clockwork::new(room_for(2), |_, _| Says::Fresh(24 * HOUR));
    all_get(&mut c, &[(1, "a"), (1, "b")]);
    assert!(has_no_room(&get(&mut c, 2, "c")));
    c.fetches.clear();
    for _ in 0..600 {
        assert!(has_no_room(&get(&mut c, 2, "c")));
    }
    assert_eq!(live(&c), "ab");
    assert!((8..30).contains(&c.fetches.len()), "{:?}", c.gaps());
    // Its own go, which costs nobody else anything.
    assert!(get(&mut c, 1, "d").is_ok());
    assert_eq!(live(&c), "bd");
    // With wider bounds it is kept at its next try.
    c.reconfigure(room_for(3));
    c.run_for(secs(60));
    assert!(get(&mut c, 2, "c").is_ok());
    assert_eq!(live(&c), "bcd");
}

#[test]
fn a_token_that_grows_beyond_the_bytes_takes_the_place_of_the_heaviest_users() {
    let mut c = Clockwork::new(room_for(4), |key, time| match key.resource.as_str() {
        "a" if time > HOUR => LARGER,
        _ => Says::Fresh(24 * HOUR),
    });
    all_get(&mut c, &[(1, "a"), (2, "b"), (2, "c"), (3, "d")]);
    all_get(&mut c, &[(2, "b")]);
    c.run_for(13 * HOUR);
    assert!(get(&mut c, 1, "a").unwrap().token.size() > size());
    assert_eq!(live(&c), "abd", "the least recently used of the user who has two");
}

#[test]
fn a_token_that_grows_and_finds_no_room_leaves_the_one_before_it() {
    let mut c = Clockwork::new(
        room_for(1),
        |_, time| if time > HOUR { LARGER } else { Says::Fresh(24 * HOUR) },
    );
    all_get(&mut c, &[(1, "a")]);
    c.run_for(13 * HOUR);
    assert!(c.fetches.len() > 1 && get(&mut c, 1, "a").unwrap().token.size() == size());
    c.run_for(12 * HOUR);
    assert!(has_no_room(&get(&mut c, 1, "a")), "that one has ended");
}

#[test]
fn a_warm_token_takes_the_place_of_anybodys() {
    let mut c = Clockwork::new(room_for(2), |_, _| Says::Fresh(24 * HOUR));
    all_get(&mut c, &[(1, "a"), (2, "b"), (1, "a")]);
    c.reconfigure(Policy {
        max_bytes: room_for(2).max_bytes,
        ..warm("w")
    });
    c.run_for(secs(5));
    assert_eq!(live(&c), "aw");
}

#[test]
fn a_key_without_a_live_token_goes_first_whosever_it_is() {
    let bounds = Policy {
        max_tokens: 3,
        ..policy()
    };
    let mut c = Clockwork::new(bounds, |key, _| match key.resource.as_str() {
        "x" => Says::Fails(Class::Faulty),
        _ => Says::Fresh(HOUR),
    });
    all_get(&mut c, &[(1, "a"), (2, "b")]);
    assert!(get(&mut c, 2, "x").is_err());
    all_get(&mut c, &[(1, "c")]);
    assert_eq!(
        live(&c),
        "abc",
        "the one without a token went, although it was asked for last"
    );
    assert!(is_full(&get(&mut c, 3, "d"), Bound::Total), "nobody else's goes");
    assert_eq!(live(&c), "abc");
    all_get(&mut c, &[(1, "d")]);
    assert_eq!(live(&c), "bcd", "the least recently used of its own goes");
}

#[test]
fn narrower_bounds_are_kept_at_the_heaviest_users_cost() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(24 * HOUR));
    all_get(&mut c, &[(1, "a"), (2, "b"), (2, "c"), (2, "d")]);
    c.reconfigure(Policy {
        max_tokens: 3,
        ..policy()
    });
    assert_eq!(live(&c), "acd");
    c.reconfigure(room_for(2));
    assert_eq!(live(&c), "ad");
}

#[test]
fn a_key_that_others_ask_for_is_theirs_and_goes_to_where_there_is_room() {
    let bounds = Policy {
        max_tokens_per_uid: 2,
        ..policy()
    };
    let mut c = Clockwork::new(bounds, |_, _| Says::Fresh(24 * HOUR));
    all_get(&mut c, &[(1, "k"), (2, "k")]);
    all_get(&mut c, &[(1, "a"), (1, "b")]);
    assert_eq!(live(&c), "abk", "it counts for the second user");
    all_get(&mut c, &[(1, "c"), (1, "d")]);
    assert_eq!(live(&c), "cdk", "the first throws out its own");
    all_get(&mut c, &[(2, "e"), (2, "f")]);
    assert_eq!(live(&c), "cdfk", "and the second not what the first uses");
    c.run_for(25 * HOUR);
    all_get(&mut c, &[(1, "k"), (2, "k"), (2, "e"), (2, "f"), (2, "g")]);
    assert_eq!(live(&c), "fgk", "the first has room again, so k counts for it");
    // Both are at their bound with what both use.
    all_get(&mut c, &[(1, "a"), (2, "a"), (1, "f"), (1, "g")]);
    assert!(is_full(&get(&mut c, 1, "h"), Bound::PerUid));
    assert!(is_full(&get(&mut c, 2, "h"), Bound::PerUid));
    assert_eq!(live(&c), "afgk");
}

#[test]
fn a_warm_key_whose_token_does_not_fit_after_a_restart_keeps_its_back_off() {
    let mut c = Clockwork::new(warm("a"), |_, _| Says::Fresh(HOUR));
    c.run_for(secs(1));
    c.upstream(|_, _| Says::Fails(refused()));
    c.run_for(HOUR / 2 + secs(10));
    let before = c.broker.entries(&c.keys(), c.now).into_iter().next().unwrap();
    assert!(before.expires_on.is_some() && !before.next_in.is_zero());

    let narrow = Policy {
        max_bytes: 1,
        ..warm("a")
    };
    let carried = c.broker.snapshot(&c.keys());
    restart_with(&mut c, narrow, carried);
    let after = c.broker.entries(&c.keys(), c.now).into_iter().next().unwrap();
    assert_eq!(after.expires_on, None);
    assert_eq!(after.failures, before.failures);
    assert_eq!(after.next_in, before.next_in);
}

#[test]
fn a_token_that_expired_before_the_restart_takes_no_room() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(secs(30)));
    get(&mut c, 1, "a").unwrap();
    let carried = c.broker.snapshot(&c.keys());
    c.run_for(secs(40));
    let narrow = Policy {
        max_bytes: 1,
        ..policy()
    };
    restart_with(&mut c, narrow, carried);
    let after = c.broker.entries(&c.keys(), c.now).into_iter().next().unwrap();
    assert_eq!(after.expires_on, None, "its key is known still");
}

fn restart_with(c: &mut Clockwork, policy: Policy, carried: Vec<KeySnapshot>) {
    c.broker = Broker::new(policy, 1, c.now);
    c.broker.restore(c.now, carried, &mut Vec::new());
}
