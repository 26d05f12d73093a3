//! `/status` for people: the worst token first, each time from now and by the clock.

use std::time::{Duration, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};

use super::error::printable;
use super::table;
use super::terminal::wrapped;
use crate::observe::status::{Status, TokenStatus};

/// SDKs treat a token with fewer seconds than this as expired.
const LOW: u64 = 300;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In columns; none if lines may have any length.
    pub width: Option<usize>,
    /// Whether states have colours.
    pub colour: bool,
}

/// A token's state, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TokenState {
    /// There is no token to serve, and the last fetch failed.
    Missing,
    /// The token is served, and its refresh failed.
    Failing,
    /// It expires soon.
    Low,
    /// The first one is being fetched.
    Fetching,
    Fine,
}

/// Shows `/status`.
pub struct Listing(pub Status);

impl Listing {
    /// A table, or a block of lines for each token if the table is wider than the terminal.
    pub fn render(mut self, look: &Look) -> String {
        self.0.tokens.sort_by_key(|token| (state_of(token), token.expires_in));
        let mut lines = self.heading();
        if !self.0.tokens.is_empty() {
            lines.push(String::new());
            let table = self.table();
            if table::fits(&table, look.width) {
                self.rows(&table, look, &mut lines);
            } else {
                self.blocks(look, &mut lines);
            }
        }
        lines.join("\n")
    }

    fn heading(&self) -> Vec<String> {
        let count = |state| self.0.tokens.iter().filter(|token| state_of(token) == state).count();
        let (missing, failing) = (count(TokenState::Missing), count(TokenState::Failing));
        let tokens = match self.0.tokens.len() {
            0 if self.0.caller.privileged => "no token is cached".to_owned(),
            0 => "no token is cached that you may have".to_owned(),
            1 => "1 token".to_owned(),
            all => format!("{all} tokens"),
        };
        let trouble = match (missing, failing) {
            (0, 0) => String::new(),
            (missing, 0) => format!("; {missing} cannot be served"),
            (0, failing) => format!("; {failing} cannot be refreshed"),
            (missing, failing) => format!("; {missing} cannot be served, {failing} cannot be refreshed"),
        };
        vec![
            format!("msi-tokend {} at {}", printable(&self.0.version), date(self.0.now)),
            format!("tokens from {}", printable(&self.0.endpoint)),
            tokens + &trouble,
        ]
    }

    /// The heading, and a line for each token.
    fn table(&self) -> Vec<String> {
        let head = ["STATE", "RESOURCE", "IDENTITY", "KEPT", "EXPIRES", "NEXT TRY", "HITS"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.0.tokens.iter().map(|token| {
            [
                state_of(token).name().to_owned(),
                printable(token.resource.as_str()),
                printable(&token.identity.to_string()),
                if token.warm { "warm" } else { "in use" }.to_owned(),
                expiry(token, self.0.now),
                next(token, self.0.now),
                token.hits.to_string(),
            ]
        }));
        table::lines(&rows)
    }

    fn rows(&self, table: &[String], look: &Look, lines: &mut Vec<String>) {
        let [head, rows @ ..] = table else { return };
        lines.push(head.clone());
        for (row, token) in rows.iter().zip(&self.0.tokens) {
            lines.push(painted(row, state_of(token), look));
            lines.extend(trouble(token).map(|trouble| wrapped(&format!("    {trouble}"), look.width, 4)));
        }
    }

    fn blocks(&self, look: &Look, lines: &mut Vec<String>) {
        for token in &self.0.tokens {
            let state = state_of(token);
            lines.push(painted(
                &format!("{} {}", state.name(), printable(token.resource.as_str())),
                state,
                look,
            ));
            let kept = if token.warm { ", kept warm" } else { "" };
            lines.push(format!("    for {}{kept}", printable(&token.identity.to_string())));
            lines.push(format!("    expires: {}", expiry(token, self.0.now)));
            lines.push(format!("    next try: {}", next(token, self.0.now)));
            lines.extend(trouble(token).map(|trouble| wrapped(&format!("    {trouble}"), look.width, 4)));
        }
    }
}

fn state_of(token: &TokenStatus) -> TokenState {
    match (token.expires_in, token.failures) {
        (0, 0) => TokenState::Fetching,
        (0, _) => TokenState::Missing,
        (_, 1..) => TokenState::Failing,
        (..LOW, 0) => TokenState::Low,
        _ => TokenState::Fine,
    }
}

fn expiry(token: &TokenStatus, now: u64) -> String {
    match token.expires_on {
        None => "no token".to_owned(),
        // The boot-time clock may end a token before the date that is written in it.
        Some(at) if token.expires_in == 0 && at > now => "expired".to_owned(),
        Some(at) => moment(at, now),
    }
}

fn next(token: &TokenStatus, now: u64) -> String {
    if token.fetching || token.next_try <= now {
        "now".to_owned()
    } else {
        moment(token.next_try, now)
    }
}

fn trouble(token: &TokenStatus) -> Option<String> {
    let error = printable(token.last_error.as_ref()?);
    Some(match token.failures {
        0 | 1 => error,
        failures => format!("{error}; {failures} failures in a row"),
    })
}

impl TokenState {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "MISSING",
            Self::Failing => "FAILING",
            Self::Low => "LOW",
            Self::Fetching => "fetching",
            Self::Fine => "ok",
        }
    }

    fn style(self) -> Style {
        let colour = match self {
            Self::Missing => AnsiColor::Red,
            Self::Failing | Self::Low => AnsiColor::Yellow,
            Self::Fetching => AnsiColor::Cyan,
            Self::Fine => AnsiColor::Green,
        };
        colour.on_default()
    }
}

