//! Databases that are locked, full, read-only, or none.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::*;
use crate::store::database::Database;

on_both!(
    a_store_that_is_opened_to_read_sees_what_is_written_meanwhile_and_writes_nothing,
    running_totals_are_written_by_the_dozen_at_the_same_time,
);

/// Long enough to notice, short enough to wait for.
const SHORT: Duration = Duration::from_millis(50);

async fn a_store_that_is_opened_to_read_sees_what_is_written_meanwhile_and_writes_nothing(
    bed: Bed,
) {
    let reader = Store::open_to_read(&bed.at).await.unwrap();
    assert!(reader.open_periods().await.unwrap().is_empty());
    bed.store.begin_period(1).await.unwrap();
    assert_eq!(reader.open_periods().await.unwrap().len(), 1);
    let error = reader.begin_period(2).await.unwrap_err();
    assert!(error.to_string().contains("it can only be read"), "{error}");
    assert_eq!(bed.store.open_periods().await.unwrap().len(), 1);
}

async fn running_totals_are_written_by_the_dozen_at_the_same_time(bed: Bed) {
    let period = bed.store.begin_period(1).await.unwrap();
    let save = |name| {
        let store = bed.store.clone();
        async move {
            store.save_tallies(period, &one(&somebody(name), tally(1))).await.unwrap();
            let waiting = pending_in(period, &name.to_string(), 1);
            store.queue_checks(std::slice::from_ref(&waiting), 99).await.unwrap();
            store.save_verdict(&waiting, &verdict(1.0)).await.unwrap();
            store.refresh(1_000, 0.5).await.unwrap();
        }
    };
    let saving: Vec<_> = (0..24).map(|name| tokio::spawn(save(name))).collect();
    for saved in saving {
        saved.await.unwrap();
    }
    bed.store.end_period(period, 2, &BTreeMap::new()).await.unwrap();
    bed.store.refresh(1_000, 0.5).await.unwrap();
    let all = bed.stretches().await;
    assert_eq!(all.len(), 25);
    let judged = all.iter().find(|(id, _)| *id == alice()).unwrap();
    assert_eq!(judged.1[0].checked, 24);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "milk, bread, and many other things to buy ".repeat(50)).unwrap();
    let error = Store::open(&Location::Sqlite(path)).await.unwrap_err().to_string();
    assert!(error.contains("notes.txt") && error.contains("is no database"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_not_made_by_reading() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open_to_read(&file(folder.path())).await.unwrap_err().to_string();
    assert!(error.contains("evidence.sqlite"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_that_is_away_is_named_without_its_password() {
    let at = "postgres://me:hunter2@localhost/evidence?host=/nowhere".parse().unwrap();
    let error = Store::open(&at).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere") && error.contains("cannot be reached"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

/// Another program that writes the file.
async fn other(at: &Location) -> SqliteConnection {
    let Location::Sqlite(path) = at else { unreachable!() };
    SqliteConnection::connect_with(&sqlite(path, SHORT)).await.unwrap()
}

async fn tell(other: &mut SqliteConnection, statement: &'static str) {
    sqlx::query(statement).execute(other).await.unwrap();
}

#[tokio::test]
async fn a_locked_file_fails_what_writes_and_nothing_else_and_works_again_later() {
    let bed = Bed::sqlite().await;
    let store = Store::open_waiting(&bed.at, SHORT).await.unwrap();
    let period = store.begin_period(1).await.unwrap();
    let mut other = other(&bed.at).await;
    tell(&mut other, "BEGIN IMMEDIATE").await;
    for error in [
        store.begin_period(2).await.unwrap_err(),
        store.save_tallies(period, &one(&alice(), tally(1))).await.unwrap_err(),
        store.end_period(period, 2, &one(&alice(), tally(1))).await.unwrap_err(),
        store.queue_checks(&[pending("a", 1)], 9).await.unwrap_err(),
        store.refresh(10, 0.5).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("another program has locked it"), "{error}");
    }
    assert_eq!(store.open_periods().await.unwrap().len(), 1);
    tell(&mut other, "ROLLBACK").await;
    store.end_period(period, 2, &one(&alice(), tally(1))).await.unwrap();

    store.close().await;
    bed.store.close().await;
    tell(&mut other, "PRAGMA locking_mode = EXCLUSIVE").await;
    tell(&mut other, "BEGIN EXCLUSIVE").await;
    let error = Store::open_waiting(&bed.at, SHORT).await.unwrap_err();
    assert!(error.to_string().contains("another program has locked it"), "{error}");
}

#[tokio::test]
async fn a_lock_that_is_let_go_in_time_is_waited_for() {
    let bed = Bed::sqlite().await;
    let mut other = other(&bed.at).await;
    tell(&mut other, "BEGIN IMMEDIATE").await;
    let store = bed.store.clone();
    let waits = tokio::spawn(async move { store.begin_period(1).await });
    tokio::task::yield_now().await;
    assert!(!waits.is_finished());
    tell(&mut other, "ROLLBACK").await;
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_lost_that_was_there() {
    let bed = Bed::sqlite().await;
    let period = bed.store.begin_period(1).await.unwrap();
    bed.store.save_tallies(period, &one(&alice(), tally(1))).await.unwrap();
    let Database::Sqlite(pool) = &bed.store.database else { unreachable!() };
    let limit = async |pages: &'static str| {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(pool.acquire().await.unwrap());
        }
        for connection in &mut connections {
            sqlx::query(pages).execute(&mut **connection).await.unwrap();
        }
    };
    limit("PRAGMA max_page_count = 1").await;
    let many: BTreeMap<_, _> = (1..=255).map(|name| (somebody(name), tally(2))).collect();
    let error = bed.store.save_tallies(period, &many).await.unwrap_err();
    assert!(error.to_string().contains("its disk is full: free some space"), "{error}");
    assert_eq!(bed.store.open_periods().await.unwrap()[&period], one(&alice(), tally(1)));
    limit("PRAGMA max_page_count = 1000000").await;
    bed.store.save_tallies(period, &many).await.unwrap();
    assert_eq!(bed.store.open_periods().await.unwrap()[&period].len(), 256);
}

/// Names the file to the test below when it runs as somebody else.
const READ_ONLY: &str = "TOUCHSTONE_TEST_READ_ONLY";

#[tokio::test]
async fn a_file_that_cannot_be_written_is_refused_and_can_be_read() {
    let bed = Bed::sqlite().await;
    bed.store.begin_period(1).await.unwrap();
    bed.store.close().await;
    let Location::Sqlite(path) = &bed.at else { unreachable!() };
    let folder = path.parent().unwrap();
    let rights = |mode| Permissions::from_mode(mode);
    std::fs::set_permissions(path, rights(0o444)).unwrap();
    std::fs::set_permissions(folder, rights(0o555)).unwrap();
    if folder.metadata().unwrap().uid() != 0 {
        look_at(&bed.at).await;
    } else if let Some((uid, gid)) = server::nobody() {
        // Root may write everything: the rest is done by a process of somebody who may not. It is started by its open
        // file, as it may lie where only root can go.
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let done = Command::new("setpriv")
            .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()])
            .args(["--", "/proc/self/fd/0", "--exact", "--ignored"])
            .arg("store::tests::faults::by_somebody_who_may_only_read")
            .env(READ_ONLY, path)
            .current_dir("/")
            .stdin(program)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
    }
    std::fs::set_permissions(folder, rights(0o755)).unwrap();
}

#[tokio::test]
#[ignore = "run by a_file_that_cannot_be_written_is_refused_and_can_be_read"]
async fn by_somebody_who_may_only_read() {
    let Some(path) = std::env::var_os(READ_ONLY) else { return };
    look_at(&Location::Sqlite(path.into())).await;
}

async fn look_at(at: &Location) {
    let error = Store::open_waiting(at, SHORT).await.unwrap_err().to_string();
    assert!(error.contains("evidence.sqlite") && error.contains("write"), "{error}");
    let reader = Store::open_to_read(at).await.unwrap();
    assert_eq!(reader.open_periods().await.unwrap().len(), 1);
    let error = reader.begin_period(1).await.unwrap_err().to_string();
    assert!(error.contains("it can only be read"), "{error}");
}
