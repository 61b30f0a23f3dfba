//! Looking into programs for boxes: files of their own kind, signed by the same keys as packages of models.

use serde_json::{Value, json};
use shared::event::UnixMillis;
use shared::ids::Digest;
use shared::package::signature::PublicKey;
use shared::program::{self, ProgramError, ProgramFile};

use crate::view::Timestamp;

/// What a program says of itself, after its hashes were checked, and whether it is for the processor that it names.
pub(super) fn inspect(bytes: &[u8]) -> Result<Value, ProgramError> {
    let file = ProgramFile::read(bytes)?;
    let header = file.header();
    program::check_processor(&file.unpack()?, &header.target)?;
    Ok(json!({
        "digest": Digest::of(bytes).to_string(),
        "bytes": bytes.len(),
        "release": header.release,
        "number": header.number,
        "target": header.target,
        "created": Timestamp(header.created_ms),
        "expires": Timestamp(header.expires_ms),
        "signed_by": file.signers().map(|key| key.to_string()).collect::<Vec<_>>(),
        "program_bytes": header.bytes,
        "program_digest": header.program.to_string(),
    }))
}

/// The same, and that a box that trusts these keys, if there are any, would begin with it at `now_ms`.
pub(super) fn verify(bytes: &[u8], trusted: &[PublicKey], now_ms: UnixMillis) -> Result<Value, String> {
    let mut report = inspect(bytes).map_err(|error| error.to_string())?;
    let file = ProgramFile::read(bytes).map_err(|error| error.to_string())?;
    if !trusted.is_empty() {
        file.verify(trusted).map_err(|error| error.to_string())?;
        let expires_ms = file.header().expires_ms;
        if expires_ms <= now_ms {
            return Err(format!("no box begins with it after {}", Timestamp(expires_ms)));
        }
    }
    report["trusted"] = (!trusted.is_empty()).into();
    Ok(report)
}

/// What it says, for people.
pub(super) fn to_text(report: &Value) -> String {
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    [
        format!("program {} for {}, made {}", text("release"), text("target"), text("created")),
        format!("number      {}", report["number"]),
        format!("digest      {}", text("digest")),
        format!("size        {} bytes; unpacked {}", report["bytes"], report["program_bytes"]),
        format!("signed by   {}", super::list(&report["signed_by"])),
        format!("begun with  until {}", text("expires")),
    ]
    .join("\n")
}
