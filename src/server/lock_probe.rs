//! Looks whether the lock is there, by a request of the daemon's own to the metadata service: the rules lead it back here. When
//! they are gone systemd is asked to load them again.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::passthrough::PROBE;
use super::shared::Server;
use crate::http;
use crate::listen::{METADATA_HOST, METADATA_SERVICE};
use crate::observe::events;
use crate::observe::lock::{LockHealth, Reading, Repair, Standing, Watch, loaded_mode};
use crate::replace::replace_at;

/// Between two looks where nothing is odd.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks that do not say what is held to be so.
const SOON: Duration = Duration::from_secs(1);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// DSCP 63, which takes away the exemption that the daemon's user has.
const MARK: i32 = 0x3f << 2;
/// Ports that the kernel gives no other request of ours: below `net.ipv4.ip_local_port_range` as it comes. One that was used
/// for a redirected connection may still be on record as such.
const PORTS: Range<u16> = 16_384..24_576;
/// Where those are all taken, as one user can: the others below that range.
const OTHER_PORTS: Range<u16> = 1_024..32_768;
/// Before no port is held to be free.
const TRIES: usize = 64;
const MAX_BODY: usize = 64 * 1024;

/// Keeps looking, and writes `lost` when the rules are gone. Never returns.
pub async fn watch_lock(server: Arc<Server>, lost: PathBuf) {
    let mut watch = Watch::default();
    let mut standing = Standing::Untried;
    let mut repair = Repair::default();
    loop {
        let Some(loaded) = loaded_mode() else {
            // It is switched off, and stays so.
            *server.metrics.lock.write() = None;
            server.look_at_lock();
            (watch, standing, repair) = (Watch::default(), Standing::Untried, Repair::default());
            sleep(PERIOD).await;
            continue;
        };
        let reading = timeout(PATIENCE, look()).await.unwrap_or(Reading::Unknown);
        let now = watch.note(reading);
        *server.metrics.lock.write() = Some(LockHealth {
            state: now,
            mode: loaded,
        });
        server.look_at_lock();
        if now != standing {
            tell(standing, now);
            standing = now;
        }
        let boot = server.engine.now().boot;
        let wanted = repair.wanted(boot, &watch, loaded, server.settings().lock.mode);
        if let Some(why) = wanted
            && let Err(error) = replace_at(&lost, why.text().as_bytes(), 0o644)
        {
            warn!(%error, file = %lost.display(), "systemd cannot be asked to load the lock's rules again");
        }
        // What was asked for is soon there.
        let is_quiet = watch.is_settled() && wanted.is_none();
        sleep(if is_quiet { PERIOD } else { SOON }).await;
    }
}

fn tell(before: Standing, now: Standing) {
    match (before, now) {
        (_, Standing::Lost) => error!(
            message_id = events::LOCK_LOST,
            outcome = "lost",
            "the lock is lost: every user reaches the metadata service by itself; its firewall rules are loaded again"
        ),
        (Standing::Lost, Standing::Locked) => info!(
            message_id = events::LOCK_RESTORED,
            outcome = "ok",
            "the lock is there again"
        ),
        _ => {}
    }
}

async fn look() -> Reading {
    let Ok(stream) = connect().await else {
        return Reading::Unknown;
    };
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = PROBE.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static(METADATA_HOST));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    match http::exchange(stream, request, MAX_BODY).await {
        Ok(answer) if answer.status == StatusCode::LOOP_DETECTED => Reading::Locked,
        Ok(_) => Reading::Open,
        Err(_) => Reading::Unknown,
    }
}

async fn connect() -> io::Result<TcpStream> {
    let mut last = connect_from(fastrand::u16(PORTS)).await;
    for _ in 1..TRIES {
        match &last {
            Err(error) if [ErrorKind::AddrInUse, ErrorKind::AddrNotAvailable].contains(&error.kind()) => {
                last = connect_from(fastrand::u16(OTHER_PORTS)).await;
            }
            _ => break,
        }
    }
    last
}

async fn connect_from(port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket, sockopt::Ipv4Tos, &MARK)?;
    // The same port cannot be in the way of the next look.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.connect(METADATA_SERVICE.into()).await
}
