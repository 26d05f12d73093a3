//! Fetches that fail: who is held, who is told and when it is tried again. How long each wait is, is tested in
//! `src/broker/backoff.rs`.

use std::time::Duration;

use msi_tokend::broker::{Decision, Note, Renewal, Unserved};
use msi_tokend::failure::Class;

use crate::clockwork::{Clockwork, HOUR, Says, names, policy, refused, secs, throttled, warm};

fn failing(class: &Class) -> Clockwork {
    let class = class.clone();
    Clockwork::new(warm("r"), move |_, _| Says::Fails(class.clone()))
}

fn cause_of(answer: &Result<msi_tokend::broker::Served, Unserved>) -> (&'static str, Duration) {
    match answer {
        Err(Unserved::Failed(failure, next_in)) => (failure.class.name(), *next_in),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_wait_that_is_told_is_the_wait_until_the_next_fetch() {
    for class in [
        Class::Restarting,
        Class::Faulty,
        Class::Throttled(None),
        throttled(7),
        throttled(0),
        throttled(u64::MAX),
        refused(),
    ] {
        let mut c = failing(&class);
        c.run_until(HOUR);
        let told: Vec<Duration> = c.failures().into_iter().map(|(next_in, _)| next_in).collect();
        let gaps = c.gaps();
        assert!(gaps.len() > 10, "{class:?}");
        assert_eq!(told[..gaps.len()], gaps, "{class:?}");
        if matches!(class, Class::Faulty | Class::Throttled(None)) {
            let late = &gaps[10..];
            assert!(late.iter().any(|gap| *gap != late[0]), "{class:?}: there is jitter");
        }
    }
}

#[test]
fn a_throttle_counts_for_all_keys() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    assert!(c.get("cached").unwrap().is_ok());
    c.upstream(|_, _| Says::Fails(throttled(30)));
    let throttled_at = c.time();
    assert_eq!(cause_of(&c.get("first").unwrap()), ("throttled", secs(30)));
    c.run_for(secs(10));
    // Another key that was never asked for, one that was told so, and one that can be served.
    assert_eq!(cause_of(&c.get("other").unwrap()), ("throttled", secs(20)));
    assert_eq!(cause_of(&c.get("first").unwrap()), ("throttled", secs(20)));
    assert!(c.hit("cached").is_some());
    assert!(matches!(c.ask_as(1, "cached", Renewal::Bypass), Decision::Now(Ok(_))));
    c.run_until(throttled_at + Duration::from_millis(29_999));
    assert_eq!(c.fetches.len(), 2);
    c.upstream(|_, _| Says::Fresh(HOUR));
    c.run_until(throttled_at + secs(30));
    assert_eq!(
        names(&c.fetches[2..]),
        ["first", "other"],
        "both were asked for within the minute"
    );
    assert_eq!(c.fetches[2].0, throttled_at + secs(30));
}

#[test]
fn a_throttle_is_told_to_everybody_who_waits_for_a_fetch_that_will_not_start() {
    let mut c = Clockwork::new(policy(), |key, _| match key.resource.as_str() {
        "gone" => Says::Fails(Class::Restarting),
        _ => Says::Fails(throttled(60)),
    });
    let Decision::Wait(held) = c.ask("gone") else { panic!() };
    c.run_for(secs(2));
    assert!(c.answer(held).is_none(), "held for a restart");
    c.takes = secs(1);
    let waiting: Vec<u64> = (0..9)
        .map(|i| match c.ask(&format!("k{i}")) {
            Decision::Wait(id) => id,
            Decision::Now(answer) => panic!("{answer:?}"),
        })
        .collect();
    c.run_for(secs(1));
    for id in waiting.into_iter().chain([held]) {
        let (at, answer) = c.answer(id).expect("told");
        assert_eq!((at, cause_of(&answer).0), (secs(3), "throttled"));
    }
}

#[test]
fn throttles_without_retry_after_double_by_the_round_and_not_by_the_answer() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fails(Class::Throttled(None)));
    c.takes = Duration::from_millis(10);
    for round in 0..8_u32 {
        // Of four users: one has not all slots.
        for uid in 0..4 {
            c.ask_as(uid, &format!("k{uid}"), Renewal::No);
        }
        c.run_for(Duration::from_millis(10));
        let waits: Vec<Duration> = c.failures().iter().rev().take(4).map(|(next_in, _)| *next_in).collect();
        let whole = secs(1 << round).min(secs(60));
        for wait in &waits {
            assert!(
                *wait >= (whole / 2).max(secs(1)) && *wait <= whole,
                "round {round}: {waits:?}"
            );
        }
        let longest = *waits.iter().max().unwrap();
        let silent = c.fetches.len();
        c.run_for(longest.saturating_sub(Duration::from_millis(1)));
        assert_eq!(c.fetches.len(), silent, "round {round}");
        c.run_for(Duration::from_millis(1));
    }
    assert!(c.count_notes(|note| matches!(note, Note::Throttled { rounds: 1, .. })) == 1);
}

