//! A page about the box, on the box: read-only, for whoever stands in front of it, and the same as metrics.
//!
//! HTTP/1.1 as far as a handful of documents need it: one GET on a connection, answered from the newest status, and closed. Only the
//! doctor's report takes longer, and is made once for all who ask within a minute.

mod metrics;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::agent::doctor;
use crate::clock::Clock;
use crate::config::Listen;
use crate::core::Millis;

/// Bytes of a request: a browser's headers are a few hundred.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Connections at once: a few people, and a Prometheus.
const MAX_CONNECTIONS: usize = 16;
/// How long one may take in all.
const TIME: Duration = Duration::from_secs(5);
/// How long one may take that asks for the doctor, who waits for a broker and a hub that may be away.
const DOCTOR_TIME: Duration = Duration::from_secs(90);
/// How long a report is good for whoever asks next.
const REPORT_MS: u64 = 60_000;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Where the doctor's report is.
const DOCTOR: &str = "/doctor.json";

/// The page's server, listening.
pub(crate) struct Page {
    listener: TcpListener,
    at: SocketAddr,
    examiner: Arc<Examiner>,
}

/// Has the box examined, once at a time.
struct Examiner {
    config: Option<PathBuf>,
    clock: Clock,
    newest: Mutex<Option<(Millis, Vec<u8>)>>,
}

impl Page {
    /// Listens on `on`. `config` is the file that the doctor goes by.
    ///
    /// # Errors
    /// If the address cannot be had, or there is no such interface.
    pub(crate) fn open(on: &Listen, config: Option<PathBuf>, clock: Clock) -> io::Result<Self> {
        let listener = listen(on)?;
        let at = listener.local_addr()?;
        info!(
            "the box's page is at http://{}/",
            if let Listen::Address(_) = on { at.to_string() } else { on.to_string() }
        );
        Ok(Self { listener, at, examiner: Arc::new(Examiner { config, clock, newest: Mutex::default() }) })
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
                        talks.spawn(talk(stream, self.at, newest, Arc::clone(&self.examiner)));
                    }
                    Err(error) => warn!("failed to accept on the box's page: {error}"),
                },
            }
        }
    }
}

/// Opens the listener's socket. That of an interface hears what comes in there, whatever the addresses are.
fn listen(on: &Listen) -> io::Result<TcpListener> {
    let at = match on {
        Listen::Address(at) => *at,
        Listen::Interface { port, .. } => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
    };
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if let Listen::Interface { name, .. } = on {
        socket.set_only_v6(false)?;
        #[cfg(target_os = "linux")]
        socket.bind_device(Some(name.as_bytes()))?;
        #[cfg(not(target_os = "linux"))]
        return Err(io::Error::other(format!("only Linux can listen on {name} by name; name its address")));
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Whoever takes too long, or goes, is not waited for.
async fn talk(mut stream: TcpStream, at: SocketAddr, status: Value, examiner: Arc<Examiner>) {
    let mut request = Vec::with_capacity(1024);
    let read = async {
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if request.len() >= MAX_REQUEST_BYTES || stream.read_buf(&mut request).await? == 0 {
                return Ok(false);
            }
        }
        Ok::<_, io::Error>(true)
    };
    if !matches!(tokio::time::timeout(TIME, read).await, Ok(Ok(true))) {
        return;
    }
    let request = String::from_utf8_lossy(&request);
    let answer = match target(&request, at) {
        Ok(DOCTOR) => tokio::time::timeout(DOCTOR_TIME, examiner.report()).await.unwrap_or_else(|_| no_report()),
        Ok(target) => document(target, &status),
        Err(refusal) => refusal,
    };
    let written = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    drop(tokio::time::timeout(TIME, written).await);
}

impl Examiner {
    /// The doctor's report, which may be a minute old.
    async fn report(&self) -> Vec<u8> {
        let Some(config) = self.config.clone() else { return no_report() };
        let mut newest = self.newest.lock().await;
        if let Some((at, report)) = newest.as_ref()
            && self.clock.monotonic() < at.plus(REPORT_MS)
        {
            return written("200 OK", JSON, report);
        }
        let examined =
            doctor::aside(move |runtime| runtime.block_on(doctor::examine(&config, doctor::LISTEN)).to_json());
        let Ok(examining) = examined else { return no_report() };
        let Ok(report) = examining.await else { return no_report() };
        let report = report.to_string().into_bytes();
        let answer = written("200 OK", JSON, &report);
        *newest = Some((self.clock.monotonic(), report));
        answer
    }
}

fn no_report() -> Vec<u8> {
    written(
        "503 Service Unavailable",
        "text/plain",
        b"the doctor cannot be asked; edge-agent doctor on the box says why\n",
    )
}

/// The whole answer to a request's head, but for the doctor's.
#[must_use]
pub fn answer(request: &str, at: SocketAddr, status: &Value) -> Vec<u8> {
    target(request, at).map_or_else(|refusal| refusal, |target| document(target, status))
}

/// What a request is for, or why there is nothing for it.
fn target(request: &str, at: SocketAddr) -> Result<&str, Vec<u8>> {
    let mut lines = request.split("\r\n");
    let mut first = lines.next().unwrap_or("").split(' ');
    let (method, target) = (first.next().unwrap_or(""), first.next().unwrap_or(""));
    let host = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("host"));
    // A page of somebody else's, whose name suddenly leads here, is to read nothing (DNS rebinding).
    if !host.is_some_and(|(_, host)| is_own(host.trim(), at)) {
        let problem = b"the box is not called so; name its address, or its host name\n";
        return Err(written("421 Misdirected Request", "text/plain", problem));
    }
    if method != "GET" {
        return Err(written("405 Method Not Allowed", "text/plain", b"there is only something to read\n"));
    }
    Ok(target.split('?').next().unwrap_or(""))
}

