//! Lives of tokens, and clocks that cannot be trusted.

use std::time::Duration;

use msi_tokend::broker::{Decision, Note, Renewal};
use msi_tokend::failure::Class;

use crate::clockwork::{Clockwork, HOUR, Says, policy, secs, sha256, warm};

const DAY: Duration = Duration::from_hours(24);

fn next_in(c: &Clockwork) -> Duration {
    c.broker.entries(&c.keys(), c.now).into_iter().next().unwrap().next_in
}

#[test]
fn a_token_is_renewed_at_half_of_what_is_left_or_up_to_a_tenth_earlier() {
    let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(DAY));
    c.run_until(30 * DAY);
    let gaps = c.gaps();
    assert!(
        gaps.iter().all(|gap| *gap <= DAY / 2 && *gap >= (DAY / 2).mul_f64(0.9)),
        "{gaps:?}"
    );
    assert!(gaps.iter().any(|gap| *gap != gaps[0]));
    assert!((60..=67).contains(&gaps.len()), "{}", gaps.len());
}

#[test]
fn the_same_token_back_again_is_normal_and_does_not_spin() {
    let same = |_: &msi_tokend::key::Key, _| Says::Token {
        name: "same",
        ends: DAY,
        client: "one",
    };
    let mut c = Clockwork::new(warm("r"), same);
    c.run_until(DAY.saturating_sub(secs(1)));
    let gaps = c.gaps();
    // 12 h, 6 h, 3 h, … down to a minute.
    assert!(gaps.iter().all(|gap| *gap >= secs(60)), "{gaps:?}");
    assert!(gaps.len() < 16, "{gaps:?}");
    assert!(c.hit("r").is_some());
}

#[test]
fn an_older_token_from_another_cache_of_the_endpoint_replaces_no_better_one() {
    let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(DAY));
    c.run_for(secs(1));
    c.upstream(|_, time| Says::Token {
        name: "older",
        ends: time + HOUR,
        client: "one",
    });
    c.run_until(13 * HOUR);
    assert!(c.fetches.len() >= 2);
    assert_eq!(c.hit("r"), Some(11 * HOUR));
}

#[test]
fn a_token_with_little_left_is_asked_for_every_30_seconds_at_most_and_waited_for_two_seconds_at_most() {
    // The upstream gives the same token again, which is over soon, and takes its time.
    let mut c = Clockwork::new(policy(), |_, _| Says::Token {
        name: "same",
        ends: secs(280),
        client: "one",
    });
    c.ask("r");
    c.run_for(secs(1));
    c.takes = secs(10);
    c.fetches.clear();
    let mut waited = 0;
    for tenth in 10..2700 {
        c.run_until(Duration::from_millis(tenth * 100));
        if let Decision::Wait(id) = c.ask("r") {
            waited += 1;
            let asked = c.time();
            c.run_for(secs(2));
            let (at, answer) = c.answer(id).unwrap();
            assert!(answer.is_ok() && at <= asked + secs(2));
        }
    }
    assert!(waited > 0);
    assert!(c.gaps().iter().all(|gap| *gap >= secs(30)), "{:?}", c.gaps());
    assert!(c.fetches.len() <= 9, "{}", c.fetches.len());
}

#[test]
fn who_waits_two_seconds_for_a_token_that_ends_meanwhile_is_held_like_anybody_without_one() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Token {
        name: "a",
        ends: secs(60),
        client: "one",
    });
    c.ask("r");
    c.run_until(secs(58));
    c.fetches.clear();
    c.upstream(|_, _| Says::Fresh(HOUR));
    c.takes = secs(5);
    let Decision::Wait(id) = c.ask("r") else { panic!() };
    c.run_for(secs(10));
    let (at, answer) = c.answer(id).unwrap();
    assert_eq!((at, answer.is_ok()), (secs(63), true));
}

#[test]
fn little_left_never_shortens_a_failures_back_off_and_makes_nobody_wait() {
    let mut c = Clockwork::new(policy(), |_, time| match time.as_secs() {
        0 => Says::Fresh(secs(400)),
        _ => Says::Fails(Class::Faulty),
    });
    c.ask("r");
    c.run_until(secs(390));
    let before: Vec<Duration> = c.gaps();
    let mut c = Clockwork::new(policy(), |_, time| match time.as_secs() {
        0 => Says::Fresh(secs(400)),
        _ => Says::Fails(Class::Faulty),
    });
    c.ask("r");
    for second in 1..390 {
        c.run_until(secs(second));
        if second >= 200 {
            assert!(c.hit("r").is_some(), "{second}");
        }
    }
    c.run_until(secs(390));
    // Asking every second changed the first refresh, which it may bring forward, and nothing after it.
    assert!(
        c.fetches.len() <= before.len() + 5,
        "{} {}",
        c.fetches.len(),
        before.len()
    );
    assert!(c.gaps().iter().all(|gap| *gap >= secs(1)));
}

#[test]
fn a_wall_clock_that_goes_ahead_ends_tokens_by_their_date_and_has_them_renewed_soon() {
    let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(DAY));
    c.run_for(secs(10));
    c.step_wall(20 * 3600);
    c.tick();
    assert_eq!(c.hit("r"), Some(secs(4 * 3600 - 10)));
    assert!(next_in(&c) <= 2 * HOUR, "planned anew: {:?}", next_in(&c));
    assert_eq!(
        c.count_notes(|note| matches!(note, Note::ClockStepped { forward: true, .. })),
        1
    );
    c.step_wall(5 * 3600);
    c.tick();
    assert_eq!(c.hit("r"), None, "its date is past");
    assert!(next_in(&c) <= secs(1));
    // Back to what it was: the token was good all the time.
    c.step_wall(-25 * 3600);
    c.tick();
    assert!(c.hit("r").is_some());
}

