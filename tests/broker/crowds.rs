//! Many keys and many callers.

use std::time::Duration;

use msi_tokend::broker::{Decision, Policy, Renewal};
use msi_tokend::failure::Class;

use crate::clockwork::{Clockwork, HOUR, Says, names, policy, secs, warm};

fn waits(decision: &Decision) -> u64 {
    match decision {
        Decision::Wait(id) => *id,
        Decision::Now(answer) => panic!("{answer:?}"),
    }
}

/// The most starts in any span of a second.
fn most_in_a_second(c: &Clockwork) -> usize {
    let times: Vec<Duration> = c.fetches.iter().map(|(at, _)| *at).collect();
    let within = |from: &Duration| times.iter().filter(|at| *at >= from && **at < *from + secs(1)).count();
    times.iter().map(within).max().unwrap_or(0)
}

#[test]
fn one_uids_flood_delays_nobody_else_by_more_than_a_turn() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    c.takes = Duration::from_millis(100);
    for i in 0..60 {
        waits(&c.ask_as(1, &format!("flood{i}"), Renewal::No));
    }
    let other = waits(&c.ask_as(2, "other", Renewal::No));
    // A key of the flood's far end, which this one wants as well.
    let shared = waits(&c.ask_as(3, "flood59", Renewal::No));
    c.run_until(secs(20));
    let order = names(&c.fetches);
    let place = |name: &str| order.iter().position(|fetched| fetched == name).unwrap();
    assert_eq!(order.len(), 61);
    assert!(place("other") <= 6 && place("flood59") <= 7, "{order:?}");
    assert!(c.answer(other).unwrap().0 < secs(1));
    assert!(c.answer(shared).unwrap().0 < secs(1));
    assert!(most_in_a_second(&c) <= 10);
}

/// Each fetch takes as long as the endpoint may take at most.
#[test]
fn slow_fetches_of_three_uids_leave_the_last_slot_to_others() {
    for slow in 1..=3 {
        let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
        c.takes = secs(30);
        for i in 0..10 {
            for uid in 1..=slow {
                waits(&c.ask_as(uid, &format!("slow{uid}.{i}"), Renewal::No));
            }
        }
        assert_eq!(c.fetches.len(), 3);
        c.run_for(secs(1));
        c.takes = Duration::from_millis(100);
        for i in 0..5 {
            let other = waits(&c.ask_as(9, &format!("other{i}"), Renewal::No));
            c.run_for(Duration::from_millis(100));
            let answer = c.answer(other);
            assert!(answer.is_some_and(|(_, answer)| answer.is_ok()), "{slow}: {i}");
        }
    }
}

/// Where the endpoint restarts callers are held until the next try. Who asks just then makes that try, and has his share.
#[test]
fn who_was_held_has_his_turn_also_when_another_makes_the_next_try() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fails(Class::Restarting));
    let held = waits(&c.ask_as(2, "shared", Renewal::No));
    c.run_for(Duration::ZERO);
    c.upstream(|_, _| Says::Fresh(HOUR));
    c.takes = secs(10);
    for i in 0..3 {
        waits(&c.ask_as(1, &format!("slow{i}"), Renewal::No));
    }
    // The wake-up for the next try is late, so that the caller is first.
    c.sleep(secs(1));
    c.takes = Duration::ZERO;
    waits(&c.ask_as(1, "shared", Renewal::No));
    c.run_for(Duration::ZERO);
    assert!(c.answer(held).is_some_and(|(_, answer)| answer.is_ok()));
}

#[test]
fn a_key_that_is_to_be_kept_waits_no_longer_for_the_share_of_its_callers() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Nothing);
    for i in 0..5 {
        waits(&c.ask_as(1, &i.to_string(), Renewal::No));
    }
    assert_eq!(names(&c.fetches), ["0", "1", "2"]);
    c.reconfigure(warm("4"));
    assert_eq!(names(&c.fetches), ["0", "1", "2", "4"]);
}

