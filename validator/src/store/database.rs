//! The one place that knows which database is behind the store: each statement is written once, for both.
//!
//! Statements number their parameters `$1`, `$2`, …, and bind only 64-bit integers, doubles and texts.

use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::database::Database as Driver;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Encode, Error, Postgres, Row, SqlSafeStr, Sqlite, Type};

/// The most parameters of one statement: SQLite takes 32,766.
const MAX_PARAMETERS: usize = 32_000;
/// The most rows that one statement writes: more make it no faster.
const MAX_ROWS: usize = 200;

/// Connections to one of the two databases.
#[derive(Debug, Clone)]
pub(super) enum Database {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// What a statement is given.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i64),
    /// Finite.
    Real(f64),
    Text(String),
    MaybeInt(Option<i64>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::MaybeInt(value)
    }
}

impl From<f64> for Value {
    /// What is no number becomes 0, as SQLite would make it NULL, and what is out of all bounds is bounded, as PostgreSQL
    /// refuses to sum it up.
    fn from(value: f64) -> Self {
        Self::Real(if value.is_nan() { 0.0 } else { value.clamp(-1e200, 1e200) })
    }
}

impl From<&str> for Value {
    /// PostgreSQL takes no text with a zero byte.
    fn from(value: &str) -> Self {
        Self::Text(if value.contains('\0') { value.replace('\0', "") } else { value.to_owned() })
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        if value.contains('\0') { Self::from(value.as_str()) } else { Self::Text(value) }
    }
}

/// The values of a statement, in the order of its parameters.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::database::Value::from($value)),*] };
}
pub(super) use values;

/// A row of an answer.
#[derive(Debug)]
pub(super) enum Record {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// Reads a row's columns one after the other.
#[derive(Debug)]
pub(super) struct Fields<'r> {
    record: &'r Record,
    next: usize,
}

macro_rules! get {
    ($fields:expr, $as:ty) => {{
        let column = $fields.next;
        $fields.next += 1;
        match $fields.record {
            Record::Sqlite(row) => row.try_get::<$as, _>(column),
            Record::Postgres(row) => row.try_get::<$as, _>(column),
        }
    }};
}

impl Record {
    /// Its columns, from the first one.
    pub(super) fn fields(&self) -> Fields<'_> {
        Fields { record: self, next: 0 }
    }
}

impl<'r> Fields<'r> {
    pub(super) fn int(&mut self) -> Result<i64, Error> {
        get!(self, i64)
    }

    pub(super) fn maybe_int(&mut self) -> Result<Option<i64>, Error> {
        get!(self, Option<i64>)
    }

    /// A small number; what is none is 0.
    pub(super) fn small(&mut self) -> Result<u8, Error> {
        Ok(u8::try_from(self.int()?).unwrap_or(0))
    }

    /// A count; what no count can be is the nearest one.
    pub(super) fn count(&mut self) -> Result<u32, Error> {
        Ok(u32::try_from(self.int()?.max(0)).unwrap_or(u32::MAX))
    }

    /// A sum of counts.
    pub(super) fn sum(&mut self) -> Result<u64, Error> {
        Ok(u64::try_from(self.int()?).unwrap_or(0))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.int()? != 0)
    }

    pub(super) fn real(&mut self) -> Result<f64, Error> {
        get!(self, f64)
    }

    pub(super) fn maybe_real(&mut self) -> Result<Option<f64>, Error> {
        get!(self, Option<f64>)
    }

    pub(super) fn text(&mut self) -> Result<&'r str, Error> {
        get!(self, &'r str)
    }

    /// A text that stands for something: a hotkey, a task.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, Error>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.text()?.parse().map_err(|error| Error::Decode(Box::new(error)))
    }

    /// A text that holds JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Error> {
        serde_json::from_str(self.text()?).map_err(|error| Error::Decode(Box::new(error)))
    }
}

fn bound<DB: Driver>(sql: impl SqlSafeStr, values: &[Value]) -> Query<'static, DB, DB::Arguments>
where
    i64: for<'e> Encode<'e, DB> + Type<DB>,
    Option<i64>: for<'e> Encode<'e, DB> + Type<DB>,
    f64: for<'e> Encode<'e, DB> + Type<DB>,
    for<'t> &'t str: Encode<'t, DB> + Type<DB>,
{
    let sql = sql.into_sql_str();
    #[cfg(test)]
    super::tests::plans::note(sql.as_str());
    let mut query = sqlx::query::<DB>(sql);
    for value in values {
        query = match value {
            Value::Int(value) => query.bind(*value),
            Value::MaybeInt(value) => query.bind(*value),
            Value::Real(value) => query.bind(*value),
            Value::Text(value) => query.bind(value.as_str()),
        };
    }
    query
}

