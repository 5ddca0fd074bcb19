//! Old files and new ones.

use common::MechanismId;
use sqlx::Row;
use sqlx::sqlite::SqlitePool;

use super::*;
use crate::scoring::Stretch;

/// The digest of the first version's tables, as it is in the files that were made with them.
const FIRST: &str = "15da944c0430f24f1df3f6a726295b36208fd982bbe75579fa7196a6c492a24791c8aade9d321992b829b351b323af75";

/// And that of the second one's.
const SECOND: &str = "ada6f1f1bdee65fc69185efbc6bf1618f1949dc636c4b4d5f1359863caea2e4f7c76cc1131bdecc018be3f5723366882";

/// A file of the first version with a row in each table.
async fn old_file(folder: &Path, waiting: &PendingCheck) -> Location {
    let at = file(folder);
    let Location::Sqlite(path) = &at else { unreachable!() };
    let options = sqlite(path, BUSY).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    SQLITE.run_to(1, &pool).await.unwrap();
    let digest: Vec<u8> =
        sqlx::query("SELECT checksum FROM _sqlx_migrations").fetch_one(&pool).await.unwrap().get(0);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, FIRST, "the first version's tables must never be edited");
    let hotkey = alice().hotkey.to_string();
    for statement in [
        "INSERT INTO periods VALUES (1, 0, 1000), (2, 1000, 3000), (3, 3000, NULL)",
        "INSERT INTO tallies VALUES (1, $1, 'chat-demo', 100, 25, 5, 2, 3, 0.5),
            (2, $1, 'chat-demo', 100, 200, 6, 2, 0, 1.0), (3, $1, 'chat-demo', 0, 0, 1, 1, 0, NULL)",
        "INSERT INTO tallies VALUES (2, 'nobody', 'chat-demo', 100, 0, 0, 0, 0, NULL)",
        "INSERT INTO verdicts VALUES ('a', 500, $1, 'chat-demo', 0.5, 30, 8, '{}'),
            ('b', 1000, $1, 'chat-demo', 1.0, 40, 8, '{}'), ('c', 2999, $1, 'chat-demo', 0.25, 60, 8, '{}'),
            ('d', 3500, $1, 'chat-demo', 0.75, 70, 8, '{}'), ('e', -9, $1, 'chat-demo', 1.0, 80, 8, '{}')",
        "INSERT INTO weights_set VALUES (1, 900, 77, '[]')",
    ] {
        sqlx::query(statement).bind(&hotkey).execute(&pool).await.unwrap();
    }
    let body = serde_json::to_string(&waiting.check).unwrap();
    sqlx::query("INSERT INTO pending_checks VALUES ('w', 2000, 2, $1, 'chat-demo', 20, 2, $2)")
        .bind(&hotkey)
        .bind(body)
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    at
}

#[tokio::test]
async fn a_file_of_the_first_version_is_taken_over_without_losing_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut waiting = pending("w", 0);
    let at = old_file(folder.path(), &waiting).await;
    let error = Store::open_to_read(&at).await.unwrap_err();
    assert!(matches!(error, StoreError::Older { .. }), "{error}");
    let store = Store::open(&at).await.unwrap();

    let past = store.past_periods(0).await.unwrap();
    let first = Tally {
        declared: 100.0,
        consumed: 25.0,
        served: 5,
        refused_within: 2,
        refusal_cost: 1.5,
        failed: Failures { unreachable: 3, ..Failures::default() },
        ..Tally::default()
    };
    let first = Stretch { checked: 1, quality: 0.5, ..first.stretch(1_000, 1.0) };
    let second = Tally {
        declared: 100.0,
        consumed: 200.0,
        served: 6,
        refused_within: 2,
        ..Tally::default()
    };
    let second = Stretch { checked: 2, quality: 1.25, ..second.stretch(3_000, 2.0) };
    assert_eq!(past, BTreeMap::from([(alice(), vec![second, first])]));
    let open = store.open_periods().await.unwrap();
    let third = Tally { served: 1, refused_within: 1, ..Tally::default() };
    assert_eq!(open, BTreeMap::from([(PeriodId(3), one(&alice(), third))]));

    let answers = store.answers(-100).await.unwrap();
    let speeds: Vec<_> = answers[&alice()].iter().map(|answer| answer.speed).collect();
    assert_eq!(speeds, [70.0, 60.0, 40.0, 30.0, 80.0]);
    let periods: Vec<i64> = {
        let bed = Bed { at: at.clone(), store: store.clone(), _folder: None };
        let mut periods = Vec::new();
        for sql in [
            "SELECT period FROM verdicts WHERE id = 'a'",
            "SELECT period FROM verdicts WHERE id = 'b'",
            "SELECT period FROM verdicts WHERE id = 'd'",
            "SELECT period FROM verdicts WHERE id = 'e'",
        ] {
            periods.push(bed.number(sql).await);
        }
        periods
    };
    assert_eq!(periods, [1, 2, 3, 0]);
    (waiting.period, waiting.at_ms, waiting.ttft_s) = (PeriodId(2), 2_000, 0.0);
    assert_eq!(store.next_checks(9).await.unwrap(), [waiting]);
    assert!(!store.postpone_check("w").await.unwrap());
    assert_eq!(store.last_weights().await.unwrap().unwrap().block.0, 77);

    store.end_period(PeriodId(3), 4_000, &open[&PeriodId(3)]).await.unwrap();
    store.refresh(10_000, 0.5).await.unwrap();
    let mut sums = Vec::new();
    store.stretches(0, |id, stretches| sums.push((id, stretches))).await.unwrap();
    let [(id, stretches)] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((id, stretches[0].served, stretches[0].checked), (&alice(), 12, 4));
}