#[test]
fn callers_are_held_through_a_restart_and_served_when_it_is_over() {
    let mut c = Clockwork::new(policy(), |_, time| {
        if time < secs(9) {
            Says::Fails(Class::Restarting)
        } else {
            Says::Fresh(HOUR)
        }
    });
    let Decision::Wait(first) = c.ask("r") else { panic!() };
    c.run_for(secs(5));
    let Decision::Wait(second) = c.ask("r") else {
        panic!("held like the first")
    };
    c.run_until(secs(60));
    // 0, 1, 3, 7, 12
    for id in [first, second] {
        let (at, answer) = c.answer(id).unwrap();
        assert_eq!(at, secs(12));
        assert!(answer.is_ok());
    }
    assert_eq!(c.fetches.len(), 5);
}

#[test]
fn a_caller_is_held_no_longer_than_caller_wait() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fails(Class::Restarting));
    let Decision::Wait(id) = c.ask("r") else { panic!() };
    c.run_until(secs(60));
    let (at, answer) = c.answer(id).unwrap();
    assert_eq!(at, secs(20));
    assert!(matches!(answer, Err(Unserved::TimedOut(Some(failure))) if failure.class == Class::Restarting));

    let mut c = Clockwork::new(policy(), |_, _| Says::Nothing);
    let Decision::Wait(id) = c.ask("r") else { panic!() };
    c.run_until(secs(60));
    let (at, answer) = c.answer(id).unwrap();
    assert_eq!(at, secs(20));
    assert!(matches!(answer, Err(Unserved::TimedOut(None))));
    assert_eq!(c.fetches.len(), 1, "a request that takes long is not asked twice");
}

#[test]
fn after_two_minutes_of_restarting_callers_are_told_at_once() {
    let mut c = failing(&Class::Restarting);
    c.run_until(secs(119));
    assert!(matches!(c.ask("r"), Decision::Wait(_)));
    c.run_until(secs(130));
    assert!(matches!(c.ask("r"), Decision::Now(Err(Unserved::Failed(..)))));
}

#[test]
fn any_other_failure_is_told_at_once_and_again_until_the_next_try_without_asking() {
    for (class, next) in [(Class::Faulty, secs(1)), (throttled(9), secs(9)), (refused(), secs(10))] {
        let answered = class.clone();
        let mut c = Clockwork::new(policy(), move |_, _| Says::Fails(answered.clone()));
        assert_eq!(cause_of(&c.get("r").unwrap()), (class.name(), next));
        c.run_for(next / 2);
        for _ in 0..100 {
            let answer = c.get("r").unwrap();
            assert_eq!(cause_of(&answer), (class.name(), next / 2), "{class:?}");
        }
        assert_eq!(c.fetches.len(), 1, "{class:?}");
        c.run_for(next / 2);
        assert_eq!(c.fetches.len(), 2, "{class:?}: somebody asked within the minute");
    }
}

#[test]
fn a_key_without_a_token_is_tried_again_while_somebody_asked_in_the_last_minute() {
    for class in [Class::Faulty, Class::Restarting, refused()] {
        let answered = class.clone();
        let mut c = Clockwork::new(policy(), move |_, _| Says::Fails(answered.clone()));
        c.ask("r");
        c.run_until(HOUR);
        let last = c.fetches.last().unwrap().0;
        assert!((secs(25)..secs(60)).contains(&last), "{class:?}: {last:?}");
        assert_eq!(c.broker.entries(&c.keys(), c.now).len(), 0);
        assert_eq!(c.count_notes(|note| matches!(note, Note::Dropped(_))), 1);
    }
}