impl Database {
    /// Begins to change something. In SQLite at once: a reader that turns into a writer half-way is not waited for.
    pub(super) async fn begin(&self) -> Result<Transaction, Error> {
        Ok(match self {
            Self::Sqlite(pool) => Transaction::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
        })
    }

    /// Returns how many rows were changed.
    pub(super) async fn execute(&self, sql: &'static str, values: &[Value]) -> Result<u64, Error> {
        Ok(match self {
            Self::Sqlite(pool) => bound::<Sqlite>(sql, values).execute(pool).await?.rows_affected(),
            Self::Postgres(pool) => {
                bound::<Postgres>(sql, values).execute(pool).await?.rows_affected()
            }
        })
    }

    pub(super) async fn first(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Option<Record>, Error> {
        Ok(match self {
            Self::Sqlite(pool) => {
                bound::<Sqlite>(sql, values).fetch_optional(pool).await?.map(Record::Sqlite)
            }
            Self::Postgres(pool) => {
                bound::<Postgres>(sql, values).fetch_optional(pool).await?.map(Record::Postgres)
            }
        })
    }

    /// The rows as they come: memory holds few of them.
    pub(super) fn rows(
        &self,
        sql: &'static str,
        values: &[Value],
    ) -> BoxStream<'_, Result<Record, Error>> {
        match self {
            Self::Sqlite(pool) => {
                bound::<Sqlite>(sql, values).fetch(pool).map(|row| row.map(Record::Sqlite)).boxed()
            }
            Self::Postgres(pool) => bound::<Postgres>(sql, values)
                .fetch(pool)
                .map(|row| row.map(Record::Postgres))
                .boxed(),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Changes that are made together or not at all. Dropped before [`Transaction::commit`], none is made.
#[derive(Debug)]
pub(super) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    /// Returns how many rows were changed.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<u64, Error> {
        Ok(match self {
            Self::Sqlite(own) => {
                bound::<Sqlite>(sql, values).execute(&mut **own).await?.rows_affected()
            }
            Self::Postgres(own) => {
                bound::<Postgres>(sql, values).execute(&mut **own).await?.rows_affected()
            }
        })
    }

    pub(super) async fn all(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<Vec<Record>, Error> {
        Ok(match self {
            Self::Sqlite(own) => {
                let rows = bound::<Sqlite>(sql, values).fetch_all(&mut **own).await?;
                rows.into_iter().map(Record::Sqlite).collect()
            }
            Self::Postgres(own) => {
                let rows = bound::<Postgres>(sql, values).fetch_all(&mut **own).await?;
                rows.into_iter().map(Record::Postgres).collect()
            }
        })
    }

    /// Inserts rows, many per statement: `head` is the statement up to `VALUES`, `tail` what follows them.
    pub(super) async fn insert<const N: usize>(
        &mut self,
        head: &'static str,
        rows: &[[Value; N]],
        tail: &'static str,
    ) -> Result<(), Error> {
        let most = (MAX_PARAMETERS / N.max(1)).clamp(1, MAX_ROWS);
        for rows in rows.chunks(most) {
            let numbered = matches!(self, Self::Postgres(_));
            let places = places(rows.len(), N, numbered);
            let sql = AssertSqlSafe(format!("{head} VALUES {places} {tail}"));
            // A statement of another length is hardly ever needed again.
            let keep = rows.len() == most || rows.len() == 1;
            let values = rows.as_flattened();
            match self {
                Self::Sqlite(own) => {
                    bound::<Sqlite>(sql, values).persistent(keep).execute(&mut **own).await?;
                }
                Self::Postgres(own) => {
                    bound::<Postgres>(sql, values).persistent(keep).execute(&mut **own).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(own) => own.commit().await,
            Self::Postgres(own) => own.commit().await,
        }
    }
}

/// `($1, $2), ($3, $4)` for two rows of two columns, or `(?, ?), (?, ?)`: SQLite takes numbers for names, and looks for
/// each among all of them.
fn places(rows: usize, columns: usize, numbered: bool) -> String {
    let mut places = String::with_capacity(rows * columns * 6);
    for place in 0..rows * columns {
        places.push_str(match (place % columns, place) {
            (0, 0) => "(",
            (0, _) => "), (",
            _ => ", ",
        });
        if numbered {
            places.push('$');
            places.push_str(&(place + 1).to_string());
        } else {
            places.push('?');
        }
    }
    places.push(')');
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_through_all_rows() {
        assert_eq!(places(2, 3, true), "($1, $2, $3), ($4, $5, $6)");
        assert_eq!(places(2, 2, false), "(?, ?), (?, ?)");
        assert_eq!(places(1, 1, true), "($1)");
    }

    #[test]
    fn no_value_is_one_that_a_database_refuses() {
        assert_eq!(Value::from(f64::NAN), Value::Real(0.0));
        assert_eq!(Value::from(f64::INFINITY), Value::Real(1e200));
        assert_eq!(Value::from("a\0b"), Value::Text("ab".to_owned()));
    }
}