#[tokio::test]
async fn weights_and_scorings_of_the_second_version_are_of_the_first_mechanism() {
    let folder = tempfile::tempdir().unwrap();
    let at = file(folder.path());
    let Location::Sqlite(path) = &at else { unreachable!() };
    let options = sqlite(path, BUSY).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    SQLITE.run_to(2, &pool).await.unwrap();
    let digest: Vec<u8> = sqlx::query("SELECT checksum FROM _sqlx_migrations WHERE version = 2")
        .fetch_one(&pool)
        .await
        .unwrap()
        .get(0);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, SECOND, "the second version's tables must never be edited");
    let rules = serde_json::to_string(&crate::scoring::Rules::default()).unwrap();
    for statement in [
        "INSERT INTO scorings VALUES (4, 800, $1, '{\"chat-demo\":1.0}')",
        "INSERT INTO weights_set VALUES (1, 900, 77, '[]', 4)",
    ] {
        sqlx::query(statement).bind(&rules).execute(&pool).await.unwrap();
    }
    pool.close().await;

    let store = Store::open(&at).await.unwrap();
    let set = store.last_weights_of(MechanismId(0)).await.unwrap().unwrap();
    assert_eq!((set.block.0, set.scoring), (77, Some(ScoringId(4))));
    let scoring = store.last_scoring().await.unwrap().unwrap();
    assert_eq!(scoring.mechanisms(), BTreeSet::from([MechanismId(0)]));
    assert_eq!(store.open_submissions().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_with_the_first_version_is_taken_over() {
    let Some(at) = server::fresh().await else { return };
    let Location::Postgres(url) = &at else { unreachable!() };
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    POSTGRES.run_to(1, &pool).await.unwrap();
    let rules = serde_json::to_string(&crate::scoring::Rules::default()).unwrap();
    for statement in [
        "INSERT INTO scorings VALUES (4, 800, $1, '{\"chat-demo\":1.0}')",
        "INSERT INTO weights_set VALUES (1, 900, 77, $1, 4)",
        "UPDATE weights_set SET weights = '[]' WHERE $1 <> ''",
    ] {
        sqlx::query(statement).bind(&rules).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let error = Store::open_to_read(&at).await.unwrap_err();
    assert!(matches!(error, StoreError::Older { .. }), "{error}");
    let store = Store::open(&at).await.unwrap();
    let set = store.last_weights_of(MechanismId(0)).await.unwrap().unwrap();
    assert_eq!((set.block.0, set.scoring), (77, Some(ScoringId(4))));
    assert_eq!(store.last_scoring().await.unwrap().unwrap().mechanisms.len(), 0);
    assert_eq!(store.open_submissions().await.unwrap(), []);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let bed = Bed::sqlite().await;
    bed.tamper(
        "INSERT INTO _sqlx_migrations SELECT 99, 'later', installed_on, success, checksum, execution_time
         FROM _sqlx_migrations WHERE version = 1",
    )
    .await;
    bed.store.close().await;
    for opened in [Store::open(&bed.at).await, Store::open_to_read(&bed.at).await] {
        let error = opened.unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, known: 6, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_database_of_something_else_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = file(folder.path());
    let Location::Sqlite(path) = &at else { unreachable!() };
    let options = sqlite(path, BUSY).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE other (x INTEGER)").execute(&pool).await.unwrap();
    pool.close().await;
    let error = Store::open_to_read(&at).await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn both_databases_have_the_same_tables() {
    let tables = |migrator: &Migrator| {
        let all: String = migrator.iter().map(|migration| migration.sql.as_str()).collect();
        let names = all.split("CREATE TABLE ").skip(1).map(|rest| {
            let name = rest.split(' ').next().unwrap();
            name.strip_prefix("new_").unwrap_or(name).to_owned()
        });
        names.collect::<BTreeSet<_>>()
    };
    assert_eq!(tables(&SQLITE), tables(&POSTGRES));
}
