//! How the daemon fares, judged in this one place: `/live` and `/ready` say it, the line of `systemctl status` and the log
//! repeat it, and `msi-token health` holds it against thresholds of its own. No state is remembered here, so each is left
//! when its cause is gone.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listed::Listed;
use super::lock::LockHealth;
use crate::broker::{Entry, LOW};
use crate::engine::Engine;
use crate::failure::Codes;
use crate::key::{Identity, Resource};

/// A key that is not warm is watched for so long after its last request.
const WATCHED: Duration = Duration::from_hours(1);

/// `/ready`
#[derive(Debug, Serialize)]
pub struct Health {
    /// All of it in one word.
    pub state: State,
    /// The daemon's own loops come round.
    pub live: bool,
    /// Every warm token can be served now.
    pub ready: bool,
    /// Somebody should look, before or although callers notice.
    pub degraded: bool,
    /// `ready` in the words of Azure's Application Health extension, which looks for this member (`docs/protocol.md`,
    /// "Azure's health extension").
    #[serde(rename = "ApplicationHealthState")]
    pub azure_state: AzureState,
    /// What is wrong with the daemon as a whole.
    pub problems: Vec<String>,
    /// The lock, where it is switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockHealth>,
    #[serde(skip)]
    keys: Keys,
    /// The warm tokens, and those that somebody asked for within the last hour. The last, so that they can be written one by
    /// one.
    tokens: [TokenHealth; 0],
}

/// What all keys come to.
#[derive(Debug, Default)]
struct Keys {
    cached: usize,
    servable: usize,
    /// A warm token cannot be served.
    missing: bool,
    /// That of one that has failed.
    failed: bool,
    /// With how many something is wrong.
    troubled: usize,
    /// With which of them first.
    first: Option<Entry>,
}

/// From the best to the worst; the worst that holds is the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is wrong.
    Ok,
    /// Callers are served, and something is wrong: a token could not be fetched or renewed or has little left, callers
    /// wait for connections, or the endpoint throttles.
    Degraded,
    /// A warm token is not there and is being asked for, so far without failure, as at the start.
    Waiting,
    /// A warm token cannot be had.
    NotReady,
    /// A loop of the daemon's own stands still.
    Stuck,
}

/// What the Application Health extension understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AzureState {
    /// All is well.
    Healthy,
    /// Something must be done.
    Unhealthy,
}

/// One key that is watched. Monitoring runs as a user that may have no token, so this is told to everybody, as the metrics
/// are.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenHealth {
    /// As asked.
    pub resource: Resource,
    /// As asked.
    pub identity: Identity,
    /// Kept for ever by the configuration.
    pub warm: bool,
    /// It can be served now.
    pub ready: bool,
    /// Seconds for which it can still be served; 0 if it cannot.
    pub expires_in: u64,
    /// Failures in a row since the last good reply.
    pub failures: u32,
    /// Why, or what is wrong with it.
    pub reason: String,
    /// What failed last, for programs.
    #[serde(flatten)]
    pub codes: Codes,
}

/// What is known where callers come in.
#[derive(Clone, Copy, Debug)]
pub struct Front {
    /// The loops of the daemon have come round lately.
    pub live: bool,
    /// No file descriptor is free for a new connection.
    pub out_of_descriptors: bool,
    /// `limits.max_connections`, where so many are taken.
    pub full_at: Option<usize>,
    /// The lock, where it is switched on.
    pub lock: Option<LockHealth>,
}

impl Health {
    /// As of now.
    pub async fn of(engine: &Engine, front: Front) -> Self {
        Self::judged(engine, front, |_| ()).await
    }

    /// As a document, and whether every warm token can be served.
    pub async fn document(engine: &Engine, front: Front) -> io::Result<(bool, Vec<u8>)> {
        let mut watched = Listed::default();
        let health = Self::judged(engine, front, |entry| {
            if is_watched(&entry) {
                watched.add(entry);
            }
        });
        let health = health.await;
        let ready = health.ready;
        Ok((ready, watched.written(health, TokenHealth::new).await?))
    }

    async fn judged(engine: &Engine, front: Front, mut each: impl FnMut(Entry)) -> Self {
        let mut keys = Keys::default();
        let add = |entry| {
            keys.add(&entry);
            each(entry);
        };
        engine.each_entry(engine.now(), add).await;
        let throttle = engine.throttle();
        Self::new(keys, throttle.as_ref().map(|failure| &*failure.text), front)
    }

