//! hyper and nothing else: a fixed body, the daemon's own headers, its timer, one thread. `bare-hyper SOCKET BODY-FILE`

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [socket, body] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "bare-hyper SOCKET BODY-FILE")?;
    let body = Bytes::from(std::fs::read(body)?);
    let listener = UnixListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let body = body.clone();
        tokio::spawn(async move {
            let service = service_fn(|_| {
                let mut response = Response::new(Full::new(body.clone()));
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                async { Ok::<_, Infallible>(response) }
            });
            _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
