//! What somebody needs to know who looks at a box from afar: everything that it can say of itself, in one document without secrets.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use shared::enrolment::{CLAIM_PREFIX, TOKEN_PREFIX};
use shared::ids::AgentId;
use shared::wire::diagnosis::{DiagnosisError, PackedDiagnosis};
use shared::wire::message::EdgeToHub;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info};

use super::doctor;
use crate::clock::Clock;
use crate::identity::IdentityFolder;
use crate::logging::Log;
use crate::program::{ProgramFolder, TARGET};
use crate::{config, crash_reports, link, machine, status};

/// What is left out, one after another, of a document that is too large to travel.
const DISPENSABLE: [&str; 4] = ["crashes", "log", "status", "configuration"];
/// Stands where a secret stood.
const LEFT_OUT: &str = "[left out]";
/// Secrets begin with these, wherever they stand.
const SECRETS: [&str; 5] = [TOKEN_PREFIX, CLAIM_PREFIX, "tlt_", "setup_", "-----BEGIN"];
/// Names of values that are secrets, unless they name a file.
const SECRET_NAMES: [&str; 3] = ["password", "secret", "token"];

/// A box that is to be described, as far as it is known.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The file of its configuration, which may be wrong, or another than the one that the agent runs with.
    pub config: Option<PathBuf>,
    /// Its name.
    pub agent: Option<AgentId>,
    /// Where its state is; a running agent is asked for its status there.
    pub directory: Option<PathBuf>,
    /// Its log, where that is at hand.
    pub log: Option<Log>,
}

/// What the hub asks for, one at a time.
pub(super) struct Diagnosing {
    subject: Subject,
    /// The newest question: what is under way when it comes answers it, too.
    request: Arc<AtomicU64>,
    under_way: Option<AbortHandle>,
}

impl Diagnosing {
    pub(super) fn new(subject: Subject) -> Self {
        Self { subject, request: Arc::default(), under_way: None }
    }

    /// Describes the box, and tells the hub. The agent goes on meanwhile.
    pub(super) fn begin(&mut self, request: u64, tasks: &mut JoinSet<()>, commands: mpsc::Sender<link::Command>) {
        self.request.store(request, Ordering::Relaxed);
        if self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        info!(request, "the hub asks how this box is");
        let subject = self.subject.clone();
        let described = match doctor::aside(move |runtime| runtime.block_on(subject.describe())) {
            Ok(described) => described,
            Err(failure) => return error!("failed to start a thread that looks at this box: {failure}"),
        };
        let newest = Arc::clone(&self.request);
        self.under_way = Some(tasks.spawn(async move {
            let Ok(document) = described.await else { return };
            match packed(document) {
                // A hub that is gone asks again.
                Ok(document) => {
                    let examined = EdgeToHub::Examined { request: newest.load(Ordering::Relaxed), document };
                    commands.send(link::Command::Send(Box::new(examined))).await.ok();
                }
                Err(failure) => error!("failed to {failure}"),
            }
        }));
    }

    /// Nobody is told any more.
    pub(super) fn stop(&self) {
        self.under_way.iter().for_each(AbortHandle::abort);
    }
}

impl Subject {
    /// The box whose configuration lies at `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let (named, directory) =
            config::for_enrolment(path).map_or((None, None), |(named, directory)| (named, Some(directory)));
        let enrolment = || IdentityFolder::of(directory.as_deref()?).enrolment().ok()?;
        let agent = named.or_else(|| enrolment().map(|enrolment| enrolment.agent));
        Self { config: Some(path.to_owned()), agent, directory, log: None }
    }

    /// Everything that the box can say of itself, without secrets. On the heap, as the doctor is.
    #[must_use]
    pub fn describe(&self) -> Pin<Box<dyn Future<Output = Value> + '_>> {
        Box::pin(self.look())
    }

    async fn look(&self) -> Value {
        let mut document = json!({
            "made_ms": Clock::start().unix_ms(),
            "agent": self.agent,
            "release": env!("CARGO_PKG_VERSION"),
            "target": TARGET,
            "system": system(),
            "log": self.log.as_ref().map(Log::newest),
        });
        if let Some(path) = &self.config {
            document["doctor"] = doctor::examine(path, doctor::LISTEN).await.to_json();
            let text = fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()));
            document["configuration"] = text.into();
        }
        if let Some(directory) = &self.directory {
            document["status"] = status::ask(directory).ok().into();
            document["programs"] = json!(ProgramFolder::of(directory).book());
            document["crashes"] = crash_reports::kept_in(directory).into();
        }
        clean(&mut document);
        document
    }
}

