//! A box that is asked how it is, from the shell.

use serde_json::{Value, json};

use super::client::Client;
use super::{Ctl, Format, wait_for};
use crate::{Failure, say};

/// Asks a box, waits for what it says, and prints it: what the doctor saw, or the whole document as JSON.
pub(super) fn diagnose(ctl: &Ctl, client: &Client, agent: &str, timeout_s: u64) -> Result<(), Failure> {
    let path = format!("agents/{agent}/diagnosis");
    client.send("POST", &path, &json!({}))?;
    let document = wait_for(timeout_s, "the box's answer", || {
        let answer = client.get(&path)?;
        Ok(Some(answer["document"].clone()).filter(|document| !document.is_null()))
    })?;
    if ctl.format() == Format::Json {
        return say(&format!("{document:#}"));
    }
    say(&to_text(&document))
}

/// What the doctor saw, a line for each part, and what the box is.
fn to_text(document: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // A virtual machine has no model, and a container hardly a system.
    let machine: Vec<&str> = ["model", "system"].iter().filter_map(|name| document["system"][name].as_str()).collect();
    let mut lines = vec![format!(
        "{}: release {} for {}, on {}",
        text(&document["agent"]),
        text(&document["release"]),
        text(&document["target"]),
        if machine.is_empty() { "a machine that does not say what it is".to_owned() } else { machine.join(", ") },
    )];
    for check in document["doctor"]["checks"].as_array().into_iter().flatten() {
        let saw = text(&check["saw"]).replace('\n', "\n                        ");
        lines.push(format!("{:<8} {:<14} {saw}", text(&check["state"]), text(&check["check"])));
        if let Some(advice) = check["do"].as_str() {
            lines.push(format!("{:24}do:  {advice}", ""));
        }
    }
    let count = |name: &str| document[name].as_array().map_or(0, Vec::len);
    lines.push(format!(
        "and {} lines of its log, {} crash reports, its status and configuration: --output json",
        count("log"),
        count("crashes")
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_the_doctor_saw() {
        let checks = json!([
            { "check": "disk", "state": "ok", "saw": "there is room", "do": null },
            { "check": "broker", "state": "failed", "saw": "it is away", "do": "start it" },
        ]);
        let document = json!({
            "agent": "box-1", "release": "0.1.0", "target": "t", "system": { "model": "a board", "system": "Debian" },
            "doctor": { "checks": checks }, "log": ["a", "b"], "crashes": [],
        });
        let expected = "box-1: release 0.1.0 for t, on a board, Debian\n\
                        ok       disk           there is room\n\
                        failed   broker         it is away\n                        do:  start it\n\
                        and 2 lines of its log, 0 crash reports, its status and configuration: --output json";
        assert_eq!(to_text(&document), expected);
        let nameless =
            to_text(&json!({ "agent": "box-1", "release": "0.1.0", "target": "t", "system": { "model": null } }));
        assert!(nameless.starts_with("box-1: release 0.1.0 for t, on a machine that does not say"), "{nameless}");
    }
}
