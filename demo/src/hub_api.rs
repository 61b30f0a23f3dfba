//! The hub's HTTP interface, as any program on the hub's own machine uses it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// The hub's HTTP interface.
#[derive(Debug, Clone)]
pub struct HubApi {
    address: SocketAddr,
    token: PathBuf,
}

impl HubApi {
    /// The interface at this address, of the hub whose folder this is.
    #[must_use]
    pub fn new(address: SocketAddr, hub_directory: &Path) -> Self {
        Self { address, token: hub_directory.join("access.token") }
    }

    /// The JSON at a path under `/api/v1`.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = self.url(path);
        let request = ureq::get(&url).header("authorization", self.authorization()?);
        Ok(request.call().with_context(|| url.clone())?.body_mut().read_json()?)
    }

    /// The items of a list under `/api/v1`, over all its pages.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn items(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=1000{cursor}"))?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            let Some(next) = page["next_cursor"].as_str() else { return Ok(items) };
            cursor = format!("&cursor={next}");
        }
    }

    /// Every training run, oldest first.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn runs(&self) -> anyhow::Result<Vec<Value>> {
        self.items("retraining-runs").map(oldest_first)
    }

    /// The newest rollouts, oldest first.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn rollouts(&self) -> anyhow::Result<Vec<Value>> {
        self.items("rollouts").map(oldest_first)
    }

    /// Readings at the hub, over all streams.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn at_hub(&self) -> anyhow::Result<u64> {
        let ledger = self.get("ledger")?;
        let streams = ledger["streams"].as_array().cloned().unwrap_or_default();
        Ok(streams.iter().filter_map(|stream| stream["at_hub"].as_u64()).sum())
    }

    /// Posts JSON to a path under `/api/v1`.
    ///
    /// # Errors
    /// If the hub does not answer, or with an error.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let url = self.url(path);
        let request = ureq::post(&url).header("authorization", self.authorization()?);
        request.send_json(body).with_context(|| url.clone())?;
        Ok(())
    }

    /// Posts a file to a path under `/api/v1`; the inner error is what the hub says if it refuses.
    ///
    /// # Errors
    /// If the hub does not answer.
    pub fn post_bytes(&self, path: &str, bytes: &[u8]) -> anyhow::Result<Result<(), String>> {
        let url = self.url(path);
        let request = ureq::post(&url).header("authorization", self.authorization()?);
        let request = request.config().http_status_as_error(false).build();
        let mut answer = request.send(bytes).with_context(|| url.clone())?;
        if answer.status().is_success() {
            return Ok(Ok(()));
        }
        let (status, text) = (answer.status(), answer.body_mut().read_to_string()?);
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(Err(problem["detail"].as_str().map_or_else(|| format!("{status}: {text}"), str::to_owned)))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1/{path}", self.address)
    }

    /// The token that the hub made with its last start.
    fn authorization(&self) -> anyhow::Result<String> {
        let token = std::fs::read_to_string(&self.token);
        let token = token.with_context(|| format!("read {}", self.token.display()))?;
        Ok(format!("Bearer {}", token.trim()))
    }
}

fn oldest_first(mut items: Vec<Value>) -> Vec<Value> {
    items.reverse();
    items
}
