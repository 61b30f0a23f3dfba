//! Boxes that were let in, and enrolment tokens, in the database.

use sqlx::sqlite::SqliteConnection;

use super::documents::Documents::Identities as Table;
use super::rows::ReadError;
use super::{Store, StoreError};
use crate::core::identities::{Ask, Change, EnrolToken, Identity, IdentityBook, Used};

const TOKEN: &str = "token";
const ASK: &str = "ask";
const BOX: &str = "box";

impl Store {
    /// Who is let in.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load_identities(&self) -> Result<IdentityBook, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read who is let in"))?;
        load(&mut connection).await.map_err(|error| self.row_error(error))
    }

    /// Makes a change of who is let in durable: all of it or nothing.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn save_identities(&self, change: &Change) -> Result<(), StoreError> {
        let action = "store who is let in";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        save(&mut transaction, change).await.map_err(self.failed(action))?;
        transaction.commit().await.map_err(self.failed(action))
    }
}

async fn load(connection: &mut SqliteConnection) -> Result<IdentityBook, ReadError> {
    let tokens = Table.all::<EnrolToken>(connection, TOKEN).await?;
    let asks = Table.all::<Ask>(connection, ASK).await?;
    Ok(IdentityBook::new(tokens, asks, Table.all::<Identity>(connection, BOX).await?))
}

async fn save(connection: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::AddTokens(tokens) => {
            for token in tokens {
                Table.put(connection, TOKEN, &token.id, token).await?;
            }
            Ok(())
        }
        Change::Remove { tokens, asks } => {
            remove(connection, TOKEN, tokens).await?;
            remove(connection, ASK, asks).await
        }
        Change::Ask { ask, forgotten } => {
            remove(connection, ASK, forgotten).await?;
            Table.put(connection, ASK, &ask.id, ask).await
        }
        Change::Admit { used, identity } => {
            match used {
                Used::Token(token) => Table.put(connection, TOKEN, &token.id, token).await?,
                Used::Ask(id) => Table.remove(connection, ASK, id).await?,
            }
            Table.put(connection, BOX, identity.agent.as_str(), identity).await
        }
        Change::Set(identity) => Table.put(connection, BOX, identity.agent.as_str(), identity).await,
    }
}

async fn remove(connection: &mut SqliteConnection, kind: &str, ids: &[String]) -> Result<(), sqlx::Error> {
    for id in ids {
        Table.remove(connection, kind, id).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identities::{Admission, BoxCertificate, BoxLabels, TokenKind, Wanted};
    use shared::ids::{AgentId, Digest};

    fn admit(book: &IdentityBook, name: &AgentId) -> Admission {
        let wanted = Wanted { key: Digest::of(b"key"), agent: None };
        book.admit(5, Digest::of(b"secret"), Some(name), &wanted, |_| false).expect("is let in")
    }

    #[tokio::test]
    async fn who_is_let_in_is_known_after_a_restart() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("hub.sqlite");
        let store = Store::open(&path).await.expect("opens");
        let token = EnrolToken {
            id: "t".to_owned(),
            kind: TokenKind::Once,
            digest: Digest::of(b"secret"),
            agent: None,
            labels: BoxLabels::from([("site".to_owned(), "a".to_owned())]),
            made_by: "ada".to_owned(),
            created_ms: 1,
            expires_ms: 10,
            used: None,
        };
        let old = EnrolToken { id: "old".to_owned(), digest: Digest::of(b"old"), ..token.clone() };
        let mut book = IdentityBook::default();
        let name = AgentId::new("box-1").expect("valid");
        let certificate = BoxCertificate { digest: Digest::of(b"c"), key: Digest::of(b"key"), not_after_ms: 99 };
        let gone = Change::Remove { tokens: vec!["old".to_owned()], asks: Vec::new() };
        for change in [Change::AddTokens(vec![old]), Change::AddTokens(vec![token]), gone] {
            store.save_identities(&change).await.expect("saves");
            book.apply(change);
        }
        let admitted = admit(&book, &name).with(5, certificate);
        store.save_identities(&admitted).await.expect("saves");
        for id in ["stays", "goes"] {
            let ask = Ask {
                id: id.to_owned(),
                key: Digest::of(id.as_bytes()),
                claim: "t".to_owned(),
                name: None,
                hardware: "Pi".to_owned(),
                from: "10.0.0.7".to_owned(),
                asked_ms: 3,
                approval: None,
            };
            let asks = Change::Ask { ask, forgotten: Vec::new() };
            store.save_identities(&asks).await.expect("saves");
        }
        let removed = Change::Remove { tokens: Vec::new(), asks: vec!["goes".to_owned()] };
        store.save_identities(&removed).await.expect("saves");
        store.close().await;

        let loaded = Store::open(&path).await.expect("opens").load_identities().await.expect("loads");
        assert_eq!(loaded.asks().map(|ask| ask.id.as_str()).collect::<Vec<_>>(), ["stays"]);
        assert_eq!(loaded.tokens().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["t"]);
        assert_eq!(
            loaded.of(&name).map(|known| (known.current, known.labels["site"].as_str())),
            Some((certificate, "a"))
        );
    }
}
