//! Writing the files of one compaction, a few at a time, and making them durable.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use object_store::{ObjectStore, PutOptions};
use shared::ids::StreamId;
use tokio::task::JoinSet;

use super::layout::{self, Day, Kind};
use super::table::Table;
use super::{SampleStore, SamplesError};

/// Files under way at once: enough that the disk's syncs overlap, few enough that their tables are small in memory.
const PARALLEL_FILES: usize = 4;

/// The files of one compaction.
pub(super) struct Writer<'a> {
    store: &'a SampleStore,
    range: Range<u64>,
    running: JoinSet<Result<(), SamplesError>>,
    files: Vec<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(store: &'a SampleStore, range: Range<u64>) -> Self {
        Self { store, range, running: JoinSet::new(), files: Vec::new(), folders: BTreeSet::new() }
    }

    /// Starts writing one file, once fewer than [`PARALLEL_FILES`] are under way.
    pub(super) async fn add(
        &mut self,
        kind: Kind,
        stream: &StreamId,
        day: Day,
        number: Option<usize>,
        table: Table,
    ) -> Result<(), SamplesError> {
        if self.running.len() >= PARALLEL_FILES {
            self.wait_for_one().await?;
        }
        let file = layout::file(kind, stream, day, &self.range, number);
        self.files.push(self.store.root.join(&file));
        self.folders.extend(layout::ancestors(kind, stream).map(|folder| self.store.root.join(folder)));
        self.running.spawn(put(self.store.clone(), file, table));
        Ok(())
    }

    /// Waits until every file is durable, and says how many there are.
    pub(super) async fn finish(mut self) -> Result<u64, SamplesError> {
        while !self.running.is_empty() {
            self.wait_for_one().await?;
        }
        let count = self.files.len() as u64;
        self.folders.insert(self.store.root.to_path_buf());
        tokio::task::spawn_blocking(move || {
            self.files.iter().try_for_each(|file| remove_leftovers(file))?;
            self.folders.iter().try_for_each(|folder| sync(folder))
        })
        .await??;
        Ok(count)
    }

    async fn wait_for_one(&mut self) -> Result<(), SamplesError> {
        match self.running.join_next().await {
            Some(written) => written?,
            None => Ok(()),
        }
    }
}

async fn put(store: SampleStore, file: String, table: Table) -> Result<(), SamplesError> {
    let action = "write the sample file";
    let bytes = tokio::task::spawn_blocking(move || table.encode()).await?;
    let bytes = bytes.map_err(|source| SamplesError::Parquet { action, path: file.clone(), source })?;
    let failed = |source| SamplesError::Store { action, path: file.clone(), source };
    let location = object_store::path::Path::parse(&file).map_err(|error| failed(error.into()))?;
    store.disk.put_opts(&location, bytes.into(), PutOptions::default()).await.map_err(failed)?;
    Ok(())
}

/// Removes what a write that was cut off left beside `file`. object_store calls a file `<name>#<number>` until it is
/// whole; it does not list such files, but pandas does and fails on them.
fn remove_leftovers(file: &Path) -> Result<(), SamplesError> {
    let mut number = 1_u64;
    loop {
        let mut name = file.as_os_str().to_owned();
        name.push(format!("#{number}"));
        match fs::remove_file(&name) {
            Ok(()) => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(SamplesError::Io {
                    action: "remove the unfinished sample file",
                    path: name.into(),
                    source,
                });
            }
        }
    }
}

/// object_store syncs the folders it makes, but a process that is killed between the two leaves a folder that is there
/// and not durable; the next write finds it and does not sync it.
fn sync(folder: &Path) -> Result<(), SamplesError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| SamplesError::Io {
        action: "sync the sample folder",
        path: folder.to_owned(),
        source,
    })
}

/// Makes the folder `path` where it is not there, durably.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
