//! Why the store did not do something, and what to do about it.

use sqlx::migrate::MigrateError;

use super::Location;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {at}: {advice}")]
    Open { at: Location, advice: &'static str, source: sqlx::Error },
    #[error("cannot read the database {at}: it was never one of a validator")]
    Foreign { at: Location },
    #[error(
        "the database {at} was written by a newer version of this program (its tables are of version {found}, known is \
         {known}): use that version, or another database"
    )]
    Newer { at: Location, found: i64, known: i64 },
    #[error(
        "the database {at} was written by an older version of this program: start the validator once, it brings the \
         database to this version"
    )]
    Older { at: Location },
    #[error("the database {at} cannot be brought to this version: {advice}")]
    Migrate { at: Location, advice: &'static str, source: MigrateError },
    #[error("the database failed to {doing}: {advice}")]
    Query { doing: &'static str, advice: &'static str, source: sqlx::Error },
}

impl StoreError {
    pub(super) fn open(at: &Location, source: sqlx::Error) -> Self {
        let advice = advice(&source).unwrap_or(match at {
            Location::Sqlite(_) => "check that its folder exists and can be written",
            Location::Postgres(_) => "check its address, and that the server runs",
        });
        Self::Open { at: at.clone(), advice, source }
    }

    pub(super) fn migrate(at: &Location, known: i64, source: MigrateError) -> Self {
        let at = at.clone();
        match source {
            MigrateError::VersionMissing(found) if found > known => {
                Self::Newer { at, found, known }
            }
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)
                if advice(&source).is_some() =>
            {
                Self::open(&at, source)
            }
            source => Self::Migrate {
                at,
                advice: "nothing was changed; its tables are not those of any released version",
                source,
            },
        }
    }

    pub(super) fn query(doing: &'static str, source: sqlx::Error) -> Self {
        Self::Query {
            doing,
            advice: advice(&source).unwrap_or("an error that nobody thought of"),
            source,
        }
    }
}

/// What to do, where the cause tells it.
fn advice(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        sqlx::Error::Database(error) => match &*error.code()? {
            // SQLite: extended result codes, of which the last byte is the kind.
            code if code.bytes().all(|byte| byte.is_ascii_digit()) && code.len() < 5 => {
                match code.parse::<u32>().ok()? & 0xff {
                    5 | 6 => Some("another program has locked it for long: end that program"),
                    8 => Some("it can only be read: give this user the right to write it"),
                    10 => Some("its disk fails: look into the system's log"),
                    11 | 26 => {
                        Some("the file is no database, or damaged: use another one, or a copy")
                    }
                    13 => Some("its disk is full: free some space"),
                    14 => Some(
                        "check that its folder exists and that this user may write the file and the folder",
                    ),
                    _ => None,
                }
            }
            "53100" => Some("the server's disk is full: free some space"),
            "25006" | "42501" => {
                Some("it can only be read: give the user of the address the right to write")
            }
            "28P01" | "28000" => Some("the server refuses the user or the password of the address"),
            "3D000" => Some("the server has no such database: make it with `createdb`"),
            "53300" => Some("the server has no connection left: raise its `max_connections`"),
            "55P03" | "57014" => Some("another program has locked it for long: end that program"),
            code if code.starts_with("57P") => Some("the server is starting or stopping"),
            _ => None,
        },
        sqlx::Error::Io(_) => {
            Some("the server cannot be reached: check its address, and that it runs")
        }
        sqlx::Error::Tls(_) => Some("TLS is not spoken here: leave `sslmode` out of the address"),
        sqlx::Error::PoolTimedOut => Some("it has been busy for too long, or cannot be reached"),
        sqlx::Error::PoolClosed => Some("it is closed already"),
        _ => None,
    }
}
