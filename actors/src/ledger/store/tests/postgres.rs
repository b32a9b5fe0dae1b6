//! A PostgreSQL server in a folder of its own, if its binaries are installed (`scripts/deps.sh test` does). It refuses to
//! run as root, so a test that does runs it as `nobody`.

use super::*;
use secrecy::SecretString;
use std::{
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where Debian puts them, newest first; else whatever is in PATH.
fn binaries() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let in_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    found.into_iter().rev().chain(in_path.unwrap_or_default()).find(|folder| folder.join("initdb").is_file())
}

struct Server {
    folder: TestFolder,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
}

impl Server {
    fn start(binaries: PathBuf) -> Self {
        let folder = TestFolder::new();
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let user = is_root.then(nobody);
        if let Some((uid, gid)) = user {
            chown(&folder.0, Some(uid), Some(gid)).unwrap();
        }
        let server = Self { folder, binaries, user };
        server.run("initdb", &["--auth=trust", "--username=spillway", "--no-sync", "-D", &server.data()]);
        // A socket in the folder and no port: nothing to collide with.
        let options = format!("-c listen_addresses='' -c fsync=off -k {}", server.folder.0.display());
        let log = format!("{}/log", server.folder.0.display());
        server.run("pg_ctl", &["start", "-w", "-t", "60", "-D", &server.data(), "-l", &log, "-o", &options]);
        server
    }

    fn data(&self) -> String {
        format!("{}/data", self.folder.0.display())
    }

    fn command(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(&self.folder.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, name: &str, args: &[&str]) {
        let status = self.command(name).args(args).status().expect(name);
        let log = std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default();
        assert!(status.success(), "{name} {args:?}: {status}\n{log}");
    }

    fn url(&self) -> SecretString {
        let host = self.folder.0.to_str().unwrap().replace('/', "%2F");
        SecretString::from(format!("postgres://spillway@{host}/postgres"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl").args(["stop", "-m", "immediate", "-D", &self.data()]).status();
    }
}

fn nobody() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("nobody:")).expect("there is a user nobody");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).filter_map(|id| id.parse().ok()).collect();
    (ids[0], ids[1])
}

#[expect(clippy::print_stdout, reason = "a test that does nothing should say so")]
async fn server() -> Option<Server> {
    let Some(binaries) = binaries() else {
        println!("PostgreSQL is not installed here: its store was not tested (scripts/deps.sh test installs it)");
        return None;
    };
    assert!(Path::new(&binaries).is_dir());
    Some(tokio::task::spawn_blocking(move || Server::start(binaries)).await.unwrap())
}

#[tokio::test]
async fn postgres_conforms_and_takes_one_gateway_at_a_time() {
    let Some(server) = server().await else { return };
    let store = SqlStore::postgres(&server.url(), Access::Write).await.unwrap();
    conforms(&store).await;
    let second = SqlStore::postgres(&server.url(), Access::Write).await.err().unwrap();
    assert!(matches!(second, StoreError::Held { .. }), "{second}");
    assert!(!second.to_string().contains("spillway@"), "no user in messages: {second}");
    store.close().await.unwrap();
    let third = SqlStore::postgres(&server.url(), Access::Write).await.unwrap();
    assert_eq!(third.attempts(0, 100).await.unwrap().len(), 1);
    // The server goes and comes back: the next batch makes a connection of its own.
    server.run("pg_ctl", &["restart", "-w", "-m", "immediate", "-D", &server.data()]);
    let batch = [attempt(8, 4, today(), "", "late", 5)];
    let first_try = third.apply(&batch).await;
    assert!(first_try.is_err(), "the old connection is dead");
    third.apply(&batch).await.unwrap();
    assert_eq!(third.attempts(4, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let url = SecretString::from("postgres://user:hunter2@127.0.0.1:1/ledger");
    let error = SqlStore::postgres(&url, Access::Write).await.err().unwrap().to_string();
    assert!(error.contains("postgres://127.0.0.1:1/ledger") && !error.contains("hunter2"), "{error}");
}
