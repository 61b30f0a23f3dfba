//! Users, tokens and sessions in the database.

use shared::event::UnixMillis;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{Columns, ReadError};
use super::{Store, StoreError};
use crate::core::access::{AccessBook, Change, Role, Session, Token, User};

impl Store {
    /// Who may do what, without sessions that are over.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load_access(&self, now: UnixMillis) -> Result<AccessBook, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read who may do what"))?;
        load(&mut connection, now).await.map_err(|error| self.row_error(error))
    }

    /// Makes a change of who may do what durable.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn save_access(&self, change: &Change) -> Result<(), StoreError> {
        let action = "store who may do what";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        save(&mut transaction, change).await.map_err(self.failed(action))?;
        transaction.commit().await.map_err(self.failed(action))
    }
}

async fn load(connection: &mut SqliteConnection, now: UnixMillis) -> Result<AccessBook, ReadError> {
    let users = sqlx::query("SELECT * FROM users ORDER BY name").fetch_all(&mut *connection).await?;
    let tokens = sqlx::query("SELECT * FROM tokens ORDER BY id").fetch_all(&mut *connection).await?;
    let sessions = sqlx::query("SELECT * FROM sessions WHERE expires_ms > $1 ORDER BY created_ms")
        .bind(now)
        .fetch_all(connection)
        .await?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let tokens = tokens.iter().map(token).collect::<Result<_, _>>()?;
    Ok(AccessBook::new(users, tokens, sessions.iter().map(session).collect::<Result<_, _>>()?))
}

fn user(row: &SqliteRow) -> Result<User, ReadError> {
    let columns = Columns { table: "users", row };
    Ok(User {
        name: columns.get("name")?,
        role: role(&columns)?,
        password_hash: columns.get("password_hash")?,
        created_ms: columns.get("created_ms")?,
    })
}

fn token(row: &SqliteRow) -> Result<Token, ReadError> {
    let columns = Columns { table: "tokens", row };
    Ok(Token {
        id: columns.get("id")?,
        name: columns.get("name")?,
        role: role(&columns)?,
        digest: columns.digest("secret_hash")?,
        made_by: columns.get("made_by")?,
        created_ms: columns.get("created_ms")?,
        expires_ms: columns.get("expires_ms")?,
    })
}

fn session(row: &SqliteRow) -> Result<Session, ReadError> {
    let columns = Columns { table: "sessions", row };
    Ok(Session {
        digest: columns.digest("secret_hash")?,
        user: columns.get("user_name")?,
        created_ms: columns.get("created_ms")?,
        expires_ms: columns.get("expires_ms")?,
    })
}

fn role(columns: &Columns<'_>) -> Result<Role, ReadError> {
    let name: String = columns.get("role")?;
    Role::named(&name).ok_or_else(|| columns.wrong("role", format!("{name:?} is no role")))
}

async fn save(connection: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::AddFirstUser(user) | Change::AddUser(user) | Change::ChangeUser { after: user, .. } => {
            let statement = "INSERT INTO users (name, role, password_hash, created_ms) VALUES ($1, $2, $3, $4) \
                             ON CONFLICT (name) DO UPDATE SET role = excluded.role, password_hash = excluded.password_hash";
            sqlx::query(statement)
                .bind(&user.name)
                .bind(user.role.name())
                .bind(&user.password_hash)
                .bind(user.created_ms)
                .execute(&mut *connection)
                .await?;
            delete(connection, "DELETE FROM sessions WHERE user_name = $1", &user.name).await
        }
        Change::RemoveUser(name) => {
            delete(connection, "DELETE FROM sessions WHERE user_name = $1", name).await?;
            delete(connection, "DELETE FROM tokens WHERE made_by = $1", name).await?;
            delete(connection, "DELETE FROM users WHERE name = $1", name).await
        }
        Change::AddToken(token) => {
            let statement = "INSERT INTO tokens (id, name, role, secret_hash, made_by, created_ms, expires_ms) \
                             VALUES ($1, $2, $3, $4, $5, $6, $7)";
            sqlx::query(statement)
                .bind(&token.id)
                .bind(&token.name)
                .bind(token.role.name())
                .bind(token.digest.to_string())
                .bind(&token.made_by)
                .bind(token.created_ms)
                .bind(token.expires_ms)
                .execute(connection)
                .await
                .map(drop)
        }
        Change::RemoveToken(id) => delete(connection, "DELETE FROM tokens WHERE id = $1", id).await,
        Change::OpenSession(session) => {
            let statement =
                "INSERT INTO sessions (secret_hash, user_name, created_ms, expires_ms) VALUES ($1, $2, $3, $4)";
            sqlx::query(statement)
                .bind(session.digest.to_string())
                .bind(&session.user)
                .bind(session.created_ms)
                .bind(session.expires_ms)
                .execute(connection)
                .await
                .map(drop)
        }
        Change::CloseSession(digest) => {
            delete(connection, "DELETE FROM sessions WHERE secret_hash = $1", &digest.to_string()).await
        }
    }
}

async fn delete(connection: &mut SqliteConnection, statement: &'static str, key: &str) -> Result<(), sqlx::Error> {
    sqlx::query(statement).bind(key).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ids::Digest;

    #[tokio::test]
    async fn who_may_do_what_is_known_after_a_restart() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("hub.sqlite");
        let user = |name: &str, role| User {
            name: name.to_owned(),
            role,
            password_hash: "$argon2id$".to_owned(),
            created_ms: 5,
        };
        let token = |id: &str, made_by: &str| Token {
            id: id.to_owned(),
            name: "ci".to_owned(),
            role: Role::Publisher,
            digest: Digest::of(id.as_bytes()),
            made_by: made_by.to_owned(),
            created_ms: 6,
            expires_ms: Some(1_000),
        };
        let session = |secret: &str, user: &str| Session {
            digest: Digest::of(secret.as_bytes()),
            user: user.to_owned(),
            created_ms: 7,
            expires_ms: 500,
        };
        let changes = [
            Change::AddUser(user("Ada", Role::Admin)),
            Change::AddUser(user("Bob", Role::Viewer)),
            Change::AddToken(token("one", "Ada")),
            Change::AddToken(token("two", "Bob")),
            Change::AddToken(token("three", "Ada")),
            Change::OpenSession(session("a", "Ada")),
            Change::OpenSession(session("b", "Bob")),
            Change::RemoveToken("three".to_owned()),
            Change::RemoveUser("Bob".to_owned()),
            Change::ChangeUser { before: user("Ada", Role::Viewer), after: user("Ada", Role::Admin) },
            Change::OpenSession(session("c", "Ada")),
            Change::OpenSession(session("d", "Ada")),
            Change::CloseSession(Digest::of(b"d")),
        ];
        let mut expected = AccessBook::default();
        {
            let store = Store::open(&path).await.expect("opens");
            for change in changes {
                store.save_access(&change).await.expect("saves");
                expected.apply(change);
            }
            store.close().await;
        }
        let store = Store::open(&path).await.expect("opens");
        let book = store.load_access(10).await.expect("loads");
        assert_eq!(format!("{book:?}"), format!("{expected:?}"));
        let later = store.load_access(500).await.expect("loads");
        assert!(later.of_session(Digest::of(b"c"), 0).is_none() && later.users().count() == 1);
    }
}