    fn new(keys: Keys, throttle: Option<&str>, front: Front) -> Self {
        let problems = problems(throttle, front);
        let ready = !keys.missing;
        let degraded = !problems.is_empty() || keys.troubled > 0;
        let state = if !front.live {
            State::Stuck
        } else if keys.failed {
            State::NotReady
        } else if !ready {
            State::Waiting
        } else if degraded {
            State::Degraded
        } else {
            State::Ok
        };
        Self {
            state,
            live: front.live,
            ready,
            degraded,
            azure_state: AzureState::from(ready),
            problems,
            lock: front.lock,
            keys,
            tokens: [],
        }
    }

    /// In one line, without anything that changes by the second.
    pub fn line(&self) -> String {
        let Keys {
            cached,
            servable,
            troubled,
            first,
            ..
        } = &self.keys;
        let mut parts = vec![match cached {
            1 => format!("serving {servable} of 1 token"),
            _ => format!("serving {servable} of {cached} tokens"),
        }];
        parts.extend(self.lock.map(|lock| lock.note().to_owned()));
        parts.extend(self.problems.iter().cloned());
        if let Some(entry) = first
            && let Some(problem) = problem(entry)
        {
            let more = match troubled - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let (resource, identity) = (&entry.key.resource, &entry.key.identity);
            parts.push(format!("{resource} for {identity}: {problem}{more}"));
        }
        let parts = parts.join("; ");
        match self.state {
            State::Ok => parts,
            state => format!("{}: {parts}", state.name()),
        }
    }
}

impl Keys {
    fn add(&mut self, entry: &Entry) {
        self.cached += 1;
        self.servable += usize::from(!entry.left.is_zero());
        if !is_watched(entry) {
            return;
        }
        if entry.warm && entry.left.as_secs() == 0 {
            self.missing = true;
            self.failed |= entry.failures > 0;
        }
        if problem(entry).is_none() {
            return;
        }
        self.troubled += 1;
        // Soonest trouble first.
        let is_first = |first: &Entry| (entry.left, &entry.key) < (first.left, &first.key);
        if self.first.as_ref().is_none_or(is_first) {
            self.first = Some(entry.clone());
        }
    }
}

fn is_watched(entry: &Entry) -> bool {
    entry.warm || entry.asked_ago <= WATCHED
}

/// What is wrong with a key, if anything.
fn problem(entry: &Entry) -> Option<&str> {
    match &entry.last_failure {
        Some(failure) => Some(&failure.text),
        None if entry.left.as_secs() > 0 && entry.left < LOW => {
            Some("less than five minutes left, which SDKs take for expired")
        }
        None => None,
    }
}

fn problems(throttle: Option<&str>, front: Front) -> Vec<String> {
    let mut problems = Vec::new();
    if !front.live {
        problems.push("the accept loop or the broker stands still: systemctl restart msi-tokend".to_owned());
    }
    if front.out_of_descriptors {
        problems.push(
            "callers wait because no file descriptor is free: raise LimitNOFILE or lower limits.max_connections"
                .to_owned(),
        );
    }
    if let Some(bound) = front.full_at {
        problems.push(format!(
            "callers wait because all {bound} connections are taken: raise limits.max_connections"
        ));
    }
    problems.extend(front.lock.and_then(LockHealth::problem).map(str::to_owned));
    if let Some(cause) = throttle {
        problems.push(format!(
            "the endpoint throttles this VM (429), so the daemon asks it nothing for a while: {cause}"
        ));
    }
    problems
}

impl From<bool> for AzureState {
    fn from(good: bool) -> Self {
        if good { Self::Healthy } else { Self::Unhealthy }
    }
}

impl State {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Waiting => "waiting",
            Self::NotReady => "not ready",
            Self::Stuck => "stuck",
        }
    }
}