/// Colours the state at the beginning of the line.
fn painted(line: &str, state: TokenState, look: &Look) -> String {
    match line.strip_prefix(state.name()) {
        Some(rest) if look.colour => {
            let style = state.style();
            format!("{style}{}{style:#}{rest}", state.name())
        }
        _ => line.to_owned(),
    }
}

/// "in 4m 12s (19:07:34Z)", "3m 2s ago (18:58:20Z)"; for another day than today "in 13h 53m (11-25 08:40Z)".
fn moment(at: u64, now: u64) -> String {
    let (clock, today) = (date(at), date(now));
    let (day, time) = clock.split_once(' ').unwrap_or(("", &clock));
    let clock = if today.starts_with(day) {
        time.to_owned()
    } else {
        let (year, seconds) = ("2025-".len(), ":00Z".len());
        let minutes = clock.len() - seconds;
        clock
            .get(year..minutes)
            .map_or_else(|| clock.clone(), |short| format!("{short}Z"))
    };
    if at >= now {
        format!("in {} ({clock})", span(at - now))
    } else {
        format!("{} ago ({clock})", span(now - at))
    }
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `2025-11-24 19:07:34Z`; a number of seconds after the year 9999.
fn date(seconds: u64) -> String {
    const END_OF_9999: u64 = 253_402_300_799;
    if seconds > END_OF_9999 {
        return seconds.to_string();
    }
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Codes;
    use crate::key::{Identity, Resource};
    use crate::observe::status::CallerStatus;

    const NOW: u64 = 1_764_010_000; // 2025-11-24 18:46:40Z

    fn token(resource: &str, expires_in: u64, failures: u32) -> TokenStatus {
        TokenStatus {
            resource: Resource::new(resource).unwrap(),
            identity: Identity::Default,
            warm: false,
            expires_on: (expires_in > 0).then_some(NOW + expires_in),
            expires_in,
            next_try: NOW + 8,
            fetching: false,
            last_error: (failures > 0).then(|| "HTTP 503".to_owned()),
            codes: Codes::default(),
            failures,
            last_asked: NOW,
            hits: 7,
        }
    }

    fn rendered(tokens: Vec<TokenStatus>, width: Option<usize>, colour: bool) -> Vec<String> {
        let status = Status {
            format: 1,
            version: "1.2.3".into(),
            now: NOW,
            endpoint: "http://e/".to_owned(),
            configuration: None,
            sdk: None,
            units_unknown: None,
            caller: CallerStatus {
                uid: 0,
                privileged: true,
                rules: 0,
            },
            tokens,
            lock: None,
        };
        let text = Listing(status).render(&Look { width, colour });
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_soonest_trouble_comes_first_with_its_cause_below() {
        let tokens = vec![
            token("https://fine/", 40_000, 0),
            token("https://failing/", 50_000, 2),
            token("https://low/", 252, 0),
            token("https://first/", 0, 0),
            token("https://missing/", 0, 1),
        ];
        assert_eq!(
            rendered(tokens, None, false),
            [
                "msi-tokend 1.2.3 at 2025-11-24 18:46:40Z",
                "tokens from http://e/",
                "5 tokens; 1 cannot be served, 1 cannot be refreshed",
                "",
                "STATE     RESOURCE          IDENTITY  KEPT    EXPIRES                    NEXT TRY           HITS",
                "MISSING   https://missing/  default   in use  no token                   in 8s (18:46:48Z)  7",
                "    HTTP 503",
                "FAILING   https://failing/  default   in use  in 13h 53m (11-25 08:40Z)  in 8s (18:46:48Z)  7",
                "    HTTP 503; 2 failures in a row",
                "LOW       https://low/      default   in use  in 4m 12s (18:50:52Z)      in 8s (18:46:48Z)  7",
                "fetching  https://first/    default   in use  no token                   in 8s (18:46:48Z)  7",
                "ok        https://fine/     default   in use  in 11h 6m (11-25 05:53Z)   in 8s (18:46:48Z)  7",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_gets_blocks_and_a_colour_terminal_colours() {
        let lines = rendered(vec![token("https://a/", 40_000, 1)], Some(60), true);
        assert_eq!(
            lines[4..],
            [
                "\u{1b}[33mFAILING\u{1b}[0m https://a/",
                "    for default",
                "    expires: in 11h 6m (11-25 05:53Z)",
                "    next try: in 8s (18:46:48Z)",
                "    HTTP 503",
            ]
        );
        assert_eq!(rendered(vec![], Some(60), true).len(), 3);
    }

    #[test]
    fn times_at_their_ends() {
        assert_eq!(moment(NOW - 62, NOW), "1m 2s ago (18:45:38Z)");
        assert_eq!(moment(NOW, NOW), "in 0s (18:46:40Z)");
        assert_eq!(span(90_061), "1d 1h");
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
        assert!(moment(u64::MAX, NOW).contains(&format!("({})", u64::MAX)));
    }

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_command() {
        let failing = TokenStatus {
            last_error: Some("HTTP 503\u{1b}[2J".to_owned()),
            ..token("https://a/", 40_000, 1)
        };
        let lines = rendered(vec![failing], None, false);
        assert_eq!(lines.len(), 7);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    }
}
