//! Properties of the broker over arbitrary inputs; what fails is made small by proptest.

use std::sync::Arc;
use std::time::Duration;

use msi_tokend::broker::{Ask, Bound, Broker, Decision, Effect, Entry, Policy, Renewal, Unserved};
use msi_tokend::clock::Now;
use msi_tokend::failure::{Cause, Class, Failure, Refusal};
use msi_tokend::key::{Identity, Key, Resource};
use msi_tokend::token::{Parts, Token};
use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::op::{KEYS, Op, UIDS, Want, policy};
use crate::upstream::{KINDS, Mood};
use crate::world::{World, all_keys};

/// A moment and tokens at the edges of what numbers can say.
const EDGES: [u64; 9] = [
    0,
    1,
    2,
    299,
    301,
    1_764_000_000,
    253_402_300_800,
    u64::MAX - 1,
    u64::MAX,
];

fn key(name: &str) -> Key {
    Key::new(Resource::new(name).unwrap(), Identity::Default)
}

fn token(key: &Key, secret: &str, expires_on: Duration) -> Token {
    let parts = Parts {
        access_token: Zeroizing::new(secret.to_owned()),
        client_id: None,
        expires_on,
        not_before: Duration::ZERO,
    };
    Token::new(&key.resource, &parts).unwrap()
}

fn ask(broker: &mut Broker, now: Now, key: &Key, uid: u32) -> (Decision, Vec<Effect>) {
    let mut effects = Vec::new();
    let asked = Ask {
        key,
        uid,
        renewal: Renewal::No,
    };
    let decision = broker.ask(now, asked, &mut effects);
    (decision, effects)
}

/// Answers every fetch among the effects, and those that start because of it.
fn answer(
    broker: &mut Broker,
    now: Now,
    effects: Vec<Effect>,
    outcome: &mut dyn FnMut(&Key) -> Result<Token, Failure>,
) {
    let mut effects = effects;
    while let Some(effect) = effects.pop() {
        if let Effect::Fetch(fetch) = effect {
            let outcome = outcome(&fetch.key);
            broker.reply(now, &fetch, outcome, &mut effects);
        }
    }
}

fn roomy() -> Policy {
    Policy {
        max_concurrent: 1000,
        max_per_second: 1000,
        ..policy(0, &[])
    }
}

