//! Where a store is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// A file, or a PostgreSQL server's database.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Location {
    /// A file, made if there is none.
    Sqlite(PathBuf),
    /// `postgres://user:password@host/database`; with `?host=/folder` after it, the server's socket in that folder. Made by
    /// [`Location::from_str`], which has read it. TLS is not spoken: the server has to be on this machine or in a network that can be trusted.
    Postgres(String),
}

/// Why a text is no [`Location`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("is empty: give a file or `postgres://user:password@host/database`")]
    Empty,
    #[error(
        "databases of kind `{0}` are not known: give a file or `postgres://user:password@host/database`"
    )]
    UnknownKind(String),
    // The cause may quote the address, and with it the password.
    #[error(
        "is no address of a database: it has to look like `postgres://user:password@host/database`"
    )]
    BadAddress,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(LocationError::Empty);
        }
        match text.split_once("://") {
            None => Ok(Self::Sqlite(text.into())),
            Some(("postgres" | "postgresql", _)) => match text.parse::<PgConnectOptions>() {
                Ok(_) => Ok(Self::Postgres(text.to_owned())),
                Err(_) => Err(LocationError::BadAddress),
            },
            Some((kind, _)) => Err(LocationError::UnknownKind(kind.to_owned())),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = LocationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Location {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => match url.parse::<PgConnectOptions>() {
                Ok(options) => {
                    let host = options.get_socket().map_or_else(
                        || options.get_host().to_owned(),
                        |socket| socket.display().to_string(),
                    );
                    let database = options.get_database().unwrap_or(options.get_username());
                    write!(f, "`{database}` of the PostgreSQL server at {host}")
                }
                Err(_) => write!(f, "of a PostgreSQL server"),
            },
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_from_a_server() {
        assert_eq!("data/x.sqlite".parse(), Ok(Location::Sqlite("data/x.sqlite".into())));
        assert!(matches!("postgres://me@db.example/x".parse(), Ok(Location::Postgres(_))));
        assert_eq!(
            "mysql://x/y".parse::<Location>(),
            Err(LocationError::UnknownKind("mysql".to_owned()))
        );
        assert_eq!(" ".parse::<Location>(), Err(LocationError::Empty));
        assert_eq!("postgres://host:port/x".parse::<Location>(), Err(LocationError::BadAddress));
    }

    #[test]
    fn a_password_is_never_shown() {
        let location: Location = "postgres://me:hunter2@db.example/evidence".parse().unwrap();
        for shown in [format!("{location}"), format!("{location:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("`evidence` of the PostgreSQL server at db.example"), "{shown}");
        }
    }
}