impl TokenHealth {
    fn new(entry: &Entry) -> Self {
        let left = entry.left.as_secs();
        let life = humantime::format_duration(Duration::from_secs(left));
        let reason = match (&entry.last_failure, left) {
            (None, 0) => "the first request to the endpoint is under way".to_owned(),
            (None, _) => format!("can be served for {life}"),
            (Some(failure), 0) => format!("no token; the last request failed: {}", failure.text),
            (Some(failure), _) => format!("can be served for {life}; the last refresh failed: {}", failure.text),
        };
        Self {
            resource: entry.key.resource.clone(),
            identity: entry.key.identity.clone(),
            warm: entry.warm,
            ready: left > 0,
            expires_in: left,
            failures: entry.failures,
            reason,
            codes: entry
                .last_failure
                .as_ref()
                .map(|failure| failure.codes())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::{Cause, Class, Failure};
    use crate::key::Key;

    const WELL: Front = Front {
        live: true,
        out_of_descriptors: false,
        full_at: None,
        lock: None,
    };

    fn entry(resource: &str, warm: bool, left: u64, failure: Option<&str>) -> Entry {
        let key = Key::new(Resource::new(resource).unwrap(), Identity::Default);
        Entry {
            key: Arc::new(key),
            warm,
            expires_on: None,
            left: Duration::from_secs(left),
            next_in: Duration::ZERO,
            fetching: false,
            last_failure: failure.map(|cause| Arc::new(Failure::new(Class::Faulty, Cause::Status, cause))),
            failures: u32::from(failure.is_some()),
            asked_ago: Duration::ZERO,
            hits: 0,
        }
    }

    fn health(entries: &[Entry], throttle: Option<&str>, front: Front) -> Health {
        let mut keys = Keys::default();
        for entry in entries {
            keys.add(entry);
        }
        Health::new(keys, throttle, front)
    }

    fn state(entries: &[Entry]) -> State {
        health(entries, None, WELL).state
    }

    #[test]
    fn each_state_has_its_cause_and_the_worst_one_holds() {
        let well = entry("https://well", true, 4000, None);
        let failing = entry("https://failing", true, 4000, Some("HTTP 500"));
        let low = entry("https://low", true, 299, None);
        let used = entry("https://used", false, 0, Some("HTTP 400"));
        let first = entry("https://first", true, 0, None);
        let gone = entry("https://gone", true, 0, Some("HTTP 500"));
        let first_used = entry("https://first-used", false, 0, None);
        let forgotten = Entry {
            asked_ago: WATCHED + Duration::from_secs(1),
            ..used.clone()
        };
        assert_eq!(state(&[]), State::Ok);
        assert_eq!(state(&[well.clone(), first_used, forgotten]), State::Ok);
        for one in [failing, low, used] {
            assert_eq!(state(&[well.clone(), one.clone()]), State::Degraded, "{one:?}");
            let all = [first.clone(), one, well.clone()];
            assert_eq!(state(&all), State::Waiting);
            assert_eq!(
                state(&[&all[..], std::slice::from_ref(&gone)].concat()),
                State::NotReady
            );
        }
        let stuck = Front { live: false, ..WELL };
        assert_eq!(health(&[gone], None, stuck).state, State::Stuck);
    }

    #[test]
    fn what_is_wrong_with_the_whole_degrades_it() {
        let throttled = health(&[], Some("HTTP 429"), WELL);
        assert_eq!((throttled.state, throttled.ready), (State::Degraded, true));
        assert!(throttled.problems[0].ends_with("HTTP 429"), "{throttled:?}");
        for front in [
            Front {
                out_of_descriptors: true,
                ..WELL
            },
            Front {
                full_at: Some(3),
                ..WELL
            },
        ] {
            let health = health(&[], None, front);
            assert_eq!((health.state, health.problems.len()), (State::Degraded, 1));
        }
    }

    #[test]
    fn a_life_is_told_as_people_write_it() {
        for (left, told) in [(40_000, "11h 6m 40s"), (3600, "1h"), (59, "59s")] {
            for failure in [None, Some("HTTP 503")] {
                let reason = TokenHealth::new(&entry("https://a", true, left, failure)).reason;
                let rest = reason.strip_prefix(&format!("can be served for {told}"));
                assert!(
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("; ")),
                    "{reason}"
                );
            }
        }
    }

    #[test]
    fn the_line_says_what_is_served_and_what_is_wrong() {
        let line = |entries: &[Entry], throttle| health(entries, throttle, WELL).line();
        assert_eq!(line(&[], None), "serving 0 of 0 tokens");
        assert_eq!(
            line(&[entry("https://a", true, 500, None)], None),
            "serving 1 of 1 token"
        );
        assert_eq!(
            line(&[entry("https://a", true, 0, None)], None),
            "waiting: serving 0 of 1 token"
        );
        let troubled = [
            entry("https://b", true, 500, Some("HTTP 503")),
            entry("https://a", false, 0, Some("connection refused")),
            entry("https://c", false, 600, None),
        ];
        assert_eq!(
            line(&troubled, None),
            "degraded: serving 2 of 3 tokens; https://a for default: connection refused, and 1 more"
        );
        assert_eq!(
            line(&troubled[2..], Some("HTTP 429")),
            "degraded: serving 1 of 1 token; the endpoint throttles this VM (429), so the daemon asks it nothing for a \
             while: HTTP 429"
        );
    }
}
