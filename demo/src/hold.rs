//! Keeping everything up, so that somebody can look around.

use crate::story::{Story, Tone};

/// Waits until whoever looks has seen enough.
///
/// # Errors
/// If signals cannot be waited for.
pub fn until_interrupted(story: &Story) -> std::io::Result<()> {
    story.tell(Tone::Good, "everything runs on until it is interrupted (Ctrl-C)");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    })
}
