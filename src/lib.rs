//! `msi-tokend`: the access tokens of a VM's managed identities, asked for once and handed to those that may have them.
//!
//! # The way of a token
//!
//! A caller connects to the Unix socket and [`server`] asks the kernel who it is. The request is read by one parser
//! into a [`key::Key`] (resource and identity); [`access`] judges whether this caller may have it. The [`engine`] takes
//! the question to the [`broker`], which decides: serve the cached token, wait for one, or refuse. Where it wants one
//! fetched, the engine has [`upstream`] ask the VM's endpoint and judge the reply; the [`token::Token`] goes back
//! through the broker, which keeps it, to everybody who waits. The server writes it out with what is left of its life at
//! that second. Before half of that life is over the broker asks for a new one, and nobody notices.
//!
//! # The house
//!
//! Each module imports only from those below it.
//!
//! | module | job |
//! |---|---|
//! | [`client`] | the program `msi-token`, which asks the daemon |
//! | [`check`] | `msi-tokend --check`: judges the files without the daemon |
//! | [`daemon`] | wiring: configuration, log, socket, broker, ready, signals, drain |
//! | [`memory`] | how much memory all bounds together allow, and whether the kernel does |
//! | [`server`] | callers: the accept loop, a connection, bytes to request, token to bytes |
//! | [`listen`] | where callers come in: a listener, or why there is none |
//! | [`systemd`] | what is told to systemd and taken from it: sockets, readiness, the cache over a restart |
//! | [`observe`] | what people see: log, metrics, status |
//! | [`engine`] | does what the broker decides: clock, timer, fetches, waking callers |
//! | [`upstream`] | the fetch: what each kind of endpoint is sent, what its answers mean |
//! | [`access`] | who is calling, and what the rules say |
//! | [`broker`] | decides, and does nothing else: no I/O, no clock, no task |
//! | [`config`] | files to typed configuration |
//! | [`fairness`] | who pays when something is full |
//! | [`replace`], [`directory`] | a file replaced whole, and a directory in which nobody else can put a file in place of ours |
//! | [`environment`] | what leads programs to the loopback listener |
//! | [`harden`] | what the process asks the kernel to keep others from |
//! | [`memory_limit`] | how much memory the kernel allows, and how much is used |
//! | [`descriptors`] | room for callers, and some kept from them |
//! | [`open_array`] | a JSON document written key by key |
//! | [`http`] | one HTTP exchange as a client |
//! | [`token`], [`failure`], [`key`], [`heartbeat`], [`clock`] | the values that the others speak in |
//!
//! [`emulator`] is the stand-in endpoint for development and tests; nothing imports it but its own program.

pub mod access;
pub mod broker;
pub mod check;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod descriptors;
pub mod directory;
pub mod emulator;
pub mod engine;
pub mod environment;
pub mod failure;
pub mod fairness;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod harden;
pub mod heartbeat;
pub mod http;
pub mod key;
pub mod listen;
pub mod memory;
pub mod memory_limit;
pub mod observe;
pub mod open_array;
pub mod replace;
pub mod server;
pub mod systemd;
pub mod token;
pub mod upstream;
