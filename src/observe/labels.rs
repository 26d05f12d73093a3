//! The labels that counters are kept by: closed sets, so that every counter exists from the start (what appears only with
//! its first event has no rate) and is found by its place.

use crate::failure::Class;

/// A label, or several together.
pub trait Label: Copy + 'static {
    /// Every one, by place.
    fn all() -> impl Iterator<Item = Self>;
    /// Its place among [`Label::all`].
    fn place(self) -> usize;
}

macro_rules! labels {
    ($(#[$about:meta])* $set:ident { $($(#[$meaning:meta])* $label:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $set {
            $($(#[$meaning])* $label,)+
        }

        impl $set {
            const ALL: &'static [Self] = &[$(Self::$label,)+];

            /// As it stands in `/metrics`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$label => $name,)+
                }
            }
        }

        impl Label for $set {
            fn all() -> impl Iterator<Item = Self> {
                Self::ALL.iter().copied()
            }

            fn place(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// What was asked for.
    Route {
        /// The token route of the instance metadata service.
        Imds = "/metadata/identity/oauth2/token",
        /// That of the VM extension.
        VmExtension = "/oauth2/token",
        /// That of App Service.
        AppService = "/msi/token",
        /// Do the daemon's own loops beat?
        Live = "/live",
        /// Can every warm token be served?
        Ready = "/ready",
        /// What is cached?
        Status = "/status",
        /// What is counted?
        Metrics = "/metrics",
        /// The configuration is to be read again.
        Reload = "/reload",
        /// What is passed on to the metadata service.
        Metadata = "/metadata/",
        /// What does not exist.
        Unknown = "unknown",
    }
}

labels! {
    /// How a request ended.
    Outcome {
        /// A route without tokens said what it was asked.
        Ok = "ok",
        /// A token, from the cache, at once.
        Hit = "hit",
        /// A token, after waiting for the upstream.
        Miss = "miss",
        /// 400, 404, 405, and 403 `not_served`: the request makes no sense.
        BadRequest = "bad_request",
        /// 403: the caller may not.
        Denied = "denied",
        /// 400: the upstream will not issue this token. 409: the configuration is not taken over.
        Refused = "refused",
        /// 429: the upstream throttles.
        Throttled = "throttled",
        /// 429: a bound of ours is reached.
        Full = "full",
        /// 503
        Unavailable = "unavailable",
        /// 504: the caller's wait ran out before the endpoint said anything.
        TimedOut = "timeout",
        /// The caller hung up before its answer.
        Abandoned = "abandoned",
    }
}

labels! {
    /// How a request to the upstream ended.
    Fetched {
        /// A token.
        Ok = "ok",
        /// [`Class::Restarting`]
        Restarting = "restarting",
        /// [`Class::Faulty`]
        Faulty = "faulty",
        /// [`Class::Throttled`]
        Throttled = "throttled",
        /// [`Class::Refused`]
        Refused = "refused",
        /// [`Class::Full`]
        Full = "full",
    }
}

labels! {
    /// Why a caller may not have what it asks for.
    Denial {
        /// No rule gives this caller this token.
        NoRule = "no_rule",
        /// It comes from a web page.
        Origin = "origin",
        /// It was not meant for this machine's loopback.
        Host = "host",
        /// Over TCP: a proxy forwarded it.
        Forwarded = "forwarded",
        /// Only root and the daemon's own user may ask for this.
        NotRoot = "not_root",
        /// The daemon's own user asks the metadata service, and the lock leads it to the daemon.
        Loop = "loop",
    }
}

labels! {
    /// Why a connection was closed before a request was read.
    Rejection {
        /// Its uid has its share of them.
        PerUid = "per_uid",
        /// All are taken, and nobody has more than it.
        Full = "full",
        /// The kernel does not say whose it is.
        UnknownCaller = "unknown_caller",
    }
}

labels! {
    /// What became of a request for anything but a token that the lock led to us.
    PassedThrough {
        /// The metadata service answered it, whatever it said.
        Ok = "ok",
        /// It is none that is passed on.
        Refused = "refused",
        /// As many as may be were under way.
        Full = "full",
        /// The metadata service gave no answer.
        Failed = "failed",
    }
}

impl Label for (Route, Outcome) {
    fn all() -> impl Iterator<Item = Self> {
        Route::all().flat_map(|route| Outcome::all().map(move |outcome| (route, outcome)))
    }

    fn place(self) -> usize {
        self.0.place() * Outcome::ALL.len() + self.1.place()
    }
}

impl Route {
    /// Whether it answers with tokens.
    pub fn has_tokens(self) -> bool {
        matches!(self, Self::Imds | Self::VmExtension | Self::AppService)
    }

    /// Whether a request can end so; a line for each pair that cannot be would be mere noise.
    pub fn can_end(self, outcome: Outcome) -> bool {
        let has_tokens = self.has_tokens();
        match outcome {
            Outcome::BadRequest => true,
            Outcome::Ok => !has_tokens && self != Self::Unknown,
            Outcome::Denied => has_tokens || matches!(self, Self::Reload | Self::Metadata | Self::Unknown),
            Outcome::Unavailable => has_tokens || matches!(self, Self::Live | Self::Ready | Self::Metadata),
            Outcome::Full | Outcome::TimedOut | Outcome::Abandoned => has_tokens || self == Self::Metadata,
            Outcome::Refused => has_tokens || self == Self::Reload,
            _ => has_tokens,
        }
    }
}

impl Outcome {
    /// Whether the cache had no answer at hand.
    pub fn is_miss(self) -> bool {
        !matches!(self, Self::Ok | Self::Hit | Self::BadRequest | Self::Denied)
    }
}

impl From<&Class> for Fetched {
    fn from(class: &Class) -> Self {
        match class {
            Class::Restarting => Self::Restarting,
            Class::Faulty => Self::Faulty,
            Class::Throttled(_) => Self::Throttled,
            Class::Refused(_) => Self::Refused,
            Class::Full => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places<L: Label>() -> Vec<usize> {
        L::all().map(Label::place).collect()
    }

    #[test]
    fn every_label_stands_in_its_place() {
        for places in [
            places::<Route>(),
            places::<Outcome>(),
            places::<Fetched>(),
            places::<(Route, Outcome)>(),
        ] {
            assert_eq!(places, (0..places.len()).collect::<Vec<_>>());
        }
    }
}
