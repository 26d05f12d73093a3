//! The load: `load SOCKET CONNECTIONS SECONDS keep|close|drop TARGET`. Prints one JSON object.
//!
//! Each connection sends its next request when the last one is answered; with `close` each request has a connection of
//! its own and says so, with `drop` it does not say so. There the request is written right after connecting, as a client
//! does that blocks. Latencies are kept whole, so the percentiles are exact. Any answer but 200 ends the run.

use std::io::Write;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let [socket, connections, seconds, mode, target] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "load SOCKET CONNECTIONS SECONDS keep|close|drop TARGET")?;
    let keep = mode == "keep";
    let connection = if mode == "close" { "close" } else { "keep-alive" };
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nMetadata: true\r\nConnection: {connection}\r\n\r\n");
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(seconds.parse()?);
    let mut clients = JoinSet::new();
    for _ in 0..connections.parse::<usize>()? {
        clients.spawn(client(socket.clone(), request.clone(), keep, end));
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client??);
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{}",
        serde_json::json!({
            "requests": latencies.len(), "seconds": elapsed.as_secs_f64(),
            "p50": at(0.5).as_secs_f64(), "p99": at(0.99).as_secs_f64(), "p99.9": at(0.999).as_secs_f64(),
        })
    );
    Ok(())
}

async fn client(socket: String, request: String, keep: bool, end: Instant) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::new();
    let mut kept = None;
    let mut answer = vec![0; 16 * 1024];
    while Instant::now() < end {
        let begin = Instant::now();
        let mut stream = match kept.take() {
            Some(mut stream) => {
                AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
                stream
            }
            None => connect_and_ask(&socket, request.as_bytes())?,
        };
        read_answer(&mut stream, &mut answer).await?;
        latencies.push(begin.elapsed());
        if keep {
            kept = Some(stream);
        }
    }
    Ok(latencies)
}

/// The runtime's own `connect` would wait for its turn before the request can be written.
fn connect_and_ask(socket: &str, request: &[u8]) -> Result<UnixStream, Failure> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.write_all(request)?;
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

/// Reads one answer whole, by its content-length.
async fn read_answer(stream: &mut UnixStream, buffer: &mut [u8]) -> Result<(), Failure> {
    let (mut length, mut whole) = (0, usize::MAX);
    while length < whole {
        let more = stream.read(&mut buffer[length..]).await?;
        if more == 0 {
            return Err("the connection ended in the middle of an answer".into());
        }
        length += more;
        if whole == usize::MAX
            && let Some(end) = buffer[..length].windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(head.into());
            }
            let (_, rest) = head.split_once("content-length: ").ok_or("an answer without content-length")?;
            whole = end + 4 + rest.split("\r\n").next().unwrap_or_default().parse::<usize>()?;
        }
    }
    Ok(())
}
