//! A PostgreSQL server of a test's own, in a temporary folder, on a socket and no port; if its binaries are installed, as
//! `scripts/deps.sh test` does. The server refuses to run as root, so a test that does runs it as `nobody`.

use super::setup::Folder;
use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
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

pub struct Postgres {
    folder: Folder,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// `None`: it is not installed here.
    pub fn start() -> Option<Self> {
        let binaries = binaries()?;
        let folder = Folder::new().expect("a temporary folder");
        let user = rustix::process::geteuid().is_root().then(nobody);
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("the folder is ours");
        }
        let server = Self { folder, binaries, user };
        server.run("initdb", &["--auth=trust", "--username=spillway", "--no-sync", "-D", &server.path("data")]);
        let options = format!("-c listen_addresses='' -c fsync=off -k {}", server.folder.path().display());
        let (data, log) = (server.path("data"), server.path("log"));
        server.run("pg_ctl", &["start", "-w", "-t", "60", "-D", &data, "-l", &log, "-o", &options]);
        Some(server)
    }

    /// As `[ledger] url` takes it.
    pub fn url(&self) -> String {
        format!("postgres://spillway@{}/postgres", self.folder.path().display().to_string().replace('/', "%2F"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, name: &str, args: &[&str]) {
        let status = self.command(name).args(args).status().expect("an installed program starts");
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(status.success(), "{name} {args:?}: {status}\n{log}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.command("pg_ctl").args(["stop", "-m", "immediate", "-D", &self.path("data")]).status();
    }
}

fn nobody() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let line = users.lines().find(|line| line.starts_with("nobody:")).expect("a user nobody");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).filter_map(|id| id.parse().ok()).collect();
    (ids[0], ids[1])
}
