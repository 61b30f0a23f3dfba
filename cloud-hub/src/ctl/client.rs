//! The hub's HTTP interface from outside.

use std::path::Path;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use shared::limits::MAX_PACKAGE_BYTES;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::exit;
use crate::Failure;

/// Which hub, and how it is let in.
pub(super) struct Target<'a> {
    pub(super) hub: &'a str,
    pub(super) token_file: Option<&'a Path>,
    pub(super) token: Option<&'a str>,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) data: Option<&'a Path>,
}

/// The interface.
pub(super) struct Client {
    /// Where the hub is.
    hub: String,
    base: String,
    token: String,
    agent: Agent,
}

impl Client {
    pub(super) fn new(target: &Target<'_>) -> Result<Self, Failure> {
        let of_folder = target.data.map(|data| data.join("access.token"));
        let file = target.token_file.map(Path::to_owned).or(of_folder);
        let token = match (file, target.token) {
            (Some(file), _) => read_file(&file)?,
            (None, Some(token)) => token.to_owned(),
            (None, None) => {
                let message = "failed to find a token: give --data, --token-file or TIDELINE_TOKEN".to_owned();
                return Err(Failure { code: exit::ACCESS, message });
            }
        };
        let mut tls = TlsConfig::builder();
        if let Some(file) = target.ca_file {
            let pem = read_file(file)?;
            let certificates = parse_pem(pem.as_bytes()).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                Ok(_) | Err(_) => None,
            });
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates.collect::<Vec<Certificate<'_>>>()));
        }
        let config = Agent::config_builder().http_status_as_error(false).tls_config(tls.build()).build();
        let hub = target.hub.trim_end_matches('/').to_owned();
        let base = format!("{hub}/api/v1");
        Ok(Self { hub, base, token: token.trim().to_owned(), agent: config.into() })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.run("GET", path, &[], "")
    }

    pub(super) fn items(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=1000{cursor}"))?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            let Some(next) = page["next_cursor"].as_str() else { return Ok(items) };
            cursor = format!("&cursor={next}");
        }
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        self.run(method, path, body.to_string().as_bytes(), "application/json")
    }

    /// Changes a thing as it is now: nobody else changes it in between.
    pub(super) fn change(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let now = self.answer("GET", path, &[], "", None)?;
        let tag = now.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or("*").to_owned();
        self.read(path, self.answer("PATCH", path, body.to_string().as_bytes(), "application/json", Some(&tag))?)
    }

    pub(super) fn send_bytes(&self, path: &str, body: &[u8], kind: &str) -> Result<Value, Failure> {
        self.run("POST", path, body, kind)
    }

    pub(super) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut answer = self.answer("GET", path, &[], "", None)?;
        if !answer.status().is_success() {
            return self.read(path, answer).map(|_| Vec::new());
        }
        let read = answer.body_mut().with_config().limit(MAX_PACKAGE_BYTES).read_to_vec();
        read.map_err(|error| Failure::new(format!("read {}/{path}: {error}", self.base)))
    }

    /// Where the hub is, without a path.
    pub(super) fn hub(&self) -> &str {
        &self.hub
    }

    /// The script that installs the agent from the hub.
    pub(super) fn install_script(&self) -> Result<Vec<u8>, Failure> {
        let url = format!("{}/install.sh", self.hub);
        let failed = |error: ureq::Error| Failure::new(format!("ask {url}: {error}"));
        let mut answer = self.agent.get(&url).call().map_err(failed)?;
        if !answer.status().is_success() {
            return read(answer).map_err(failed)?.map(|_| Vec::new());
        }
        answer.body_mut().read_to_vec().map_err(failed)
    }

    fn run(&self, method: &str, path: &str, body: &[u8], kind: &str) -> Result<Value, Failure> {
        self.read(path, self.answer(method, path, body, kind, None)?)
    }

    fn answer(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        kind: &str,
        if_match: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let url = format!("{}/{path}", self.base);
        let mut request = Request::builder().method(method).uri(&url);
        request = request.header("authorization", format!("Bearer {}", self.token));
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if let Some(tag) = if_match {
            request = request.header("if-match", tag);
        }
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("ask {url}: {error}"));
        let request = request.body(body).map_err(|error| failed(&error))?;
        self.agent.run(request).map_err(|error| failed(&error))
    }

    fn read(&self, path: &str, answer: Response<Body>) -> Result<Value, Failure> {
        read(answer).map_err(|error| Failure::new(format!("ask {}/{path}: {error}", self.base)))?
    }
}

fn read_file(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))
}

/// The answer's JSON, or what the hub says is wrong.
fn read(mut answer: Response<Body>) -> Result<Result<Value, Failure>, ureq::Error> {
    let status = answer.status();
    let text = answer.body_mut().read_to_string()?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() {
        return Ok(Ok(value));
    }
    let code = match status.as_u16() {
        401 | 403 => exit::ACCESS,
        404 => exit::NOT_FOUND,
        409 | 412 | 422 => exit::CONFLICT,
        _ => 1,
    };
    let detail = value["detail"].as_str().map_or(text.as_str(), |detail| detail);
    Ok(Err(Failure { code, message: format!("{status}: {detail}") }))
}

/// A name as a part of a path.
pub(super) fn encode(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}
