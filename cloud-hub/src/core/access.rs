//! Who may do what over HTTP: users, their sessions, and tokens of programs. Secrets are known by their hash alone.
//!
//! The book is held in memory and asked for every request; the database keeps it. What changes is durable first.

pub mod throttle;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::Digest;
use utoipa::ToSchema;

use super::limits::{MAX_SESSIONS_OF_USER, MAX_TOKENS, MAX_USERS};

/// What somebody may do. Each may what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Ask for trainings; approve, hold and abort rollouts.
    Operator,
    /// Bring versions, and begin rollouts.
    Publisher,
    /// Say who may do what.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Publisher, Self::Admin];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Somebody who was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name, as it stands in the history: a user's, or that of whoever made a token and the token's.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they were recognised.
    pub how: How,
}

/// How somebody was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By the session of a browser.
    Session,
    /// By a token of a program.
    Token,
    /// By the token in the hub's own folder: whoever can read it can do everything anyway.
    Folder,
}

impl Principal {
    /// Whoever can read the hub's folder.
    #[must_use]
    pub fn of_folder() -> Self {
        Self { name: "the hub's own machine".to_owned(), role: Role::Admin, how: How::Folder }
    }
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The password's Argon2id hash, in PHC form.
    pub password_hash: String,
    /// Since when.
    pub created_ms: UnixMillis,
}

/// A token of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is called in lists and links.
    pub id: String,
    /// What it is for, in the words of whoever made it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The secret's hash.
    pub digest: Digest,
    /// Who made it.
    pub made_by: String,
    /// Since when.
    pub created_ms: UnixMillis,
    /// Until when; nothing: until it is revoked.
    pub expires_ms: Option<UnixMillis>,
}

/// A person's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The secret's hash.
    pub digest: Digest,
    /// Whose.
    pub user: String,
    /// Since when.
    pub created_ms: UnixMillis,
    /// Until when.
    pub expires_ms: UnixMillis,
}

/// A change of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is a user where nobody was.
    AddFirstUser(User),
    /// There is a new user.
    AddUser(User),
    /// A user may something else, or has another password. Sessions end.
    ChangeUser {
        /// As whoever asks knows them.
        before: User,
        /// As they are to be.
        after: User,
    },
    /// A user is gone, with sessions and tokens.
    RemoveUser(String),
    /// There is a new token.
    AddToken(Token),
    /// A token is void.
    RemoveToken(String),
    /// Somebody logged in.
    OpenSession(Session),
    /// Somebody logged out.
    CloseSession(Digest),
}

/// Users, sessions and tokens.
#[derive(Debug, Clone, Default)]
pub struct AccessBook {
    users: BTreeMap<String, User>,
    tokens: BTreeMap<String, Token>,
    sessions: BTreeMap<Digest, Session>,
    by_secret: BTreeMap<Digest, String>,
}

impl AccessBook {
    /// What the database knows.
    #[must_use]
    pub fn new(users: Vec<User>, tokens: Vec<Token>, sessions: Vec<Session>) -> Self {
        let mut book = Self::default();
        let changes = users.into_iter().map(Change::AddUser);
        let changes = changes.chain(tokens.into_iter().map(Change::AddToken));
        changes.chain(sessions.into_iter().map(Change::OpenSession)).for_each(|change| book.apply(change));
        book
    }