/// Whoever asks for endless keys under a rule of one resource, by `xms_cc`, has four fifths of the budget.
#[test]
fn endless_keys_of_one_uid_leave_a_fifth_of_the_starts_to_others() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    for i in 0..64 {
        waits(&c.ask_as(1, &format!("endless{i}"), Renewal::No));
    }
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.fetches.len(), 8);
    for i in 0..2 {
        let other = waits(&c.ask_as(2, &format!("other{i}"), Renewal::No));
        c.run_for(Duration::ZERO);
        assert!(c.answer(other).is_some(), "{i}");
    }
    c.run_until(secs(12));
    assert!(most_in_a_second(&c) <= 10);
    assert_eq!(c.fetches.len(), 66);
}

#[test]
fn hits_never_wait_for_misses() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    c.get("cached");
    c.upstream(|_, _| Says::Nothing);
    for i in 0..60 {
        waits(&c.ask(&format!("miss{i}")));
    }
    for second in 1..20 {
        c.run_until(secs(second));
        assert!(c.hit("cached").is_some());
    }
}

#[test]
fn two_thousand_keys_due_after_a_long_sleep_come_soonest_expiry_first_within_the_bounds() {
    const KEYS: u64 = 2000;
    let roomy = Policy {
        max_tokens: 5000,
        max_tokens_per_uid: 5000,
        idle_drop: secs(7 * 24 * 3600),
        ..policy()
    };
    // The later a key is asked for, the sooner its token ends.
    let mut c = Clockwork::new(roomy, |key, time| {
        let n: u64 = key.resource.as_str().parse().unwrap();
        Says::Fresh(secs(24 * 3600 - 2 * n).saturating_sub(time))
    });
    c.takes = Duration::from_millis(30);
    for n in 0..KEYS {
        // Two users, since one has not all starts.
        c.ask_as(u32::from(n % 2 == 0), &n.to_string(), Renewal::No);
        c.run_for(Duration::from_millis(120));
    }
    c.run_for(secs(10));
    assert_eq!(c.fetches.len(), 2000);
    c.fetches.clear();

    c.sleep(15 * HOUR);
    c.upstream(|_, _| Says::Fresh(secs(24 * 3600)));
    let woke = c.time();
    c.tick();
    c.run_for(secs(5));
    // Who asks meanwhile for what is not there is served at once, and for what is there anyway.
    let cold = waits(&c.ask_as(9, "cold", Renewal::No));
    assert!(c.hit("0").is_some());
    c.run_for(secs(2));
    assert!(c.answer(cold).unwrap().1.is_ok());
    c.run_for(secs(400));
    let order: Vec<u64> = names(&c.fetches).iter().filter_map(|name| name.parse().ok()).collect();
    let expected: Vec<u64> = (0..KEYS).rev().collect();
    assert_eq!(order, expected);
    assert!(most_in_a_second(&c) <= 10);
    let took = c.fetches.last().unwrap().0.saturating_sub(woke);
    assert!((secs(200)..secs(240)).contains(&took), "{took:?}");
}

#[test]
fn a_thousand_callers_of_one_key_cause_one_request_also_when_it_fails() {
    for good in [true, false] {
        let mut c = Clockwork::new(policy(), move |_, _| {
            if good {
                Says::Fresh(HOUR)
            } else {
                Says::Fails(Class::Faulty)
            }
        });
        c.takes = secs(1);
        let ids: Vec<u64> = (0..1000).map(|uid| waits(&c.ask_as(uid, "r", Renewal::No))).collect();
        // Those who asked first hang up, and take nothing with them.
        for id in &ids[..500] {
            c.broker.forget(*id);
        }
        c.run_for(secs(1));
        assert_eq!(c.fetches.len(), 1);
        assert!(ids[..500].iter().all(|id| c.answer(*id).is_none()));
        assert!(ids[500..].iter().all(|id| c.answer(*id).unwrap().1.is_ok() == good));
    }
}
