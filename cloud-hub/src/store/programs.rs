//! Programs for boxes, in the database.

use super::documents::Documents::Programs as Table;
use super::{Store, StoreError};
use crate::core::programs::{ProgramChange, Programs};

const FILE: &str = "file";
const BOX: &str = "box";

impl Store {
    /// Which programs there are, and what boxes run.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load_programs(&self) -> Result<Programs, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read programs"))?;
        let files = Table.all(&mut connection, FILE).await.map_err(|error| self.row_error(error))?;
        let boxes = Table.all(&mut connection, BOX).await.map_err(|error| self.row_error(error))?;
        Ok(Programs::new(files, boxes))
    }

    /// Makes changes durable: all of them or none.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn save_programs(&self, changes: &[ProgramChange]) -> Result<(), StoreError> {
        let action = "store programs";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        for change in changes {
            let done = match change {
                ProgramChange::File(known) => Table.put(&mut transaction, FILE, &known.file.to_string(), known).await,
                ProgramChange::Removed(file) => Table.remove(&mut transaction, FILE, &file.to_string()).await,
                ProgramChange::Box(known) => Table.put(&mut transaction, BOX, known.agent.as_str(), known).await,
            };
            done.map_err(self.failed(action))?;
        }
        transaction.commit().await.map_err(self.failed(action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::programs::{BoxProgram, KnownProgram};
    use shared::ids::{AgentId, Digest};
    use shared::program::ProgramHeader;

    #[tokio::test]
    async fn programs_are_known_after_a_restart() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("hub.sqlite");
        let store = Store::open(&path).await.expect("opens");
        let header = ProgramHeader {
            release: "0.2.0".to_owned(),
            number: u64::MAX,
            target: "t".to_owned(),
            created_ms: 0,
            expires_ms: 9,
            bytes: 1,
            program: Digest::of(b"p"),
            packed: Digest::of(b"q"),
        };
        let (file, added_by) = (Digest::of(b"file"), "ada".to_owned());
        let known = KnownProgram { file, bytes: 1, header, signers: Vec::new(), added_ms: 0, added_by, halted: None };
        let other = KnownProgram { file: Digest::of(b"other"), ..known.clone() };
        let agent = AgentId::new("box-1").expect("valid");
        let said = BoxProgram { agent, said: None, wanted: None };
        let changes = [
            ProgramChange::File(known.clone()),
            ProgramChange::File(other.clone()),
            ProgramChange::Box(said.clone()),
            ProgramChange::Removed(other.file),
        ];
        store.save_programs(&changes).await.expect("saves");
        store.close().await;
        let loaded = Store::open(&path).await.expect("opens").load_programs().await.expect("loads");
        assert_eq!(loaded.files(), [&known]);
        assert_eq!(loaded.boxes().collect::<Vec<_>>(), [&said]);
    }
}