    /// Every user, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// Every token.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        self.tokens.values()
    }

    /// The user of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Whose the token is with this secret.
    #[must_use]
    pub fn of_token(&self, secret: Digest, now: UnixMillis) -> Option<Principal> {
        let token = self.tokens.get(self.by_secret.get(&secret)?)?;
        let is_valid = token.expires_ms.is_none_or(|expires| now < expires);
        let name = format!("{} of {}", token.name, token.made_by);
        is_valid.then_some(Principal { name, role: token.role, how: How::Token })
    }

    /// Whose the session is with this secret.
    #[must_use]
    pub fn of_session(&self, secret: Digest, now: UnixMillis) -> Option<Principal> {
        let session = self.sessions.get(&secret).filter(|session| now < session.expires_ms)?;
        let user = self.users.get(&session.user)?;
        Some(Principal { name: user.name.clone(), role: user.role, how: How::Session })
    }

    /// Why a change makes no sense, if it does not.
    ///
    /// # Errors
    /// Says it in words.
    pub fn check(&self, change: &Change) -> Result<(), String> {
        let last_admin = |name: &str| {
            let others = self.users.values().any(|user| user.role == Role::Admin && user.name != name);
            let is_admin = self.users.get(name).is_some_and(|user| user.role == Role::Admin);
            is_admin && !others
        };
        match change {
            Change::AddFirstUser(_) if !self.users.is_empty() => Err("somebody was first".to_owned()),
            Change::AddUser(user) if self.users.contains_key(&user.name) => {
                Err(format!("there is a user {:?} already", user.name))
            }
            Change::AddUser(_) if self.users.len() >= MAX_USERS => Err(format!("there are {MAX_USERS} users already")),
            Change::ChangeUser { before, .. } if !self.users.contains_key(&before.name) => Err(no_user(&before.name)),
            Change::ChangeUser { before, .. } if self.users.get(&before.name) != Some(before) => {
                Err(format!("{:?} was changed meanwhile; look again", before.name))
            }
            Change::RemoveUser(name) if !self.users.contains_key(name) => Err(no_user(name)),
            Change::ChangeUser { after: user, .. } if user.role != Role::Admin && last_admin(&user.name) => {
                Err(format!("{:?} is the last admin: nobody could make another one", user.name))
            }
            Change::RemoveUser(name) if last_admin(name) => {
                Err(format!("{name:?} is the last admin: nobody could make another one"))
            }
            Change::AddToken(_) if self.tokens.len() >= MAX_TOKENS => {
                Err(format!("there are {MAX_TOKENS} tokens already"))
            }
            Change::RemoveToken(id) if !self.tokens.contains_key(id) => Err(format!("there is no token {id:?}")),
            Change::AddFirstUser(_)
            | Change::AddUser(_)
            | Change::ChangeUser { .. }
            | Change::RemoveUser(_)
            | Change::AddToken(_)
            | Change::RemoveToken(_)
            | Change::OpenSession(_)
            | Change::CloseSession(_) => Ok(()),
        }
    }

    /// Sessions that are over, or that a user has too many of once this one is opened: the oldest.
    #[must_use]
    pub fn stale_sessions(&self, opened: &Session, now: UnixMillis) -> Vec<Digest> {
        let over = self.sessions.values().filter(|session| session.expires_ms <= now).map(|session| session.digest);
        let mut of_user: Vec<&Session> =
            self.sessions.values().filter(|session| session.user == opened.user && session.expires_ms > now).collect();
        of_user.sort_by_key(|session| session.created_ms);
        let excess = (of_user.len() + 1).saturating_sub(MAX_SESSIONS_OF_USER);
        over.chain(of_user.into_iter().take(excess).map(|session| session.digest)).collect()
    }

    /// Takes a change that was checked and is durable.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::AddFirstUser(user) | Change::AddUser(user) => drop(self.users.insert(user.name.clone(), user)),
            Change::ChangeUser { after: user, .. } => {
                self.sessions.retain(|_, session| session.user != user.name);
                self.users.insert(user.name.clone(), user);
            }
            Change::RemoveUser(name) => {
                self.users.remove(&name);
                self.sessions.retain(|_, session| session.user != name);
                let void: Vec<String> =
                    self.tokens.values().filter(|token| token.made_by == name).map(|token| token.id.clone()).collect();
                void.iter().for_each(|id| self.remove_token(id));
            }
            Change::AddToken(token) => {
                self.by_secret.insert(token.digest, token.id.clone());
                self.tokens.insert(token.id.clone(), token);
            }
            Change::RemoveToken(id) => self.remove_token(&id),
            Change::OpenSession(session) => drop(self.sessions.insert(session.digest, session)),
            Change::CloseSession(digest) => drop(self.sessions.remove(&digest)),
        }
    }

    fn remove_token(&mut self, id: &str) {
        if let Some(token) = self.tokens.remove(id) {
            self.by_secret.remove(&token.digest);
        }
    }
}

