//! What programs that train elsewhere log and register: durable first, then in force; and the files they leave.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::oneshot;
use tracing::error;

use super::{Hub, HubError};
use crate::api::{FileAsked, FileFault, FileGiven};
use crate::clock;
use crate::core::tracking::{Act, DEFAULT_EXPERIMENT, Fault, Point, Texts, Tracking};
use crate::store::Store;
use crate::tracked_files::{TrackedFileError, TrackedFiles};

/// Reads what is tracked. There is always an experiment of runs that name none.
pub(super) async fn open(store: &Store) -> Result<Arc<RwLock<Tracking>>, HubError> {
    let mut tracking = Tracking::new(store.load_tracking().await?);
    if tracking.experiment(DEFAULT_EXPERIMENT).is_none() {
        let (id, name) = (DEFAULT_EXPERIMENT.to_owned(), "Default".to_owned());
        let act = Act::CreateExperiment { id, name, tags: Texts::new() };
        let deed = tracking.perform(clock::unix_ms(), act).map_err(|fault| HubError::Record(fault.to_string()))?;
        store.save_tracking(&deed).await?;
        tracking.apply(deed);
    }
    Ok(Arc::new(RwLock::new(tracking)))
}

impl Hub {
    pub(super) async fn track(&self, act: Act) -> Result<(), Fault> {
        // Only this loop writes, so nothing changes between the look and the change.
        let deed = self.tracking.read().unwrap_or_else(PoisonError::into_inner).perform(clock::unix_ms(), act)?;
        self.store.save_tracking(&deed).await.map_err(|failure| {
            error!("failed to {failure}");
            Fault::Failed("the hub's database failed; nothing was changed".to_owned())
        })?;
        self.tracking.write().unwrap_or_else(PoisonError::into_inner).apply(deed);
        Ok(())
    }

    pub(super) fn read_points(
        &mut self,
        run: String,
        key: String,
        answer: oneshot::Sender<Result<Vec<Point>, String>>,
    ) {
        let store = self.store.clone();
        self.look_up(answer, async move {
            store.tracked_points(&run, &key).await.map_err(|error| format!("failed to {error}"))
        });
    }

    pub(super) fn on_file(&mut self, asked: FileAsked, answer: oneshot::Sender<Result<FileGiven, FileFault>>) {
        let files = self.tracked_files.clone();
        self.lookups.spawn(async move {
            let done = tokio::task::spawn_blocking(move || carry_out(&files, asked)).await;
            let done = done.unwrap_or_else(|error| Err(FileFault::Failed(error.to_string())));
            // Whoever asked may have gone.
            drop(answer.send(done));
        });
    }
}

fn carry_out(files: &TrackedFiles, asked: FileAsked) -> Result<FileGiven, FileFault> {
    let done = match asked {
        FileAsked::List(path) => files
            .list(&path)
            .map(|listed| FileGiven::Listed(listed.into_iter().map(|file| (file.name, file.bytes)).collect())),
        FileAsked::Read(path) => files.read(&path).map(FileGiven::Bytes),
        FileAsked::Write(path, bytes) => files.write(&path, &bytes).map(|()| FileGiven::Done),
        FileAsked::Remove(path) => files.remove(&path).map(|()| FileGiven::Done),
    };
    done.map_err(|failure| match failure {
        TrackedFileError::Missing(_) => FileFault::Missing(failure.to_string()),
        TrackedFileError::Path { .. } | TrackedFileError::Full { .. } => FileFault::Refused(failure.to_string()),
        TrackedFileError::Io { .. } => {
            error!("failed to {failure}");
            FileFault::Failed("the hub's disk failed".to_owned())
        }
    })
}