fn class() -> impl Strategy<Value = Class> {
    let refused = || {
        Class::Refused(Refusal {
            error: Some("e".to_owned()),
            error_description: "d".to_owned(),
        })
    };
    prop_oneof![
        Just(Class::Restarting),
        Just(Class::Faulty),
        any::<Option<u64>>().prop_map(|seconds| Class::Throttled(seconds.map(Duration::from_secs))),
        Just(refused()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let time = || (0_u32..28, any::<u64>()).prop_map(|(magnitude, n)| Duration::from_millis(n % (1 << magnitude)));
    let want = prop_oneof![
        6 => Just(Want::Any),
        1 => Just(Want::Bypass),
        1 => Just(Want::ReplaceThis),
        1 => Just(Want::ReplaceOther),
    ];
    let mood = (0..KINDS.len(), any::<u64>()).prop_map(|(kind, seed)| Mood {
        kind: KINDS[kind],
        seed,
    });
    prop_oneof![
        8 => (1..=UIDS, 0..KEYS, want).prop_map(|(uid, key, want)| Op::Ask { uid, key, want }),
        1 => any::<usize>().prop_map(Op::HangUp),
        6 => time().prop_map(Op::Pass),
        1 => time().prop_map(Op::Sleep),
        1 => (-100_000_000..100_000_000_i64).prop_map(Op::Step),
        1 => Just(Op::Tick),
        2 => mood.prop_map(Op::Mood),
        1 => (0_usize..15).prop_map(Op::Reload),
        1 => any::<bool>().prop_map(|elsewhere| Op::Restart { elsewhere }),
        1 => Just(Op::Move),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_promise(seed: u64, variant in 0_usize..15, ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new(seed, variant);
        for op in &ops {
            let kept = world.play(*op);
            prop_assert!(kept.is_ok(), "{:?}", kept);
        }
        let kept = world.finish();
        prop_assert!(kept.is_ok(), "{:?}", kept);
    }

    #[test]
    fn no_row_of_failures_shortens_what_can_be_served(
        life in 2_u64..100_000,
        failures in prop::collection::vec((class(), 0_u64..200_000), 1..60),
    ) {
        let key = key("r");
        let start = Now { wall: Duration::from_secs(1_764_000_000), boot: Duration::from_secs(7) };
        let mut broker = Broker::new(roomy(), 1, start);
        let expires_on = start.wall + Duration::from_secs(life);
        let (_, effects) = ask(&mut broker, start, &key, 1);
        answer(&mut broker, start, effects, &mut |key| Ok(token(key, "good", expires_on)));

        let mut failures = failures.into_iter().cycle();
        for second in 1..=life + 1 {
            // The whole life of a short token; of a long one, its end and enough between.
            if life > 500 && second % (life / 100) != 0 && second + 200 < life {
                continue;
            }
            let now = Now { wall: start.wall + Duration::from_secs(second), boot: start.boot + Duration::from_secs(second) };
            let (class, _) = failures.next().unwrap();
            let (decision, mut effects) = ask(&mut broker, now, &key, 1);
            broker.tick(now, &mut effects);
            let waits = matches!(decision, Decision::Wait(_));
            let mut answers = Vec::new();
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Fetch(fetch) => {
                        broker.reply(now, &fetch, Err(Failure::new(class.clone(), Cause::Status, "x")), &mut effects);
                    }
                    Effect::Answer(_, answer) => answers.push(answer),
                    Effect::Note(_) => {}
                }
            }
            let served = match decision {
                Decision::Now(answer) => answer.ok(),
                Decision::Wait(_) => answers.pop().and_then(Result::ok),
            };
            prop_assert_eq!(served.as_ref().map(|served| served.left.as_secs()), (second < life).then(|| life - second),
                "second {} of {}, {}", second, life, waits);
        }
    }

    #[test]
    fn bounds_hold_at_one_more(total in 1_usize..40, per_uid in 1_usize..20, ended: bool, uids in 1_u32..6) {
        let now = Now { wall: Duration::from_secs(1_764_000_000), boot: Duration::from_secs(7) };
        let bounds = Policy { max_tokens: total, max_tokens_per_uid: per_uid, ..roomy() };
        let mut broker = Broker::new(bounds, 1, now);
        for uid in 0..uids {
            for i in 0..=per_uid {
                let of = |entry: &Entry| entry.key.resource.as_str().starts_with(&format!("{uid}/"));
                let before = broker.entries(&all_keys(&broker), now).len();
                let mine = broker.entries(&all_keys(&broker), now).into_iter().filter(of).count();
                let key = key(&format!("{uid}/{i}"));
                let (decision, effects) = ask(&mut broker, now, &key, uid);
                if ended && (mine > 0 || before < total) {
                    prop_assert!(matches!(decision, Decision::Wait(_)), "{:?}", decision);
                    answer(&mut broker, now, effects, &mut |key| Ok(token(key, "t", now.wall + Duration::from_hours(1))));
                } else {
                    // Nothing that runs may go, and no token of another uid, so there is no room at all.
                    let full = match decision {
                        Decision::Now(Err(Unserved::Full(bound))) => Some(bound),
                        _ => None,
                    };
                    let expected = (mine == per_uid).then_some(Bound::PerUid).or((before == total).then_some(Bound::Total));
                    prop_assert_eq!(full, expected);
                }
                prop_assert!(broker.entries(&all_keys(&broker), now).len() <= total);
                prop_assert!(broker.entries(&all_keys(&broker), now).into_iter().filter(of).count() <= per_uid);
            }
        }
    }

    #[test]
    fn every_caller_is_answered_although_the_upstream_never_does(
        waits in prop::collection::vec((0_u64..30_000, 0..KEYS), 1..40),
        seconds in 1_u64..60,
    ) {
        let start = Now { wall: Duration::from_secs(1_764_000_000), boot: Duration::from_secs(7) };
        let patience = Duration::from_secs(seconds);
        let mut broker = Broker::new(Policy { caller_wait: patience, ..policy(0, &[]) }, 1, start);
        let mut waiting = std::collections::BTreeMap::new();
        let mut now = start;
        for (after, n) in waits {
            now.boot += Duration::from_millis(after);
            now.wall += Duration::from_millis(after);
            let mut effects = Vec::new();
            broker.tick(now, &mut effects);
            let (decision, more) = ask(&mut broker, now, &key(&n.to_string()), 1);
            let Decision::Wait(id) = decision else { panic!("{decision:?}") };
            waiting.insert(id, now.boot + patience);
            effects.extend(more);
            for effect in effects {
                if let Effect::Answer(id, answer) = effect {
                    prop_assert!(waiting.remove(&id).is_some_and(|deadline| deadline <= now.boot));
                    prop_assert!(matches!(answer, Err(Unserved::TimedOut(None))));
                }
            }
        }
        // From here on only the broker's own alarm is followed.
        while !waiting.is_empty() {
            let wake = broker.next_wake(now).unwrap();
            prop_assert!(wake > now.boot);
            now = Now { wall: now.wall + wake.saturating_sub(now.boot), boot: wake };
            let mut effects = Vec::new();
            broker.tick(now, &mut effects);
            for effect in effects {
                if let Effect::Answer(id, _) = effect {
                    prop_assert_eq!(waiting.remove(&id), Some(now.boot));
                }
            }
        }
    }

    #[test]
    fn no_number_is_too_odd(
        times in prop::collection::vec((0..EDGES.len(), 0..EDGES.len(), 0..EDGES.len(), 0_u32..1_000_000_000), 1..12),
    ) {
        let key = key("r");
        let at = |n: usize| Duration::from_secs(EDGES[n]);
        let mut now = Now { wall: at(times[0].0), boot: at(times[0].1) };
        let mut broker = Broker::new(roomy(), 1, now);
        let mut last = None;
        for (wall, boot, expires, nanos) in times {
            // The boot-time clock never goes back.
            now = Now { wall: at(wall), boot: at(boot).max(now.boot) };
            let expires_on = Duration::new(EDGES[expires], nanos);
            let (decision, mut effects) = ask(&mut broker, now, &key, 1);
            broker.tick(now, &mut effects);
            if let Decision::Now(Ok(served)) = &decision {
                prop_assert!(served.left >= Duration::from_secs(1));
                prop_assert!(now.wall + served.left <= last.unwrap());
            }
            answer(&mut broker, now, effects, &mut |key| {
                last = Some(expires_on);
                Ok(token(key, &expires_on.as_nanos().to_string(), expires_on))
            });
            last = last.max(broker.entries(&all_keys(&broker), now).into_iter().filter_map(|entry| entry.expires_on).max());
            _ = broker.next_wake(now);
        }
        let keys = [Arc::new(key)];
        broker.reconfigure(now, policy(7, &keys), &mut Vec::new());
    }
}