fn no_user(name: &str) -> String {
    format!("there is no user {name:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, role: Role) -> User {
        User { name: name.to_owned(), role, password_hash: String::new(), created_ms: 0 }
    }

    fn change(name: &str, before: Role, after: Role) -> Change {
        Change::ChangeUser { before: user(name, before), after: user(name, after) }
    }

    fn secret(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn token(number: u8, made_by: &str, expires_ms: Option<i64>) -> Token {
        Token {
            id: format!("tok-{number}"),
            name: "ci".to_owned(),
            role: Role::Publisher,
            digest: secret(number),
            made_by: made_by.to_owned(),
            created_ms: 0,
            expires_ms,
        }
    }

    fn session(number: u8, user: &str, created_ms: i64) -> Session {
        Session { digest: secret(number), user: user.to_owned(), created_ms, expires_ms: 1_000 }
    }

    fn book() -> AccessBook {
        let users = vec![user("Ada", Role::Admin), user("Bob", Role::Viewer)];
        AccessBook::new(users, vec![token(1, "Bob", Some(500)), token(2, "Ada", None)], vec![session(3, "Bob", 0)])
    }

    #[test]
    fn a_secret_counts_as_what_it_is_and_until_it_expires() {
        let book = book();
        let ci = Principal { name: "ci of Bob".to_owned(), role: Role::Publisher, how: How::Token };
        assert_eq!((book.of_token(secret(1), 499), book.of_token(secret(1), 500)), (Some(ci), None));
        assert!(book.of_token(secret(2), i64::MAX).is_some());
        assert!(book.of_session(secret(3), 999).is_some() && book.of_session(secret(3), 1_000).is_none());
        assert!(book.of_session(secret(1), 0).is_none() && book.of_token(secret(3), 0).is_none());
    }

    #[test]
    fn whoever_is_gone_or_changed_is_out_at_once_and_an_admin_stays() {
        let mut book = book();
        let removed = Change::RemoveUser("Bob".to_owned());
        assert_eq!(book.check(&removed), Ok(()));
        book.apply(removed);
        assert!(book.of_token(secret(1), 0).is_none() && book.of_session(secret(3), 0).is_none());
        let reason = "\"Ada\" is the last admin: nobody could make another one".to_owned();
        assert_eq!(book.check(&Change::RemoveUser("Ada".to_owned())), Err(reason.clone()));
        assert_eq!(book.check(&change("Ada", Role::Admin, Role::Operator)), Err(reason));
        book.apply(Change::OpenSession(session(4, "Ada", 0)));
        book.apply(change("Ada", Role::Admin, Role::Admin));
        assert!(book.of_session(secret(4), 0).is_none(), "a new password ends what was open");
        assert!(book.check(&Change::AddUser(user("Ada", Role::Viewer))).is_err());
        let stale = book.check(&change("Ada", Role::Operator, Role::Admin));
        assert_eq!(stale, Err("\"Ada\" was changed meanwhile; look again".to_owned()));
        assert!(book.check(&Change::AddFirstUser(user("Eve", Role::Admin))).is_err(), "two who are first at once");
        assert!(book.check(&Change::RemoveToken("tok-9".to_owned())).is_err());
    }

    #[test]
    fn a_user_has_so_many_sessions_and_the_oldest_end_first() {
        let mut book = AccessBook::new(vec![user("Ada", Role::Admin)], vec![], vec![]);
        for number in 0..MAX_SESSIONS_OF_USER as u8 {
            let opened = session(number, "Ada", i64::from(number));
            assert!(book.stale_sessions(&opened, 0).is_empty());
            book.apply(Change::OpenSession(opened));
        }
        assert_eq!(book.stale_sessions(&session(99, "Ada", 99), 100), [secret(0)]);
        assert_eq!(book.stale_sessions(&session(99, "Bob", 99), 1_000).len(), MAX_SESSIONS_OF_USER);
    }
}