#[test]
fn a_wall_clock_that_goes_back_makes_no_life_longer() {
    let mut c = Clockwork::new(warm("r"), |_, time| match time.as_secs() {
        0 => Says::Fresh(HOUR),
        _ => Says::Fails(Class::Faulty),
    });
    c.run_for(secs(10));
    c.step_wall(-10 * 3600);
    c.tick();
    assert_eq!(c.hit("r"), Some(secs(3590)));
    assert_eq!(
        c.count_notes(|note| matches!(note, Note::ClockStepped { forward: false, .. })),
        1
    );
    c.run_until(secs(3599));
    assert_eq!(c.hit("r"), Some(secs(1)));
    c.run_until(HOUR);
    assert_eq!(c.hit("r"), None);
}

#[test]
fn a_suspended_machine_wakes_to_what_is_true_now() {
    let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(DAY));
    c.run_for(secs(10));
    c.sleep(20 * HOUR);
    // No timer has come round yet, and still nobody gets more than there is.
    assert_eq!(c.hit("r"), Some(secs(4 * 3600 - 10)));
    c.tick();
    assert_eq!(c.fetches.len(), 2, "what fell due in its sleep is renewed at once");
    assert_eq!(
        c.count_notes(|note| matches!(note, Note::ClockStepped { .. })),
        0,
        "both clocks agree"
    );
    c.run_for(secs(1));
    c.sleep(2 * DAY);
    assert_eq!(c.hit("r"), None, "over in its sleep");
    c.run_for(secs(1));
    assert!(c.hit("r").is_some());
}

#[test]
fn small_steps_of_the_clock_are_no_event() {
    let mut c = Clockwork::new(warm("r"), |_, _| Says::Fresh(DAY));
    c.run_for(secs(10));
    for _ in 0..100 {
        c.step_wall(1);
        c.run_for(secs(5));
        c.tick();
        c.step_wall(-1);
        c.run_for(secs(5));
        c.tick();
    }
    assert_eq!(c.count_notes(|note| matches!(note, Note::ClockStepped { .. })), 0);
    assert_eq!(c.fetches.len(), 1);
}

#[test]
fn a_key_is_refreshed_until_idle_drop_after_its_last_request_and_then_dropped() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    c.ask("r");
    c.run_until(10 * HOUR);
    assert!(c.hit("r").is_some());
    c.run_until(100 * HOUR);
    let dropped: Vec<Duration> = c
        .notes
        .iter()
        .filter(|(_, note)| matches!(note, Note::Dropped(_)))
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(dropped, [34 * HOUR]);
    let fetches = c.fetches.len();
    assert!((68..=76).contains(&fetches), "twice an hour for 34 hours: {fetches}");
}

#[test]
fn a_forced_refresh_comes_once_in_thirty_seconds_and_joins_what_runs() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    c.ask("r");
    c.run_for(Duration::ZERO);
    assert_eq!(c.fetches.len(), 1, "the first fetch");
    let served = |decision: Decision| match decision {
        Decision::Now(Ok(served)) => served,
        other => panic!("{other:?}"),
    };
    // The first fetch does not count.
    c.takes = secs(1);
    let Decision::Wait(one) = c.ask_as(1, "r", Renewal::Bypass) else {
        panic!()
    };
    let Decision::Wait(two) = c.ask_as(2, "r", Renewal::Replace(sha256("t1"))) else {
        panic!()
    };
    assert!(c.hit("r").is_some(), "who asks for no new one does not wait");
    c.run_for(secs(1));
    assert_eq!(c.fetches.len(), 2);
    assert!(c.fetches[1].1.bypass && !c.fetches[0].1.bypass);
    for id in [one, two] {
        assert!(c.answer(id).unwrap().1.unwrap().token.has_sha256(&sha256("t2")));
    }
    for second in 2..30 {
        c.run_until(secs(second));
        served(c.ask_as(1, "r", Renewal::Bypass));
        served(c.ask_as(1, "r", Renewal::Replace(sha256("t2"))));
    }
    assert_eq!(c.fetches.len(), 2);
    c.run_until(secs(30));
    served(c.ask_as(1, "r", Renewal::Replace(sha256("another"))));
    assert!(matches!(
        c.ask_as(1, "r", Renewal::Replace(sha256("t2"))),
        Decision::Wait(_)
    ));
    c.run_for(secs(1));
    assert!(c.fetches[2].1.bypass);
}

#[test]
fn a_reload_loses_nothing_that_fits() {
    let mut c = Clockwork::new(policy(), |_, _| Says::Fresh(HOUR));
    for name in ["a", "b", "c"] {
        c.get(name);
        c.run_for(secs(1));
    }
    c.hit("a");
    c.reconfigure(warm("w"));
    c.run_for(secs(1));
    for name in ["a", "b", "c", "w"] {
        assert!(c.hit(name).is_some(), "{name}");
    }
    let small = msi_tokend::broker::Policy {
        max_tokens: 3,
        max_tokens_per_uid: 2,
        ..warm("w")
    };
    c.run_for(secs(1));
    c.hit("a");
    c.reconfigure(small);
    let mut left: Vec<String> = c
        .broker
        .entries(&c.keys(), c.now)
        .into_iter()
        .map(|entry| entry.key.resource.to_string())
        .collect();
    left.sort();
    assert_eq!(left, ["a", "c", "w"], "the least recently used went");
    c.reconfigure(policy());
    assert!(c.hit("w").is_some(), "no longer warm, and still there");
}
