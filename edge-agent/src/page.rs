//! A page about the box, on the box: read-only, for whoever stands in front of it, and the same as metrics.
//!
//! HTTP/1.1 as far as four documents need it: one GET on a connection, answered from the newest status, and closed.

mod metrics;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Bytes of a request: a browser's headers are a few hundred.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Connections at once: a few people, and a Prometheus.
const MAX_CONNECTIONS: usize = 16;
/// How long one may take in all.
const TIME: Duration = Duration::from_secs(5);

/// The page's server, listening.
pub(crate) struct Page {
    listener: TcpListener,
    at: SocketAddr,
}

impl Page {
    /// Listens on `at`.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub(crate) async fn open(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let at = listener.local_addr()?;
        info!("the box's page is at http://{at}/");
        Ok(Self { listener, at })
    }

    /// Serves until the other side of `status` is gone.
    pub(crate) async fn serve(self, mut status: watch::Receiver<Value>) {
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                gone = async { while status.changed().await.is_ok() {} } => return gone,
                Some(_) = talks.join_next(), if !talks.is_empty() => {}
                accepted = self.listener.accept(), if talks.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let newest = status.borrow().clone();
                        // Whoever takes too long, or goes, is not waited for.
                        drop(talks.spawn(tokio::time::timeout(TIME, talk(stream, self.at, newest))));
                    }
                    Err(error) => warn!("failed to accept on the box's page: {error}"),
                },
            }
        }
    }
}

async fn talk(mut stream: TcpStream, at: SocketAddr, status: Value) -> io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST_BYTES || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let answer = answer(&String::from_utf8_lossy(&request), at, &status);
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// The whole answer to a request's head.
#[must_use]
pub fn answer(request: &str, at: SocketAddr, status: &Value) -> Vec<u8> {
    let mut lines = request.split("\r\n");
    let mut first = lines.next().unwrap_or("").split(' ');
    let (method, target) = (first.next().unwrap_or(""), first.next().unwrap_or(""));
    let host = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    // A page of somebody else's, whose name suddenly leads here, is to read nothing (DNS rebinding).
    if !host.is_some_and(|(_, host)| is_own(host.trim(), at)) {
        return written("421 Misdirected Request", "text/plain", b"this is not what the address is called\n");
    }
    if method != "GET" {
        return written("405 Method Not Allowed", "text/plain", b"there is only something to read\n");
    }
    match target.split('?').next().unwrap_or("") {
        "/" => written("200 OK", "text/html; charset=utf-8", include_bytes!("page/index.html")),
        "/page.css" => written("200 OK", "text/css; charset=utf-8", include_bytes!("page/page.css")),
        "/page.js" => written("200 OK", "text/javascript; charset=utf-8", include_bytes!("page/page.js")),
        "/status.json" => written("200 OK", "application/json", status.to_string().as_bytes()),
        "/metrics" => written("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics::of(status).as_bytes()),
        _ => written("404 Not Found", "text/plain", b"there are /, /status.json and /metrics\n"),
    }
}

/// Whether a browser calls this box so: by an address, or by the name of a machine that is itself.
fn is_own(host: &str, at: SocketAddr) -> bool {
    let name = host.strip_suffix(&format!(":{}", at.port())).unwrap_or(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok() || name == "localhost"
}

fn written(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\
         cache-control: no-store\r\nx-content-type-options: nosniff\r\n\
         content-security-policy: default-src 'self'; img-src data:; frame-ancestors 'none'\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(request: &str) -> String {
        let at = SocketAddr::from(([127, 0, 0, 1], 8091));
        String::from_utf8(answer(request, at, &json!({ "agent": "box" }))).expect("text")
    }

    #[test]
    fn there_are_a_page_a_status_and_metrics_to_read_and_nothing_to_do() {
        let get = |path: &str| said(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8091\r\n\r\n"));
        assert!(get("/").starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/html"));
        assert!(get("/status.json").ends_with("\r\n\r\n{\"agent\":\"box\"}"));
        assert!(get("/metrics").contains("# TYPE tideline_agent_uptime_seconds gauge"));
        assert!(get("/page.js?x=1").starts_with("HTTP/1.1 200"));
        assert!(get("/../etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(said("POST / HTTP/1.1\r\nHost: localhost:8091\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(said("GET / HTTP/1.1\r\nhost: [::1]:8091\r\n\r\n").starts_with("HTTP/1.1 200"));
        for other in ["Host: evil.example:8091\r\n", "Host: localhost.evil.example\r\n", ""] {
            assert!(said(&format!("GET / HTTP/1.1\r\n{other}\r\n")).starts_with("HTTP/1.1 421"), "{other}");
        }
        assert!(said("").starts_with("HTTP/1.1 421"));
    }
}
