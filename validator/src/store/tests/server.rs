//! A PostgreSQL server for the tests: one per test program, in a temporary folder, reached by a socket in it only.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::store::Location;

/// Runs the server until its own input ends, that is until the program that started it is gone, in whichever way. Then
/// nothing is left of it.
const SERVE: &str = r#"
    trap '' INT TERM HUP
    "$1/postgres" -D "$2/data" -k "$2" -h '' -F -c synchronous_commit=off -c full_page_writes=off \
        -c max_connections=300 -c shared_buffers=16MB -c logging_collector=off </dev/null &
    server=$!
    cat >/dev/null
    kill -INT $server
    wait $server
    rm -rf "$2"
"#;

#[derive(Debug)]
struct Server {
    folder: PathBuf,
    /// Its input stays open as long as this program runs.
    _child: Child,
}

/// A schema of its own on the server. `None` where there is no server; said, past what captures the tests' output.
pub(super) async fn fresh() -> Option<Location> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = match SERVER.get_or_init(start) {
        Ok(server) => server,
        Err(why) => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            writeln!(std::io::stderr(), "{test} SKIPPED: {why}").unwrap();
            return None;
        }
    };
    let base = format!("postgres://touchstone@localhost/postgres?host={}", server.folder.display());
    let schema = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&base).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    Some(format!("{base}&options[search_path]={schema}").parse().unwrap())
}

fn start() -> Result<Server, String> {
    let binaries = binaries().ok_or(
        "no PostgreSQL binaries (initdb, postgres) in PATH or /usr/lib/postgresql/*/bin".to_owned(),
    )?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let user = user_for(folder.path())?;
    let as_user = |program: &Path| match &user {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([
                &format!("--reuid={uid}"),
                &format!("--regid={gid}"),
                "--clear-groups",
                "--",
            ]);
            command.arg(program);
            command
        }
    };
    let made = as_user(&binaries.join("initdb"))
        .args(["-U", "touchstone", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8", "-D"])
        .arg(folder.path().join("data"))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("initdb of PostgreSQL cannot be run: {error}"))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        return Err(format!("initdb of PostgreSQL failed: {said}"));
    }
    // From here on the folder is the server's to delete.
    let folder = folder.keep();
    let mut child = as_user(Path::new("sh"))
        .args(["-c", SERVE, "sh"])
        .args([&binaries, &folder])
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("PostgreSQL cannot be started: {error}"))?;
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !said.contains("ready to accept connections") {
        match lines.next() {
            Some(Ok(line)) => said.push_str(&(line + "\n")),
            Some(Err(_)) | None => return Err(format!("PostgreSQL does not start: {said}")),
        }
    }
    // A server whose words nobody takes stops in the end.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Ok(Server { folder, _child: child })
}

fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has = |folder: &Path, name| folder.join(name).is_file();
    folders.into_iter().find(|folder| has(folder, "initdb") && has(folder, "postgres"))
}

/// PostgreSQL refuses to run as root: whom to run it as instead, the owner of the folder from now on.
fn user_for(folder: &Path) -> Result<Option<(u32, u32)>, String> {
    let me = folder.metadata().map_err(|error| error.to_string())?.uid();
    if me != 0 {
        return Ok(None);
    }
    let (uid, gid) = nobody().ok_or("there is no user `nobody` to run PostgreSQL as")?;
    std::os::unix::fs::chown(folder, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
    Ok(Some((uid, gid)))
}

/// The user and the group that may do nothing.
pub(super) fn nobody() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("nobody:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
