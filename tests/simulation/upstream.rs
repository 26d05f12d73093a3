//! The upstream of the simulation. What becomes of a request is drawn from the upstream's mood when the request starts.

use std::time::Duration;

use msi_tokend::failure::{Class, Refusal};

/// What the endpoint is like for a while.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    pub kind: Kind,
    /// Of what each request draws.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Healthy,
    /// Gives what it gave before: the last token, or one from another of its caches.
    Caching,
    Restarting,
    Faulty,
    Throttling,
    Refusing,
    /// Answers after half a minute at best.
    Hanging,
    Mixed,
}

/// What becomes of one request.
#[derive(Clone, Debug)]
pub struct Fate {
    pub takes: Duration,
    pub verdict: Verdict,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    /// A new token that lives so long, of this client id where the key does not say whose.
    Token {
        life: Duration,
        client: Option<&'static str>,
    },
    /// A token that was given before, so many back.
    Again(usize),
    Failure(Class),
}

pub const KINDS: [Kind; 8] = [
    Kind::Healthy,
    Kind::Caching,
    Kind::Restarting,
    Kind::Faulty,
    Kind::Throttling,
    Kind::Refusing,
    Kind::Hanging,
    Kind::Mixed,
];

impl Mood {
    pub const HEALTHY: Self = Self {
        kind: Kind::Healthy,
        seed: 0,
    };

    /// The fate of the `n`th request.
    pub fn fate(self, n: u64) -> Fate {
        let mut rng = fastrand::Rng::with_seed(self.seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let kind = match self.kind {
            Kind::Mixed => KINDS[rng.usize(..KINDS.len() - 1)],
            kind => kind,
        };
        let takes = match kind {
            Kind::Hanging => Duration::from_secs(rng.u64(5..30)),
            _ if rng.u8(..) < 10 => Duration::from_millis(rng.u64(500..9000)),
            _ => Duration::from_millis(rng.u64(1..300)),
        };
        let verdict = match kind {
            Kind::Caching if rng.bool() => Verdict::Again(rng.usize(..3)),
            Kind::Healthy | Kind::Caching => token(&mut rng),
            Kind::Restarting => Verdict::Failure(Class::Restarting),
            Kind::Faulty | Kind::Hanging | Kind::Mixed => Verdict::Failure(Class::Faulty),
            Kind::Throttling => Verdict::Failure(Class::Throttled(
                rng.bool()
                    .then(|| Duration::from_secs([0, 1, 7, 120, 100_000][rng.usize(..5)])),
            )),
            Kind::Refusing => Verdict::Failure(Class::Refused(Refusal {
                error: Some("invalid_request".to_owned()),
                error_description: "Identity not found".to_owned(),
            })),
        };
        Fate { takes, verdict }
    }
}

fn token(rng: &mut fastrand::Rng) -> Verdict {
    let seconds = match rng.u8(..20) {
        0 => rng.u64(0..4),
        1 => rng.u64(4..300),
        2 => rng.u64(290..310),
        3..6 => rng.u64(300..4000),
        6 => 28 * 3600 + rng.u64(..10) - 5,
        _ => rng.u64(80_000..86_401),
    };
    Verdict::Token {
        life: Duration::from_millis(seconds * 1000 + rng.u64(..1000)),
        client: [Some("one"), Some("ONE"), None, Some("two")][rng.usize(..4) * rng.usize(..2)],
    }
}