fn packed(mut document: Value) -> Result<PackedDiagnosis, DiagnosisError> {
    let mut dispensable = DISPENSABLE.iter();
    loop {
        match (PackedDiagnosis::pack(&document.to_string()), dispensable.next()) {
            (Err(DiagnosisError::TooLarge { .. }), Some(name)) => {
                document[*name] = format!("{LEFT_OUT}: the whole is too large").into();
            }
            (packed, _) => return packed,
        }
    }
}

/// The machine, as far as files say.
fn system() -> Value {
    let line = |path: &str, begins: &str| {
        let text = machine::read(path)?;
        let found = text.lines().find_map(|line| line.strip_prefix(begins))?;
        Some(found.trim_matches(['"', ' ']).to_owned())
    };
    json!({
        "model": machine::model(),
        "system": line("/etc/os-release", "PRETTY_NAME="),
        "kernel": machine::read("/proc/sys/kernel/osrelease"),
        "uptime_s": machine::read("/proc/uptime").and_then(|text| text.split('.').next()?.parse::<u64>().ok()),
        "load": machine::read("/proc/loadavg"),
        "memory_total": line("/proc/meminfo", "MemTotal:"),
        "memory_available": line("/proc/meminfo", "MemAvailable:"),
        "host": machine::read("/etc/hostname"),
    })
}

/// Takes secrets out of every text, and out of messages that were no readings whatever they held.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_secrets(text),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => {
            if let Some(payload) = fields.get_mut("payload") {
                *payload = LEFT_OUT.into();
            }
            fields.iter_mut().for_each(|(_, value)| clean(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text with its secrets left out: tokens and keys, what is called a password, and names and passwords in addresses.
fn without_secrets(text: &str) -> String {
    text.split_inclusive('\n').map(line_without_secrets).collect()
}

fn line_without_secrets(line: &str) -> String {
    if let Some((name, _)) = line.split_once('=') {
        let name = name.trim().to_ascii_lowercase();
        if !name.ends_with("_file") && SECRET_NAMES.iter().any(|secret| name.contains(secret)) {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            return format!("{name} = \"{LEFT_OUT}\"{end}");
        }
    }
    let is_end = |c: char| c.is_whitespace() || "\"',;<>()[]{}".contains(c);
    line.split_inclusive(is_end).map(word_without_secrets).collect()
}

fn word_without_secrets(word: &str) -> String {
    if let Some(at) = SECRETS.iter().filter_map(|secret| word.find(secret)).min() {
        let end = word.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        return format!("{}{LEFT_OUT}{}", &word[..at], &word[end.len()..]);
    }
    match word.split_once("://") {
        Some((scheme, rest)) if rest.contains('@') => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{LEFT_OUT}@{host}")
        }
        Some(_) | None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_wherever_they_stand_and_nothing_else() {
        let text = "url = \"mqtt://me:hunter2@broker:1883\"\npassword = \"hunter2\"\npassword_file = '/etc/p'\n\
                    key = \"{line}/{pump}\"\ntoken=abc\nwarn: token tle1_AbC-d_9, and \"tlt_12\" at 10:00\n";
        assert_eq!(
            without_secrets(text),
            "url = \"mqtt://[left out]@broker:1883\"\npassword = \"[left out]\"\npassword_file = '/etc/p'\n\
             key = \"{line}/{pump}\"\ntoken = \"[left out]\"\nwarn: token [left out], and \"[left out]\" at 10:00\n"
        );
        let mut document = json!({ "rejected": [{ "topic": "a", "payload": "door code 4711" }], "n": 1 });
        clean(&mut document);
        assert_eq!(document, json!({ "rejected": [{ "topic": "a", "payload": "[left out]" }], "n": 1 }));
    }

    #[test]
    fn a_document_that_is_too_large_goes_without_what_matters_least() {
        // Digits that do not compress to much less.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{state:016x}")
        };
        let log: String = (0..40_000).map(|_| noise()).collect();
        let document = json!({ "doctor": { "healthy": true }, "log": log, "crashes": [1], "status": { "a": 1 } });
        let sent = packed(document).expect("packs").unpack().expect("unpacks");
        let sent: Value = serde_json::from_slice(&sent).expect("JSON");
        assert_eq!((&sent["doctor"]["healthy"], &sent["status"]["a"]), (&json!(true), &json!(1)));
        assert_eq!(sent["log"], "[left out]: the whole is too large");
    }

    #[tokio::test]
    async fn a_box_whose_configuration_is_wrong_says_so_and_whose_it_is() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("agent.toml");
        let wrong = "[agent]\nname = \"box-1\"\nstate_directory = \"state\"\n[mqtt]\nurl = \"mqtt://u:geheim@b\"\n";
        fs::write(&path, wrong).expect("writes");
        let document = Subject::at(&path).describe().await;
        assert_eq!(document["doctor"]["healthy"], false);
        assert_eq!(document["agent"], "box-1");
        assert!(!document.to_string().contains("geheim"), "{document}");
        assert!(document["system"]["kernel"].is_string());
    }
}