#[test]
fn a_failing_refresh_takes_nothing_from_anybody_until_the_token_ends_which_is_told_once() {
    for class in [Class::Faulty, Class::Restarting, throttled(120), refused()] {
        let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(HOUR));
        c.run_for(secs(1));
        let failure = class.clone();
        c.upstream(move |_, _| Says::Fails(failure.clone()));
        for second in 2..3600 {
            c.run_until(secs(second));
            assert_eq!(c.hit("r"), Some(secs(3600 - second)), "{class:?} at {second}");
        }
        assert_eq!(c.count_notes(|note| matches!(note, Note::Lapsed { .. })), 0);
        c.run_until(secs(3600));
        assert_eq!(c.hit("r"), None);
        c.run_until(secs(9000));
        let lapsed: Vec<_> = c
            .notes
            .iter()
            .filter(|(_, note)| matches!(note, Note::Lapsed { .. }))
            .collect();
        assert_eq!(lapsed.len(), 1, "{class:?}");
        assert_eq!(lapsed[0].0, secs(3600), "{class:?}: told when it happens");
        let first = c.failures().iter().filter(|(_, first)| *first).count();
        let expected = usize::from(!matches!(class, Class::Throttled(_)));
        assert_eq!(
            first, expected,
            "{class:?}: once for each class, and throttles for all keys together"
        );

        c.upstream(|_, _| Says::Fresh(HOUR));
        c.run_for(secs(400));
        let recovered = |note: &Note| matches!(note, Note::Refreshed { failures, .. } if *failures > 10);
        assert_eq!(c.count_notes(recovered), 1, "{class:?}");
        let of_its_own = |note: &Note| matches!(note, Note::Refreshed { after: Some(_), .. });
        assert_eq!(c.count_notes(of_its_own), expected, "{class:?}");
        assert!(c.hit("r").is_some());
    }
}

#[test]
fn another_default_identity_is_told_once_and_its_token_served() {
    let says = |client: &'static str, name: &'static str| Says::Token {
        name,
        ends: secs(7200),
        client,
    };
    let mut c = Clockwork::new(warm("r"), move |_, _| says("ONE", "a"));
    c.run_for(secs(1));
    // The same one in other letters, then another whose token ends sooner.
    c.upstream(move |_, time| match time.as_secs() {
        ..3700 => says("one", "b"),
        _ => Says::Token {
            name: "c",
            ends: secs(7000),
            client: "two",
        },
    });
    c.run_for(HOUR);
    let changed = |note: &Note| matches!(note, Note::IdentityChanged { .. });
    assert_eq!(c.count_notes(changed), 0);
    c.run_for(HOUR / 2);
    assert_eq!(c.count_notes(changed), 1);
    let told = c.notes.iter().find_map(|(_, note)| match note {
        Note::IdentityChanged { old, new, .. } => Some((old.clone(), new.clone())),
        _ => None,
    });
    assert_eq!(told, Some((Some("one".to_owned()), Some("two".to_owned()))));
    let served = c.get("r").unwrap().unwrap();
    assert_eq!(served.token.client_id(), Some("two"));
}

#[test]
fn a_default_identity_that_becomes_a_400_is_served_while_its_token_lives_and_then_refused() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    assert!(c.get("r").unwrap().is_ok());
    c.upstream(|_, _| Says::Fails(refused()));
    for minute in 1..60 {
        c.run_until(secs(60 * minute));
        assert_eq!(c.hit("r"), Some(secs(3600 - 60 * minute)));
    }
    let told = c.failures().iter().filter(|(_, first)| *first).count();
    assert_eq!(told, 1);
    c.run_until(HOUR);
    assert_eq!(cause_of(&c.get("r").unwrap()).0, "refused");
    // Assigned again: callers are served as soon as the memory of the refusal is over.
    c.upstream(|_, _| Says::Fresh(HOUR));
    c.run_for(secs(61));
    assert!(c.hit("r").is_some());
}

#[test]
fn another_upstream_starts_with_the_first_waits_and_is_told_of_anew() {
    for class in [Class::Restarting, Class::Faulty, Class::Throttled(None), refused()] {
        let mut c = failing(&class);
        c.run_for(secs(1));
        let first = c.failures()[0];
        c.run_for(secs(1200));
        assert!(c.failures().last().unwrap().0 > 2 * first.0, "{class:?}");
        let before = c.failures().len();
        let same = class.clone();
        c.upstream_changes(move |_, _| Says::Fails(same.clone()));
        c.run_for(Duration::ZERO);
        let anew = c.failures()[before];
        assert!(
            anew.0 <= 2 * first.0 && anew.1 == first.1,
            "{class:?}: {anew:?}, at first {first:?}"
        );
    }
}

#[test]
fn another_upstream_renews_what_the_former_ones_throttle_put_off_before_it_is_over() {
    let mut c = Clockwork::new(warm("w"), |_, _| Says::Fresh(secs(240)));
    c.run_for(secs(100));
    c.upstream(|_, _| Says::Fails(throttled(300)));
    c.get("other");
    // Due meanwhile, and put off until the token will be over.
    c.run_for(secs(30));
    c.upstream_changes(|_, _| Says::Fresh(HOUR));
    c.run_for(secs(100));
    assert!(c.hit("w").unwrap() > secs(1800));
}