fn document(target: &str, status: &Value) -> Vec<u8> {
    match target {
        "/" => written("200 OK", "text/html; charset=utf-8", include_bytes!("page/index.html")),
        "/page.css" => written("200 OK", "text/css; charset=utf-8", include_bytes!("page/page.css")),
        "/page.js" => written("200 OK", "text/javascript; charset=utf-8", include_bytes!("page/page.js")),
        "/status.json" => written("200 OK", JSON, status.to_string().as_bytes()),
        "/metrics" => written("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics::of(status).as_bytes()),
        _ => written("404 Not Found", "text/plain", b"there are /, /status.json, /doctor.json and /metrics\n"),
    }
}

const JSON: &str = "application/json";

/// Whether a browser calls this box so: by an address, by the name of a machine that is itself, or by its name on its own network
/// (RFC 6762), which nobody else's page can have.
fn is_own(host: &str, at: SocketAddr) -> bool {
    let name = host.strip_suffix(&format!(":{}", at.port())).unwrap_or(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let local = name.strip_suffix(".local").unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok() || name == "localhost" || is_host_name(local)
}

fn is_host_name(name: &str) -> bool {
    let own = rustix::system::uname();
    !name.is_empty() && own.nodename().to_str().is_ok_and(|own| own.eq_ignore_ascii_case(name))
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
        assert!(get("/").contains("Examine this box") && get("/page.js").contains("doctor.json"));
        assert!(get("/../etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(said("POST / HTTP/1.1\r\nHost: localhost:8091\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(said("GET / HTTP/1.1\r\nhost: [::1]:8091\r\n\r\n").starts_with("HTTP/1.1 200"));
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for own in [own.clone(), format!("{}.local", own.to_uppercase())] {
            assert!(said(&format!("GET / HTTP/1.1\r\nHost: {own}:8091\r\n\r\n")).starts_with("HTTP/1.1 200"), "{own}");
        }
        for other in ["Host: .local:8091\r\n", "Host: evil.example:8091\r\n", "Host: localhost.evil.example\r\n", ""] {
            assert!(said(&format!("GET / HTTP/1.1\r\n{other}\r\n")).starts_with("HTTP/1.1 421"), "{other}");
        }
        assert!(said("").starts_with("HTTP/1.1 421"));
    }
}
